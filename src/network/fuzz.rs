//! What holds for any network configuration and any plugin's answer (see [`crate::fuzzing`]).

use super::version::CniVersion;
use super::{conflist, result};

/// A list of plugins is read or refused.
pub(crate) fn list(text: &str) {
    drop(conflist::parse(text));
}

/// A result is read or refused; what was read is kept as it came, and reads the same from the cache.
pub(crate) fn result(data: &[u8]) {
    if let Ok((kept, read)) = result::parse(data, &CniVersion::newest()) {
        assert_eq!(result::read(&kept).ok(), Some(read));
    }
}
