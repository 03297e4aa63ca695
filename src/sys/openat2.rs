//! Paths that a tenant chose, resolved by the kernel inside a root: no link, `..` or mount point name leads out, and
//! nothing can be swapped between the check and the use.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::libc;

use super::errno::SysContext;
use super::files;
use crate::model::{Error, Result};

/// A directory that paths are resolved in, as a chroot would.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Opens the directory at `path`, which is ours: links in it are followed.
    ///
    /// # Errors
    /// `NotFound`; `Internal` where it is no directory.
    pub fn open_blocking(path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
            .map(|fd| Self {
                path: path.to_owned(),
                fd,
            })
            .sys(|| format!("open directory {}", path.display()))
    }

    /// Finds what `path` means inside the root, without opening it: no device is touched, no FIFO waited for. Absolute
    /// paths and links count from the root.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for link loops and paths through `/proc`'s magic links; `Unimplemented` on
    /// kernels before 5.6.
    pub fn resolve_blocking(&self, path: &Path) -> Result<OwnedFd> {
        const RACES_MAX: usize = 512;
        const CALM: Duration = Duration::from_millis(1);
        let what = || format!("resolve {} in {}", path.display(), self.path.display());
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        for _ in 0..RACES_MAX {
            match nix::fcntl::openat2(&self.fd, path, how) {
                // A rename or mount anywhere meanwhile: the kernel could not vouch for "..".
                Err(Errno::EAGAIN | Errno::EINTR) => std::thread::park_timeout(CALM),
                Err(errno @ (Errno::ELOOP | Errno::EXDEV | Errno::ENAMETOOLONG)) => {
                    return Err(Error::invalid(what()).caused_by(errno));
                }
                Err(Errno::ENOTDIR) => {
                    return Err(Error::not_found(what()).caused_by(Errno::ENOTDIR));
                }
                found => return found.sys(what),
            }
        }
        Err(Error::new(crate::model::Kind::Aborted, what())
            .caused_by(Error::internal("the tree keeps changing under the walk")))
    }

    /// What kind of file `path` is, its size and owner.
    ///
    /// # Errors
    /// As [`Root::resolve_blocking`].
    pub fn metadata_blocking(&self, path: &Path) -> Result<Metadata> {
        File::from(self.resolve_blocking(path)?)
            .metadata()
            .sys(|| format!("look at {} in {}", path.display(), self.path.display()))
    }

    /// Opens the regular file at `path` for reading.
    ///
    /// # Errors
    /// As [`Root::resolve_blocking`]; `FailedPrecondition` for anything but a regular file, which is then not opened.
    pub fn open_regular_blocking(&self, path: &Path) -> Result<File> {
        let what = || format!("open {} in {}", path.display(), self.path.display());
        let found = File::from(self.resolve_blocking(path)?);
        if !found.metadata().sys(what)?.is_file() {
            return Err(Error::precondition(format!(
                "{}: not a regular file",
                what()
            )));
        }
        OpenOptions::new() // the handle's own link: opens what was checked, whatever the name means by now
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
            .sys(what)
    }

    /// Reads the whole regular file at `path`, at most `cap` bytes.
    ///
    /// # Errors
    /// As [`Root::open_regular_blocking`]; `ResourceExhausted` where it is longer.
    pub fn read_capped_blocking(&self, path: &Path, cap: u64) -> Result<Vec<u8>> {
        files::read_open_capped_blocking(self.open_regular_blocking(path)?, path, cap)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::model::Kind;

    fn rootfs() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "inside").unwrap();
        std::fs::write(dir.path().join("passwd"), "outside").unwrap();
        let opened = Root::open_blocking(&root).unwrap();
        (dir, opened)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (dir, root) = rootfs();
        symlink("/etc/passwd", root.path.join("absolute")).unwrap();
        symlink("../../../etc/passwd", root.path.join("etc/relative")).unwrap();
        symlink("/passwd", root.path.join("outward")).unwrap();
        symlink(dir.path(), root.path.join("host")).unwrap();
        let read = |path: &str| root.read_capped_blocking(Path::new(path), 64);

        for inside in [
            "etc/passwd",
            "/etc/passwd",
            "absolute",
            "etc/relative",
            "../etc/passwd",
        ] {
            assert_eq!(read(inside).unwrap(), b"inside", "{inside}");
        }
        for outside in [
            "outward",
            "../passwd",
            "host/passwd",
            "missing",
            "etc/passwd/x",
        ] {
            assert_eq!(
                read(outside).unwrap_err().kind(),
                Kind::NotFound,
                "{outside}"
            );
        }
    }

    #[test]
    fn loops_and_odd_files_are_refused_at_once() {
        let (_dir, root) = rootfs();
        symlink("loop", root.path.join("loop")).unwrap();
        nix::unistd::mkfifo(&root.path.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let kind = |path: &str, cap| {
            let read = root.read_capped_blocking(Path::new(path), cap);
            read.unwrap_err().kind()
        };

        assert_eq!(kind("loop", 64), Kind::InvalidArgument);
        assert_eq!(kind("fifo", 64), Kind::FailedPrecondition);
        assert_eq!(kind("etc", 64), Kind::FailedPrecondition);
        assert_eq!(kind("etc/passwd", 3), Kind::ResourceExhausted);
        assert!(root.metadata_blocking(Path::new("etc")).unwrap().is_dir());
    }

    #[test]
    fn magic_links_are_not_followed() {
        let root = Root::open_blocking(Path::new("/")).unwrap();
        let refused = root.resolve_blocking(Path::new("proc/self/root/etc"));
        assert_eq!(refused.unwrap_err().kind(), Kind::InvalidArgument);
    }
}
