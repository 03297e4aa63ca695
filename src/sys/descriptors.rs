//! How many file descriptors this process has open, and how many it may have.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::resource::{Resource, getrlimit};

use crate::model::{Classify as _, Kind, Result};

const OWN: &str = "/proc/self/fd";

/// Descriptors that are open now.
///
/// # Errors
/// `Internal` where the kernel does not tell.
pub fn open_blocking() -> Result<u64> {
    let what = || format!("count the entries of {OWN}");
    // Since Linux 6.2 the folder's size says it; before, that is 0.
    let said = fs::metadata(OWN).classify(Kind::Internal, what)?.size();
    if said > 0 {
        return Ok(said);
    }
    let entries = fs::read_dir(OWN).classify(Kind::Internal, what)?.count();
    // The folder itself is open while it is read.
    Ok(u64::try_from(entries.saturating_sub(1)).unwrap_or(u64::MAX))
}

/// Descriptors that may be open: the soft limit (RLIMIT_NOFILE).
///
/// # Errors
/// `Internal` where the kernel does not tell.
pub fn limit() -> Result<u64> {
    let (soft, _hard) =
        getrlimit(Resource::RLIMIT_NOFILE).classify(Kind::Internal, || "getrlimit".to_owned())?;
    Ok(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_is_counted() {
        let before = open_blocking().unwrap();
        let held: Vec<_> = (0..100)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();

        // Other tests open and close files meanwhile.
        let grown = open_blocking().unwrap();
        assert!(
            (before + 50..before + 500).contains(&grown),
            "{before} {grown}"
        );
        assert!(limit().unwrap() >= grown);
        drop(held);
    }
}
