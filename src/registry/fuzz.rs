//! What holds for any challenge of a registry and any `hosts.toml` (see [`crate::fuzzing`]).

use super::{challenge, hosts};

/// The lines of `WWW-Authenticate` headers: read within their limits or refused.
pub(crate) fn challenge(text: &str) {
    for found in challenge::parse(text.split('\n')).unwrap_or_default() {
        assert!(!found.scheme.is_empty());
        assert_eq!(found.scheme, found.scheme.to_ascii_lowercase());
    }
}

/// A file is read or refused.
pub(crate) fn hosts_toml(text: &str) {
    drop(hosts::toml_file::parse(text));
}
