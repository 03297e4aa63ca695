//! Locks that the kernel frees when we end, however we end.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::model::{Classify as _, Error, Kind, Result};

/// How long the lock of a killed process may outlive it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock file at `path` for as long as the answer lives. `taken` says what holds it and what to do.
///
/// It tries for as long as `patience`: a program that a killed process was just starting shares its descriptors until
/// it has been loaded, and with them the lock.
///
/// # Errors
/// `FailedPrecondition` where another process holds it.
pub(super) fn take_blocking(
    path: &Path,
    patience: Duration,
    taken: impl FnOnce() -> String,
) -> Result<File> {
    let what = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .classify(Kind::Internal, what)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < patience => {
                std::thread::park_timeout(PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(Error::precondition(taken())),
            Err(TryLockError::Error(error)) => {
                return Err(Error::internal(what()).caused_by(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_taken_once_and_again_after_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");

        let held = take_blocking(&path, Duration::ZERO, String::new).unwrap();
        let refused = take_blocking(&path, Duration::ZERO, || "held".into()).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);

        drop(held);
        take_blocking(&path, Duration::ZERO, String::new).unwrap();
    }

    #[test]
    fn a_lock_that_is_freed_meanwhile_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = take_blocking(&path, Duration::ZERO, String::new).unwrap();
        let freeing = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(50));
            drop(held);
        });

        take_blocking(&path, Duration::from_secs(30), String::new).unwrap();

        freeing.join().unwrap();
    }
}
