//! Reads the version strings that containerd's builds carry: `1.6.20~ds1`, `v2.3.4`, `2.0.0-rc.1+azure`.

use crate::containerd::ServerVersion;
use crate::model::{Error, Result};

/// Major and minor number of `text`, which packagers prefix and suffix as they like.
pub(super) fn parse(text: &str) -> Result<ServerVersion> {
    let digits = text.trim().trim_start_matches(['v', 'V']);
    let mut parts = digits.split(|c: char| !c.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) => Ok(ServerVersion {
            text: text.to_owned(),
            major,
            minor,
        }),
        _ => Err(Error::internal(format!(
            "containerd says its version is {text:?}, which has no major and minor number"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packagers_versions_yield_their_numbers() {
        for (text, major, minor) in [
            ("1.6.20~ds1", 1, 6),
            ("v2.3.4", 2, 3),
            ("1.7.27-0ubuntu1~22.04", 1, 7),
            ("2.0.0-rc.1+azure", 2, 0),
            (" 2.4 ", 2, 4),
            ("1.6.20~ds1 1.6.20~ds1-1+deb12u2", 1, 6),
        ] {
            let version = parse(text).unwrap();
            assert_eq!((version.major, version.minor), (major, minor), "{text}");
        }
    }

    #[test]
    fn a_version_without_numbers_is_an_error() {
        for text in ["", "main", "v2", "x.2", "<unknown>", "99999999999.1"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
