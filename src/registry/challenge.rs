//! `WWW-Authenticate` (RFC 9110, section 11.6.1): what a registry asks for, read from hostile bytes within limits.

use std::collections::BTreeMap;

use crate::model::{Error, Kind, Result};

const MAX_BYTES: usize = 8 * 1024;
const MAX_CHALLENGES: usize = 8;

/// One challenge: a scheme and its parameters, both in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    pub(super) params: BTreeMap<String, String>,
}

impl Challenge {
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }
}

/// Reads all challenges of all header lines, in order.
///
/// # Errors
/// `Unauthenticated` above 8 KiB or 8 challenges. Malformed parts end the line they are in, not the whole.
pub(super) fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Challenge>> {
    let mut total = 0_usize;
    let mut found = Vec::new();
    for line in lines {
        total = total.saturating_add(line.len());
        if total > MAX_BYTES {
            return Err(Error::new(
                Kind::Unauthenticated,
                "WWW-Authenticate header: larger than 8 KiB",
            ));
        }
        parse_line(line, &mut found);
        if found.len() > MAX_CHALLENGES {
            return Err(Error::new(
                Kind::Unauthenticated,
                "WWW-Authenticate header: more than 8 challenges",
            ));
        }
    }
    Ok(found)
}

/// A list element is either `scheme`, `scheme name=value` or `name=value`; the last belongs to the scheme before it.
fn parse_line(line: &str, found: &mut Vec<Challenge>) {
    let before = found.len();
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, after)) = token(rest) else {
            return;
        };
        let next = after.trim_start_matches([' ', '\t']);
        if let Some(value) = next.strip_prefix('=') {
            let Some((value, after)) = parameter_value(value.trim_start_matches([' ', '\t']))
            else {
                return;
            };
            // A parameter before any scheme of this line belongs to nothing.
            if found.len() > before
                && let Some(challenge) = found.last_mut()
            {
                challenge
                    .params
                    .entry(word.to_ascii_lowercase())
                    .or_insert(value);
            }
            rest = after;
        } else {
            found.push(Challenge {
                scheme: word.to_ascii_lowercase(),
                params: BTreeMap::new(),
            });
            rest = after;
        }
        if found.len() > MAX_CHALLENGES {
            return;
        }
    }
}

fn token(text: &str) -> Option<(&str, &str)> {
    let end = text
        .bytes()
        .position(|b| !(b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b)))
        .unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        return token(text).map(|(value, rest)| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return quoted.get(at.saturating_add(1)..).map(|rest| (value, rest)),
            '\\' => value.push(chars.next()?.1),
            c if c.is_control() => return None,
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn several_challenges_in_one_line_keep_their_parameters() {
        let line = r#"Bearer realm="https://auth/t?x=1,2",service="reg", scope="repository:a:pull,push" , Basic realm=plain"#;
        let found = parse([line]).unwrap();

        assert_eq!(found.len(), 2);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].param("realm"), Some("https://auth/t?x=1,2"));
        assert_eq!(found[0].param("scope"), Some("repository:a:pull,push"));
        assert_eq!(found[1].scheme, "basic");
        assert_eq!(found[1].param("realm"), Some("plain"));
    }

    #[test]
    fn escapes_in_quotes_are_undone_and_broken_quotes_dropped() {
        let found = parse([r#"Basic realm="a\"b""#, r#"Bearer realm="open"#]).unwrap();

        assert_eq!(found[0].param("realm"), Some("a\"b"));
        assert_eq!(found[1].param("realm"), None);
    }

    #[test]
    fn limits_hold() {
        let at = "A ".repeat(8);
        assert_eq!(parse([at.as_str()]).unwrap().len(), 8);
        assert!(parse(["A ".repeat(9).as_str()]).is_err());
        let long = "a".repeat(MAX_BYTES);
        assert!(parse([long.as_str()]).is_ok());
        assert!(parse([long.as_str(), "a"]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(line in "\\PC{0,200}") {
            let parsed = parse([line.as_str()]);
            prop_assert!(parsed.is_ok() || parsed.is_err());
        }
    }
}
