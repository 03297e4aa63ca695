//! Locks that the kernel frees when we end, however we end.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::model::{Classify as _, Error, Kind, Result};

/// Takes the lock file at `path` for as long as the answer lives. `taken` says what holds it and what to do.
///
/// # Errors
/// `FailedPrecondition` where another process holds it.
pub(super) fn take_blocking(path: &Path, taken: impl FnOnce() -> String) -> Result<File> {
    let what = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .classify(Kind::Internal, what)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::precondition(taken())),
        Err(TryLockError::Error(error)) => Err(Error::internal(what()).caused_by(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_once_and_again_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");

        let held = take_blocking(&path, String::new).unwrap();
        let refused = take_blocking(&path, || "held".into()).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);

        drop(held);
        take_blocking(&path, String::new).unwrap();
    }
}
