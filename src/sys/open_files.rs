//! What processes have open, and how much they may.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::files::read_capped_blocking;
use crate::model::{Classify as _, Kind, Pid, Result};

const OWN: &str = "/proc/self/fd";

/// Descriptors of one process that are looked at; beyond, they count as no sockets.
const LOOKED_AT: u64 = 65_536;
/// `/proc/PID/limits` is less than half of this.
const LIMITS_MAX: u64 = 4_096;

/// Open files of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFiles {
    /// All descriptors.
    pub all: u64,
    /// Those of sockets.
    pub sockets: u64,
}

/// What `pid` has open; `None` where it is gone.
pub fn of_blocking(pid: Pid) -> Option<OpenFiles> {
    let mut open = OpenFiles::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        open.all = open.all.saturating_add(1);
        if open.all <= LOOKED_AT
            && fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket"))
        {
            open.sockets = open.sockets.saturating_add(1);
        }
    }
    Some(open)
}

/// How many files `pid` may have open unless it raises that; `None` where it is gone or there is no limit.
pub fn soft_limit_blocking(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{pid}/limits");
    let bytes = read_capped_blocking(Path::new(&path), LIMITS_MAX).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Descriptors that this process has open now.
///
/// # Errors
/// `Internal` where the kernel does not tell.
pub fn own_blocking() -> Result<u64> {
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

/// Descriptors that this process may have open: the soft limit (RLIMIT_NOFILE).
///
/// # Errors
/// `Internal` where the kernel does not tell.
pub fn own_limit() -> Result<u64> {
    let (soft, _hard) =
        getrlimit(Resource::RLIMIT_NOFILE).classify(Kind::Internal, || "getrlimit".to_owned())?;
    Ok(soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_from_other_files() {
        let own = Pid(std::process::id());
        let before = of_blocking(own).unwrap();
        let _sockets: Vec<_> = (0..40)
            .map(|_| std::os::unix::net::UnixStream::pair().unwrap())
            .collect();
        let after = of_blocking(own).unwrap();

        // Other tests open and close files at the same time.
        assert!(after.sockets >= before.sockets + 40, "{before:?} {after:?}");
        assert!(after.all > after.sockets);
        assert!(soft_limit_blocking(own).is_none_or(|limit| limit > 80));
        assert_eq!(of_blocking(Pid(u32::MAX >> 1)), None);
    }

    #[test]
    fn what_is_opened_is_counted() {
        let before = own_blocking().unwrap();
        let held: Vec<_> = (0..100)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();

        // Other tests open and close files meanwhile.
        let grown = own_blocking().unwrap();
        assert!(
            (before + 50..before + 500).contains(&grown),
            "{before} {grown}"
        );
        assert!(own_limit().unwrap() >= grown);
        drop(held);
    }
}
