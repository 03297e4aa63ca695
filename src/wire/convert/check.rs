//! The limits on strings, lists and numbers from a request, and the checks that hold them.

use std::collections::BTreeMap;

use crate::model::{Error, Result};

/// Pod name, namespace and container name.
pub(super) const MAX_NAME: usize = 253;
/// Pod uid.
pub(super) const MAX_UID: usize = 128;
/// Longest path that the kernel takes, without its NUL.
pub(super) const MAX_PATH: usize = 4095;
/// Key of a label or annotation: a DNS prefix, a slash and a name.
pub(super) const MAX_KEY: usize = 317;
/// A label's key and value together, as containerd stores them.
pub(super) const MAX_LABEL: usize = 4096;
/// All labels of an object.
pub(super) const MAX_LABELS: usize = 64 << 10;
/// All annotations of an object.
pub(super) const MAX_ANNOTATIONS: usize = 256 << 10;
/// One argument or environment entry with its NUL (the kernel's `MAX_ARG_STRLEN`).
pub(super) const MAX_ARG: usize = 128 << 10;
/// All arguments, or the whole environment.
pub(super) const MAX_ARGS: usize = 1 << 20;
/// Entries of an environment.
pub(super) const MAX_ENV_ENTRIES: usize = 10_000;
/// Image references.
pub(super) const MAX_REFERENCE: usize = 4096;
/// Largest user or group id.
pub(super) const MAX_ID: i64 = i32::MAX as i64;
/// Supplemental groups (the kernel's `NGROUPS_MAX`).
pub(super) const MAX_GROUPS: usize = 65_536;
/// Mounts, masked paths, published ports.
pub(super) const MAX_LIST: usize = 4096;

const SHOWN: usize = 80;

/// A caller's text for an error message: escaped, and cut where it is long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// `field` is refused because it should be `want`.
pub(super) fn refuse<T>(field: &str, want: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(format!("{field}: want {want}")))
}

/// At most `limit` bytes.
pub(super) fn size(field: &str, bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    refuse(field, format_args!("at most {limit} bytes, got {bytes}"))
}

/// At most `limit` entries.
pub(super) fn count(field: &str, entries: usize, limit: usize) -> Result<()> {
    if entries <= limit {
        return Ok(());
    }
    refuse(
        field,
        format_args!("at most {limit} entries, got {entries}"),
    )
}

/// No control characters, which would break the line-based formats that the text ends up in.
pub(super) fn plain(field: &str, text: &str) -> Result<()> {
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        return refuse(
            field,
            format_args!("no control characters, got {}", shown(text)),
        );
    }
    Ok(())
}

/// No NUL, which ends a string for the kernel.
pub(super) fn no_nul(field: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return refuse(field, format_args!("no NUL byte, got {}", shown(text)));
    }
    Ok(())
}

/// A name that is safe in paths, CNI arguments and log lines.
pub(super) fn name(field: &str, text: &str, limit: usize) -> Result<()> {
    size(field, text.len(), limit)?;
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.is_empty() || !text.bytes().all(safe) || text.starts_with(['-', '.']) {
        return refuse(
            field,
            format_args!(
                "letters, digits, '.', '_' and '-', not led by '-' or '.', got {}",
                shown(text)
            ),
        );
    }
    Ok(())
}

/// An absolute path.
pub(super) fn absolute(field: &str, path: &str) -> Result<()> {
    size(field, path.len(), MAX_PATH)?;
    no_nul(field, path)?;
    if !path.starts_with('/') {
        return refuse(field, format_args!("an absolute path, got {}", shown(path)));
    }
    Ok(())
}

/// An absolute path, or nothing.
pub(super) fn absolute_or_empty(field: &str, path: &str) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    absolute(field, path)
}

/// No component of the path climbs out of where it starts.
pub(super) fn no_parent(field: &str, path: &str) -> Result<()> {
    if path.split('/').any(|part| part == "..") {
        return refuse(
            field,
            format_args!("a path without \"..\", got {}", shown(path)),
        );
    }
    Ok(())
}

/// A path below some directory, or nothing.
pub(super) fn relative_or_empty(field: &str, path: &str) -> Result<()> {
    size(field, path.len(), MAX_PATH)?;
    plain(field, path)?;
    no_parent(field, path)?;
    if path.starts_with('/') {
        return refuse(field, format_args!("a relative path, got {}", shown(path)));
    }
    Ok(())
}

/// Labels: few enough, and each small enough for containerd's store.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<()> {
    let mut total = 0_usize;
    for (key, value) in labels {
        key_size("labels", key)?;
        let bytes = key.len().saturating_add(value.len());
        if bytes > MAX_LABEL {
            return size(&format!("labels[{}]", shown(key)), bytes, MAX_LABEL);
        }
        total = total.saturating_add(bytes);
    }
    size("labels", total, MAX_LABELS)
}

/// Annotations: not too many bytes of them.
pub(super) fn annotations(annotations: &BTreeMap<String, String>) -> Result<()> {
    let mut total = 0_usize;
    for (key, value) in annotations {
        key_size("annotations", key)?;
        total = total.saturating_add(key.len()).saturating_add(value.len());
    }
    size("annotations", total, MAX_ANNOTATIONS)
}

fn key_size(field: &str, key: &str) -> Result<()> {
    if key.len() > MAX_KEY {
        return size(&format!("{field}[{}]", shown(key)), key.len(), MAX_KEY);
    }
    Ok(())
}

/// The known value of an enum.
pub(super) fn known<T: TryFrom<i32>>(field: &str, number: i32) -> Result<T> {
    T::try_from(number).or_else(|_unknown| {
        refuse(
            field,
            format_args!("a value of the interface's enum, got {number}"),
        )
    })
}

/// A number that must not be negative; zero is "unset".
pub(super) fn positive(field: &str, number: i64) -> Result<Option<u64>> {
    match u64::try_from(number) {
        Ok(0) => Ok(None),
        Ok(number) => Ok(Some(number)),
        Err(_negative) => refuse(field, format_args!("no negative number, got {number}")),
    }
}

/// A limit, where zero is "unset" and -1 "unlimited".
pub(super) fn limit(field: &str, number: i64) -> Result<Option<i64>> {
    match number {
        0 => Ok(None),
        -1.. => Ok(Some(number)),
        _ => refuse(
            field,
            format_args!("-1 for unlimited, 0 for unset, or more, got {number}"),
        ),
    }
}
