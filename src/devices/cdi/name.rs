//! Names of CDI devices: `vendor/class=name`.

use std::fmt;

/// A fully qualified device name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Qualified<'a> {
    pub(crate) vendor: &'a str,
    pub(crate) class: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Qualified<'a> {
    /// Reads `vendor/class=name`; `None` where the text is no such name.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (kind, name) = text.split_once('=')?;
        let (vendor, class) = parse_kind(kind)?;
        is_device_name(name).then_some(Self {
            vendor,
            class,
            name,
        })
    }
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.vendor, self.class, self.name)
    }
}

/// Takes `vendor/class` apart; `None` where the text is no such pair.
pub(super) fn parse_kind(text: &str) -> Option<(&str, &str)> {
    let (vendor, class) = text.split_once('/')?;
    (is_part(vendor) && is_part(class)).then_some((vendor, class))
}

/// A vendor or class: begins with a letter, ends with a letter or digit.
fn is_part(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.bytes().all(is_inner)
}

/// The name of one device of a kind: begins and ends with a letter or digit.
pub(super) fn is_device_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.bytes().all(|byte| is_inner(byte) || byte == b':')
}

fn is_inner(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("vendor.com/class=dev", true)]
    #[case::shortest("v/c=d", true)]
    #[case::inner("v-e_n.d0r/c.l-a_s5=0:a.b-c_d", true)]
    #[case::digit_first_device("vendor.com/gpu=0", true)]
    #[case::digit_first_vendor("0vendor/class=dev", false)]
    #[case::digit_first_class("vendor/0class=dev", false)]
    #[case::vendor_ends_badly("vendor-/class=dev", false)]
    #[case::device_ends_badly("vendor/class=dev:", false)]
    #[case::colon_in_class("vendor/cl:ass=dev", false)]
    #[case::two_slashes("vendor/class/more=dev", false)]
    #[case::two_equals("vendor/class=dev=more", false)]
    #[case::no_device("vendor/class=", false)]
    #[case::no_class("vendor/=dev", false)]
    #[case::no_vendor("/class=dev", false)]
    #[case::no_slash("class=dev", false)]
    #[case::space("vendor/class= dev", false)]
    #[case::other_letters("vendör/class=dev", false)]
    #[case::empty("", false)]
    fn names_are_told_from_what_is_none(#[case] text: &str, #[case] is_name: bool) {
        assert_eq!(Qualified::parse(text).is_some(), is_name);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_written_the_same(text in ".{0,40}") {
            if let Some(name) = Qualified::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn every_name_of_the_grammar_is_read(
            vendor in "[a-zA-Z]([a-zA-Z0-9_.-]{0,10}[a-zA-Z0-9])?",
            class in "[a-zA-Z]([a-zA-Z0-9_.-]{0,10}[a-zA-Z0-9])?",
            name in "[a-zA-Z0-9]([a-zA-Z0-9_.:-]{0,10}[a-zA-Z0-9])?",
        ) {
            let text = format!("{vendor}/{class}={name}");
            let wanted = Qualified { vendor: &vendor, class: &class, name: &name };
            prop_assert_eq!(Qualified::parse(&text), Some(wanted));
        }
    }
}
