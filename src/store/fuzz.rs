//! What holds for any file where a record should be (see [`crate::fuzzing`]).

use super::records::{decode, encode};

/// A record is read or refused; what was read is written so that it reads the same.
pub(crate) fn record(data: &[u8]) {
    let what = || "record".to_owned();
    let Ok(value) = decode::<serde_json::Value>(data, &what) else {
        return;
    };
    let written = encode(&value).unwrap_or_default();
    assert_eq!(
        decode::<serde_json::Value>(&written, &what).ok(),
        Some(value)
    );
}
