//! What the kernel and the file systems say of themselves, for checks that people read.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::geteuid;

use super::errno::SysContext;
use super::files::read_capped_blocking;
use crate::model::host_facts::KernelVersion;
use crate::model::{Error, Result};

/// `/proc/filesystems` is a page at most.
const TABLE_CAP: u64 = 64 << 10;

/// The running kernel's version.
///
/// # Errors
/// `Internal` for a release that does not start with a version.
pub fn kernel_version() -> Result<KernelVersion> {
    let names = nix::sys::utsname::uname().sys(|| "ask for the kernel's version".into())?;
    let release = names.release().to_string_lossy();
    KernelVersion::parse(&release)
        .ok_or_else(|| Error::internal(format!("kernel release {release:?}: not understood")))
}

/// Whether the kernel knows file system `name` now. A module that was never needed yet does not count.
///
/// # Errors
/// Where `/proc` cannot be read.
pub fn knows_filesystem_blocking(name: &str) -> Result<bool> {
    let table = read_capped_blocking(Path::new("/proc/filesystems"), TABLE_CAP)?;
    Ok(String::from_utf8_lossy(&table)
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().last())
        .any(|known| known == name))
}

/// How much of a file system is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Inodes in all; `None` where the file system does not count them.
    pub total_inodes: Option<u64>,
    /// Inodes left; `None` where the file system does not count them.
    pub free_inodes: Option<u64>,
}

/// The space on the file system of `path`.
///
/// # Errors
/// `NotFound` where `path` is missing.
pub fn space_blocking(path: &Path) -> Result<Space> {
    let stat = statvfs(path).sys(|| format!("ask for the space at {}", path.display()))?;
    let unit = stat.fragment_size();
    Ok(Space {
        free_bytes: stat.blocks_available().saturating_mul(unit),
        total_bytes: stat.blocks().saturating_mul(unit),
        total_inodes: (stat.files() > 0).then(|| stat.files()),
        free_inodes: (stat.files() > 0).then(|| stat.files_available()),
    })
}

/// Whether we may do what root may.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Whether the host was booted with systemd.
pub fn is_systemd_booted_blocking() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_surveyed() {
        assert!(kernel_version().unwrap() >= KernelVersion::new(4, 0));
        assert!(knows_filesystem_blocking("proc").unwrap());
        assert!(!knows_filesystem_blocking("no-such-fs").unwrap());
        let space = space_blocking(Path::new("/")).unwrap();
        assert!(space.total_bytes >= space.free_bytes);
    }
}
