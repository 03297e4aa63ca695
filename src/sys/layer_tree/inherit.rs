//! Directories that a layer does not tell of, made as the layers below have them.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag};
use nix::unistd::{Gid, Uid};

use super::{LayerTree, format_of, make, shown};
use crate::model::Result;
use crate::sys::errno::SysContext as _;
use crate::sys::xattr;

impl LayerTree {
    /// Gives the new directory `name` in `at` what the newest directory of the same `path` below has: owner, mode, times
    /// and attributes, less those of the file system below.
    pub(super) fn inherit(&self, at: &OwnedFd, name: &CStr, path: &[u8]) -> Result<()> {
        let what = || format!("take over what directory {} has below", shown(path));
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        for below in &self.below {
            let found = match nix::fcntl::openat2(below, std::ffi::OsStr::from_bytes(path), how) {
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                found => found.sys(what)?,
            };
            let stat = nix::sys::stat::fstat(&found).sys(what)?;
            if format_of(&stat) != SFlag::S_IFDIR {
                return Ok(()); // replaced there
            }
            let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            nix::unistd::fchownat(at, name, Some(owner), Some(group), flags).sys(what)?;
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
            nix::sys::stat::fchmodat(at, name, mode, FchmodatFlags::FollowSymlink).sys(what)?;
            let from = PathBuf::from(format!("/proc/thread-self/fd/{}/.", found.as_raw_fd()));
            let to = PathBuf::from(format!("/proc/thread-self/fd/{}", at.as_raw_fd()))
                .join(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())));
            xattr::copy_where_blocking(&from, &to, |name| {
                !name.to_bytes().starts_with(b"trusted.")
            })?;
            let atime = (stat.st_atime, stat.st_atime_nsec);
            let mtime = (stat.st_mtime, stat.st_mtime_nsec);
            return make::set_times(at, name, atime, mtime).sys(what);
        }
        Ok(())
    }
}
