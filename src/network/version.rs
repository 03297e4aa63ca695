//! Versions of the plugin interface.

use std::fmt;
use std::str::FromStr;

use crate::model::{Error, Result};

/// A version such as `1.0.0`; the empty text, which old configurations leave, counts as `0.1.0`.
#[derive(Clone, Debug, Default)]
pub(super) struct CniVersion {
    text: String,
    parts: Option<[u16; 3]>,
}

impl CniVersion {
    /// The newest one that this room speaks.
    pub(super) fn newest() -> Self {
        Self::known("1.1.0", [1, 1, 0])
    }

    /// Whether it is `parts` or later.
    pub(super) fn is_at_least(&self, parts: [u16; 3]) -> bool {
        self.number() >= parts
    }

    /// As written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether results in this version can be read.
    pub(super) fn is_spoken(&self) -> bool {
        matches!(
            self.number(),
            [0, 1, 0] | [0, 2, 0] | [0, 3, 0 | 1] | [0, 4, 0] | [1, 0 | 1, 0]
        )
    }

    fn known(text: &str, parts: [u16; 3]) -> Self {
        Self {
            text: text.to_owned(),
            parts: Some(parts),
        }
    }

    fn number(&self) -> [u16; 3] {
        self.parts.unwrap_or([0, 1, 0])
    }
}

impl FromStr for CniVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let mut numbers = text.split('.').map(str::parse::<u16>);
        match [
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next(),
        ] {
            [Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None] => {
                Ok(Self::known(text, [major, minor, patch]))
            }
            _ => {
                let shown: String = text.chars().take(40).collect();
                Err(Error::invalid(format!(
                    "{shown:?} is not a version such as 1.0.0"
                )))
            }
        }
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for CniVersion {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

impl Eq for CniVersion {}

impl PartialOrd for CniVersion {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CniVersion {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.number().cmp(&other.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_the_empty_one_is_the_oldest() {
        let version = |text: &str| text.parse::<CniVersion>().unwrap();

        assert!(version("0.10.0") > version("0.4.0"));
        assert_eq!(version(""), version("0.1.0"));
        assert_eq!(version("").as_str(), "");
        assert!(version("1.0.0").is_at_least([0, 4, 0]));
        assert!(version("1.1.0").is_spoken() && !version("1.2.0").is_spoken());
        for bad in ["1", "1.0", "1.0.0.0", "v1.0.0", "1.0.x", "99999.0.0"] {
            assert!(bad.parse::<CniVersion>().is_err(), "{bad}");
        }
    }
}
