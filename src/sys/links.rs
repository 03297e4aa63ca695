//! Counters of the network interfaces of a namespace.
//!
//! `/proc/PID/net/dev` shows those of the namespace that a process lives in, in 64 bits each, to anybody: no thread has
//! to enter the namespace, which an answer over netlink would need. Where no process of it is known, one does.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::errno::SysContext;
use super::{files, netns};
use crate::model::{Pid, Result};

/// Some thousand interfaces.
const READ_MAX: u64 = 1 << 20;

/// The table of interfaces of the namespace pinned at `path`; `pid` is a process that should live in it.
///
/// # Errors
/// Where the namespace is not pinned there.
pub fn table_blocking(path: &Path, pid: Option<Pid>) -> Result<String> {
    if let Some(pid) = pid
        && let Ok(table) = read(Path::new(&format!("/proc/{pid}/net/dev")))
        && is_same(path, Path::new(&format!("/proc/{pid}/ns/net")))
    {
        return Ok(table);
    }
    netns::enter_blocking(path, || read(Path::new("/proc/thread-self/net/dev")))
}

fn read(path: &Path) -> Result<String> {
    let bytes = files::read_capped_blocking(path, READ_MAX)?;
    String::from_utf8(bytes)
        .map_err(std::io::Error::other)
        .sys(|| format!("read {}", path.display()))
}

/// Whether both stand for one namespace: the number of a process may be another's by now.
fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| {
        Some((
            std::fs::metadata(path).ok()?.dev(),
            std::fs::metadata(path).ok()?.ino(),
        ))
    };
    place(one).is_some_and(|own| place(other) == Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_this_namespace_is_read_by_a_process_of_it() {
        let own = Path::new("/proc/self/ns/net");
        let table = table_blocking(own, Some(Pid(std::process::id()))).unwrap();
        assert!(table.contains(" lo:"), "{table}");
        assert!(is_same(own, Path::new("/proc/thread-self/ns/net")));
        assert!(!is_same(own, Path::new("/proc/self/ns/mnt")));
        assert!(!is_same(Path::new("/none"), Path::new("/none")));
    }

    #[test]
    fn a_namespace_that_is_gone_has_none() {
        assert!(table_blocking(Path::new("/run/netns/podwright-none"), None).is_err());
    }
}
