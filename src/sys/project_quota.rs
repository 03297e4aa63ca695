//! Project quotas: what a file system itself counts for a project id. Here ids are given and counts are read; nothing is
//! ever limited.
//!
//! A directory bears an id and hands it on to whatever is made in it (ioctl_xfs_fsgetxattr(2), which ext4 understands
//! since Linux 4.5). ext4 counts with its features `quota` and `project`, XFS where it is mounted with `prjquota` or
//! `pqnoenforce` (quotactl(2)). Only root of the host's user namespace may give ids and ask.
#![expect(
    unsafe_code,
    reason = "quotactl_fd(2) and the ioctls on project ids have no safe wrapper among our dependencies"
)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;

use super::errno::SysContext as _;
use crate::model::{Error, Result};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copied_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_XFLAG_PROJINHERIT` of linux/fs.h: what is made in the directory gets its project.
const INHERIT: u32 = 0x200;

mod raw {
    nix::ioctl_read!(attributes, b'X', 31, super::Attributes);
    nix::ioctl_write_ptr!(set_attributes, b'X', 32, super::Attributes);
}

/// `struct if_dqblk` of linux/quota.h. `space` is in bytes, whatever the file system, since the kernel converts for this
/// command; the limits, which are in other units, are not looked at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    hard_blocks: u64,
    soft_blocks: u64,
    space: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_grace: u64,
    inode_grace: u64,
    valid: u32,
}

/// `QCMD(Q_GETQUOTA, PRJQUOTA)` of linux/quota.h. Since Linux 2.6.35 XFS answers it as well.
const GET: libc::c_int = (0x80_0007 << 8) | 2;

/// What a project uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Bytes on disk, those that are promised to files not written out yet among them.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// Whether the file system of the directory `dir` counts what projects use.
///
/// # Errors
/// `NotFound` where `dir` is missing; `Internal` where the kernel does not let us ask.
pub fn is_counted_blocking(dir: &Path) -> Result<bool> {
    let opened = open(dir)?;
    match ask(&opened, 0) {
        Ok(_) => Ok(true),
        // No quotas in the kernel, in the file system, or at its mount; no block device below it.
        Err(
            Errno::ENOSYS
            | Errno::ESRCH
            | Errno::EINVAL
            | Errno::ENOTSUP
            | Errno::ENODEV
            | Errno::ENOTBLK
            | Errno::ENXIO,
        ) => Ok(false),
        refused => refused
            .map(|_used| true)
            .sys(|| format!("ask for the project quotas of {}", dir.display())),
    }
}

/// What the project `id` uses on the file system of the directory `dir`.
///
/// # Errors
/// `NotFound` where `dir` is missing; otherwise where projects are not counted there, or we may not ask.
pub fn used_blocking(dir: &Path, id: u32) -> Result<Used> {
    let opened = open(dir)?;
    let what = || {
        let place = dir.display();
        format!("ask for what project {id} uses on the file system of {place}")
    };
    ask(&opened, id).sys(what)
}

/// The project of the directory `dir`; 0 where it has none.
///
/// # Errors
/// `NotFound` where it is missing; otherwise where its file system knows no projects.
pub fn project_of_blocking(dir: &Path) -> Result<u32> {
    Ok(attributes(&open(dir)?, dir)?.project)
}

/// Gives the empty directory `dir`, which has no project yet, the project `id`, which it hands on.
///
/// # Errors
/// `FailedPrecondition` where it has another project or is not empty; otherwise where the kernel refuses.
pub fn give_blocking(dir: &Path, id: u32) -> Result<()> {
    let opened = open(dir)?;
    let before = attributes(&opened, dir)?;
    let place = dir.display();
    if before.project != 0 {
        let other = before.project;
        let words = format!("{place}: it belongs to project {other} already");
        return Err(Error::precondition(words));
    }
    let mut entries = std::fs::read_dir(dir).sys(|| format!("read {place}"))?;
    if entries.next().is_some() {
        let words = format!("{place}: it is not empty, so a project would not count all of it");
        return Err(Error::precondition(words));
    }
    let after = Attributes {
        project: id,
        flags: before.flags | INHERIT,
        ..before
    };
    set(&opened, &after).sys(|| format!("give {place} the project {id}"))
}

/// Takes the project of the directory `dir` away, which was given to it alone.
///
/// # Errors
/// Where it is missing, or the kernel refuses.
pub fn take_back_blocking(dir: &Path) -> Result<()> {
    let opened = open(dir)?;
    let before = attributes(&opened, dir)?;
    let after = Attributes {
        project: 0,
        flags: before.flags & !INHERIT,
        ..before
    };
    set(&opened, &after).sys(|| format!("take the project of {} away", dir.display()))
}

fn open(dir: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(dir)
        .sys(|| format!("open directory {}", dir.display()))
}

fn attributes(opened: &File, dir: &Path) -> Result<Attributes> {
    let mut found = Attributes::default();
    // SAFETY: the descriptor is open, and the kernel writes one `struct fsxattr` into `found`.
    let asked = unsafe { raw::attributes(opened.as_raw_fd(), &raw mut found) };
    asked
        .map(|_| found)
        .sys(|| format!("ask for the project of {}", dir.display()))
}

fn set(opened: &File, wanted: &Attributes) -> Result<(), Errno> {
    // SAFETY: the descriptor is open, and the kernel reads one `struct fsxattr` from `wanted`.
    unsafe { raw::set_attributes(opened.as_raw_fd(), wanted) }.map(drop)
}

fn ask(dir: &File, id: u32) -> Result<Used, Errno> {
    let mut block = Block::default();
    // SAFETY: the descriptor is open, and the kernel writes one `struct if_dqblk` into `block`.
    let told = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            dir.as_raw_fd(),
            GET,
            id,
            &raw mut block,
        )
    };
    let told = match Errno::result(told) {
        // A kernel before 5.14, or a file system without quotas: the older call tells which.
        Err(Errno::ENOSYS) => ask_device(dir, id, &mut block),
        told => told.map(drop),
    };
    match told {
        Ok(()) => Ok(Used {
            bytes: block.space,
            inodes: block.inodes,
        }),
        // XFS has no entry for a project that never used anything.
        Err(Errno::ENOENT) => Ok(Used::default()),
        Err(error) => Err(error),
    }
}

fn ask_device(dir: &File, id: u32, block: &mut Block) -> Result<(), Errno> {
    let number = dir.metadata().map_err(|_unknown| Errno::ENODEV)?.dev();
    let device = device(number).ok_or(Errno::ENODEV)?;
    let device = CString::new(device.as_os_str().as_bytes()).map_err(|_nul| Errno::ENODEV)?;
    // SAFETY: the path is NUL-terminated, and the kernel writes one `struct if_dqblk` into `block`.
    let told = unsafe {
        libc::syscall(
            libc::SYS_quotactl,
            GET,
            device.as_ptr(),
            id,
            std::ptr::from_mut(block),
        )
    };
    Errno::result(told).map(drop)
}

/// The node of the block device `number`, where there is one.
fn device(number: u64) -> Option<PathBuf> {
    let (major, minor) = (libc::major(number), libc::minor(number));
    let facts = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).ok()?;
    let name = facts
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name)).filter(|node| node.exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn the_kernels_structures_are_as_long_as_it_says() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Block>(), size_of::<libc::dqblk>());
    }

    #[test]
    fn a_file_system_in_memory_counts_no_projects() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        if nix::unistd::geteuid().is_root() {
            assert!(!is_counted_blocking(dir.path()).unwrap());
        }

        let refused = used_blocking(dir.path(), 7).unwrap_err().chain();
        assert!(refused.contains("project 7"), "{refused}");
    }

    #[test]
    fn what_is_missing_is_not_found() {
        let none = Path::new("/none/such");
        assert!(is_counted_blocking(none).unwrap_err().is_not_found());
        assert!(used_blocking(none, 1).unwrap_err().is_not_found());
        assert!(project_of_blocking(none).unwrap_err().is_not_found());
        assert!(give_blocking(none, 1).unwrap_err().is_not_found());
        assert!(take_back_blocking(none).unwrap_err().is_not_found());
    }

    #[test]
    fn a_directory_with_files_gets_no_project() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        // Whether the file system knows projects at all is the machine's business.
        let refused = give_blocking(dir.path(), 9).unwrap_err();
        if project_of_blocking(dir.path()).is_ok() {
            assert_eq!(refused.kind(), Kind::FailedPrecondition);
            assert_eq!(project_of_blocking(dir.path()).unwrap(), 0);
        }
    }

    #[test]
    fn only_a_block_device_has_a_node() {
        let memory = std::fs::metadata("/dev/shm").unwrap().dev();
        assert_eq!(device(memory), None);
    }
}
