//! What holds for any challenge of a registry and any `hosts.toml` (see [`crate::fuzzing`]).

use super::{challenge, hosts};

/// The lines of `WWW-Authenticate` headers: read within their limits or refused.
pub(crate) fn challenge(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for found in challenge::parse(text.split('\n')).unwrap_or_default() {
        assert!(!found.scheme.is_empty());
        assert_eq!(found.scheme, found.scheme.to_ascii_lowercase());
    }
}

/// A file is read or refused.
pub(crate) fn hosts_toml(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(hosts::toml_file::parse(text));
    }
}
