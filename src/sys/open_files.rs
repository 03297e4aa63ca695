//! What processes have open, and how much they may.

use std::path::Path;

use super::files::read_capped_blocking;
use crate::model::Pid;

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
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        open.all = open.all.saturating_add(1);
        if open.all <= LOOKED_AT
            && std::fs::read_link(entry.path())
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
}
