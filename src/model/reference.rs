//! Image references in Docker's grammar: parsed and normalised at the door, so that nothing below ever sees the
//! short forms people type.
//!
//! ```text
//! busybox              -> docker.io/library/busybox:latest
//! foo/bar:v1           -> docker.io/foo/bar:v1
//! host:5000/a@sha256:… -> unchanged
//! name:tag@sha256:…    -> name@sha256:…   (a tag beside a digest says nothing and is dropped)
//! ```

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use super::error::{Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const DEFAULT_ENDPOINT: &str = "registry-1.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REFERENCE: usize = 4096;
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;
const MIN_ID_PREFIX: usize = 3;
const ID_LEN: usize = 64;

/// A normalised image reference: domain, repository, and exactly one of tag and digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    repository: String,
    version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// The registry's name as references write it, e.g. `docker.io` or `host:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path below the domain, e.g. `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where the reference names one.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, where the reference names one.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// `domain/repository`, without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.repository)
    }

    /// `name:tag`, where the reference names a tag: the record that a pull by tag writes.
    pub fn tag_ref(&self) -> Option<String> {
        self.tag().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `name@target`: the record and repo digest of what the reference resolved to.
    pub fn digest_ref(&self, target: &Digest) -> String {
        format!("{}@{target}", self.name())
    }

    /// What a manifest URL ends with: the tag or the digest.
    pub fn version(&self) -> &str {
        match &self.version {
            Version::Tag(tag) => tag,
            Version::Digest(digest) => digest.as_str(),
        }
    }

    /// The `host[:port]` that serves the domain's registry API.
    pub fn endpoint(&self) -> &str {
        if self.domain == DEFAULT_DOMAIN {
            DEFAULT_ENDPOINT
        } else {
            &self.domain
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.version {
            Version::Tag(_) => ':',
            Version::Digest(_) => '@',
        };
        write!(
            f,
            "{}/{}{separator}{}",
            self.domain,
            self.repository,
            self.version()
        )
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Parses and normalises `text`.
    ///
    /// # Errors
    /// `InvalidArgument`, quoting the text escaped and cut.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::invalid(format!("image reference {}: {why}", quoted(text)));
        if text.is_empty() {
            return Err(bad("it is empty; name an image such as busybox:1.36"));
        }
        if text.len() > MAX_REFERENCE {
            return Err(bad("it is longer than 4096 bytes"));
        }
        if is_hex(text, ID_LEN) {
            return Err(bad("64 hex digits are an image id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest
                    .parse::<Digest>()
                    .map_err(|error| bad("its digest is malformed").caused_by(error))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (domain, remainder) = split_domain(rest);
        let (path, tag) = split_tag(remainder);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad(
                "its tag must be 1 to 128 of letters, digits, '_', '.', '-', and not begin with '.' or '-'",
            ));
        }
        if !is_domain(domain) {
            return Err(bad("its registry host is malformed"));
        }
        let repository = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("{OFFICIAL_PREFIX}{path}")
        } else {
            path.to_owned()
        };
        if repository.len() > MAX_REPOSITORY {
            return Err(bad("its repository is longer than 255 characters"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("its repository must be lower-case"));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(bad(
                "its repository must be '/'-joined words of a-z and 0-9, with single '.', '_', '__' or dashes inside",
            ));
        }
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Self {
            domain: domain.to_owned(),
            repository,
            version,
        })
    }
}

/// What a string that names a local image may mean, in the order in which it is to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalName {
    /// A full digest: an image id and nothing else.
    Id(Digest),
    /// A reference, an id prefix, or both; the reference goes first, because `cafe` may be a repository.
    Name {
        /// The normalised reference, where the text is one.
        reference: Option<Reference>,
        /// At least three hex digits that an image id may begin with.
        id_prefix: Option<String>,
    },
}

impl LocalName {
    /// Reads what `text` may mean. A text that can name nothing gives a [`LocalName::Name`] without either, which
    /// finds no image.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty text and for one above 4096 bytes.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid(
                "image reference: it is empty; give a name, a digest or an image id",
            ));
        }
        if text.len() > MAX_REFERENCE {
            return Err(Error::invalid(format!(
                "image reference {}: it is longer than 4096 bytes",
                quoted(text)
            )));
        }
        if let Ok(digest) = text.parse() {
            return Ok(Self::Id(digest));
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_prefix = (MIN_ID_PREFIX..=ID_LEN).contains(&hex.len()) && is_hex(hex, hex.len());
        Ok(Self::Name {
            reference: text.parse().ok(),
            id_prefix: is_prefix.then(|| hex.to_owned()),
        })
    }
}

/// The text with everything unprintable escaped, cut to what an error message bears.
fn quoted(text: &str) -> String {
    const SHOWN: usize = 160;
    if text.len() <= SHOWN {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head:?}… ({} bytes)", text.len())
}

/// Cuts off the first component where it is a domain; fills in the default domain otherwise.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn looks_like_domain(component: &str) -> bool {
    component == "localhost"
        || component
            .bytes()
            .any(|b| b == b'.' || b == b':' || b.is_ascii_uppercase())
}

fn split_tag(remainder: &str) -> (&str, Option<&str>) {
    match remainder.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (remainder, None),
    }
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && (is_bracketed_ipv6(host) || host.split('.').all(is_domain_label))
}

fn is_bracketed_ipv6(host: &str) -> bool {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| {
            !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
        })
}

fn is_domain_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators_fit = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|run| !run.is_empty())
        .all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'));
    separators_fit
        && component.bytes().next().is_some_and(is_word)
        && component.bytes().next_back().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn hex64() -> String {
        "0123456789abcdef".repeat(4)
    }

    #[rstest]
    #[case("busybox", "docker.io/library/busybox:latest")]
    #[case("foo/bar:v1", "docker.io/foo/bar:v1")]
    #[case("docker.io/busybox", "docker.io/library/busybox:latest")]
    #[case("index.docker.io/busybox:1", "docker.io/library/busybox:1")]
    #[case("host.tld/a/b", "host.tld/a/b:latest")]
    #[case("host:5000/a", "host:5000/a:latest")]
    #[case("host:5000", "docker.io/library/host:5000")]
    #[case("localhost/a", "localhost/a:latest")]
    #[case("[::1]:5000/a", "[::1]:5000/a:latest")]
    #[case("[fe80::1]/a:b", "[fe80::1]/a:b")]
    #[case("Host/a", "Host/a:latest")]
    #[case("a--b__c/e_f.g", "docker.io/a--b__c/e_f.g:latest")]
    #[case("169.254.169.254/a:b", "169.254.169.254/a:b")]
    fn short_forms_are_normalised(#[case] text: &str, #[case] normal: &str) {
        let reference: Reference = text.parse().unwrap();

        assert_eq!(reference.to_string(), normal);
        assert_eq!(reference.tag_ref().as_deref(), Some(normal));
    }

    #[test]
    fn a_tag_beside_a_digest_is_dropped() {
        let digest = format!("sha256:{}", hex64());
        let reference: Reference = format!("foo:v1@{digest}").parse().unwrap();

        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/foo@{digest}")
        );
        assert_eq!(reference.tag(), None);
        assert_eq!(reference.tag_ref(), None);
        assert_eq!(
            reference.digest_ref(&digest.parse().unwrap()),
            reference.to_string()
        );
    }

    #[rstest]
    #[case("")]
    #[case("UPPER")]
    #[case("foo/Bar")]
    #[case("a:")]
    #[case("a:.x")]
    #[case("a:b:c")]
    #[case("a@")]
    #[case("a@md5:0123456789abcdef0123456789abcdef")]
    #[case("a@sha256:../../x")]
    #[case("a/../b")]
    #[case("a//b")]
    #[case("/a")]
    #[case("a/")]
    #[case("-a")]
    #[case("a-")]
    #[case("a___b")]
    #[case("a..b/c")]
    // The dot makes the first component a registry host, and no host has an underscore.
    #[case("a_a.0/a")]
    #[case("host:port/a")]
    #[case("-host.tld/a")]
    #[case("host..tld/a")]
    #[case("[::1/a")]
    #[case("[]:1/a")]
    #[case("a\nb")]
    #[case("a b")]
    #[case("https://host.tld/a")]
    #[case("ünicode")]
    fn what_breaks_the_grammar_is_refused(#[case] text: &str) {
        assert!(text.parse::<Reference>().is_err(), "{text:?}");
    }

    #[test]
    fn a_bare_64_hex_string_is_no_name() {
        assert!(hex64().parse::<Reference>().is_err());
    }

    #[rstest]
    #[case(format!("h.tld/{}", "a".repeat(255)), true)]
    #[case(format!("h.tld/{}", "a".repeat(256)), false)]
    #[case(format!("a:{}", "t".repeat(128)), true)]
    #[case(format!("a:{}", "t".repeat(129)), false)]
    #[case("a".repeat(4097), false)]
    fn the_limits_hold(#[case] text: String, #[case] ok: bool) {
        assert_eq!(text.parse::<Reference>().is_ok(), ok);
    }

    #[test]
    fn an_error_quotes_the_text_escaped_and_cut() {
        let error = "a\n\u{1b}[31m".parse::<Reference>().unwrap_err().chain();
        assert!(
            !error.contains('\n') && !error.contains('\u{1b}'),
            "{error}"
        );

        let long = format!("-{}", "é".repeat(2000));
        let error = long.parse::<Reference>().unwrap_err().chain();
        assert!(error.len() < 600, "{} bytes", error.len());
    }

    #[test]
    fn only_the_default_domain_has_another_endpoint() {
        let default: Reference = "busybox".parse().unwrap();
        let other: Reference = "host:5000/a".parse().unwrap();

        assert_eq!(default.endpoint(), "registry-1.docker.io");
        assert_eq!(other.endpoint(), "host:5000");
    }

    #[test]
    fn a_local_name_is_an_id_or_a_reference_before_a_prefix() {
        let full = format!("sha256:{}", hex64());
        assert_eq!(
            LocalName::parse(&full).unwrap(),
            LocalName::Id(full.parse().unwrap())
        );

        let LocalName::Name {
            reference,
            id_prefix,
        } = LocalName::parse("cafe").unwrap()
        else {
            panic!("a short text is no id");
        };
        assert_eq!(
            reference.unwrap().to_string(),
            "docker.io/library/cafe:latest"
        );
        assert_eq!(id_prefix.as_deref(), Some("cafe"));
    }

    #[rstest]
    #[case("a", None)]
    #[case("ab", None)]
    #[case("abc", Some("abc"))]
    #[case("sha256:abc", Some("abc"))]
    #[case("sha256:", None)]
    #[case("xyz", None)]
    #[case("ABC", None)]
    fn an_id_prefix_has_three_hex_digits_or_more(#[case] text: &str, #[case] want: Option<&str>) {
        let LocalName::Name { id_prefix, .. } = LocalName::parse(text).unwrap() else {
            panic!("not a full digest");
        };
        assert_eq!(id_prefix.as_deref(), want);
    }

    #[test]
    fn a_local_name_is_never_empty() {
        assert!(LocalName::parse("").is_err());
        assert_eq!(
            LocalName::parse("//").unwrap(),
            LocalName::Name {
                reference: None,
                id_prefix: None
            }
        );
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_parses_is_a_fixed_point(text in ".{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let normal = reference.to_string();
                prop_assert_eq!(&normal.parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn legal_names_parse(
            domain in "([a-z]{1,5}\\.[a-z]{2,3}(:[0-9]{1,4})?/)?",
            path in "[a-z0-9]{1,8}((_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,4}){0,2}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,12})?",
        ) {
            let text = format!("{domain}{path}{tag}");
            prop_assert!(text.parse::<Reference>().is_ok(), "{}", text);
        }
    }
}
