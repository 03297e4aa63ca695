//! Making and removing what stands in a layer.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags};

use super::{LayerTree, OPAQUE, Place, component, format_of, kind_of, shown, split, stat};
use crate::model::{Error, Result};
use crate::sys::errno::SysContext as _;
use crate::sys::xattr;

/// What an entry says about its file beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Last access, seconds and nanoseconds.
    pub atime: (i64, i64),
    /// Last change, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes, in order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What is made without content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// A directory.
    Directory,
    /// A symbolic link to this target, taken as it is.
    Symlink(&'a [u8]),
    /// A named pipe.
    Fifo,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}

impl LayerTree {
    /// A new empty regular file, open for writing, that nobody else may read yet.
    ///
    /// # Errors
    /// `AlreadyExists` where something stands there.
    pub fn create_blocking(&self, place: &Place) -> Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::openat(
            &*place.directory.fd,
            place.name.as_c_str(),
            flags,
            Mode::S_IRUSR | Mode::S_IWUSR,
        )
        .map(File::from)
        .sys(|| place.describe("create"))
    }

    /// Makes a file without content. Its mode comes with its attributes.
    ///
    /// # Errors
    /// `AlreadyExists` where something stands there; `InvalidArgument` for a target with a NUL.
    pub fn make_blocking(&self, place: &Place, node: Node<'_>) -> Result<()> {
        let (at, name) = (&*place.directory.fd, place.name.as_c_str());
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let device = |format, major: u32, minor: u32| {
            let device = nix::sys::stat::makedev(major.into(), minor.into());
            nix::sys::stat::mknodat(at, name, format, mode, device)
        };
        match node {
            Node::Directory => nix::sys::stat::mkdirat(at, name, Mode::S_IRWXU),
            Node::Symlink(target) => {
                let target = CString::new(target).map_err(|error| {
                    Error::invalid(place.describe("a NUL in the target of link")).caused_by(error)
                })?;
                nix::unistd::symlinkat(target.as_c_str(), at, name)
            }
            Node::Fifo => device(SFlag::S_IFIFO, 0, 0),
            Node::Character(major, minor) => device(SFlag::S_IFCHR, major, minor),
            Node::Block(major, minor) => device(SFlag::S_IFBLK, major, minor),
        }
        .sys(|| place.describe("make"))
    }

    /// Makes `place` another name of the file at `target`, which counts from the root; its last component is not followed.
    /// `false` where this layer has no such file.
    ///
    /// # Errors
    /// `AlreadyExists` where something stands there; `InvalidArgument` for a target that is no name.
    pub fn link_blocking(&self, target: &[u8], place: &Place) -> Result<bool> {
        let (parent, name) = split(target);
        let name = component(name)?;
        let Some(from) = self.find(parent)? else {
            return Ok(false);
        };
        let linked = nix::unistd::linkat(
            &*from.fd,
            name.as_c_str(),
            &*place.directory.fd,
            place.name.as_c_str(),
            AtFlags::empty(),
        );
        match linked {
            Err(Errno::ENOENT) => Ok(false),
            linked => linked
                .map(|()| true)
                .sys(|| format!("link {} to {}", shown(&place.path()), shown(target))),
        }
    }

    /// Sets the attributes of a file that was just written.
    ///
    /// # Errors
    /// `Internal` where the kernel refuses.
    pub fn finish_blocking(
        &self,
        place: &Place,
        file: &File,
        attributes: &Attributes,
    ) -> Result<()> {
        let what = || place.describe("set the attributes of");
        let (owner, group) = owners(attributes);
        nix::unistd::fchown(file, owner, group).sys(what)?;
        for (name, value) in &attributes.xattrs {
            set_xattr(name, SFlag::S_IFREG, |name| {
                xattr::set_open_blocking(file.as_fd(), name, value)
            })
            .sys(what)?;
        }
        nix::sys::stat::fchmod(file, mode(attributes)).sys(what)?;
        let (atime, mtime) = (spec(attributes.atime), spec(attributes.mtime));
        nix::sys::stat::futimens(file, &atime, &mtime).sys(what)
    }

    /// Sets the attributes of what stands at `place`; a link is not followed.
    ///
    /// # Errors
    /// `NotFound`, and `Internal` where the kernel refuses.
    pub fn dress_blocking(&self, place: &Place, attributes: &Attributes) -> Result<()> {
        let what = || place.describe("set the attributes of");
        let (at, name) = (&*place.directory.fd, place.name.as_c_str());
        let found = stat(place)?.ok_or_else(|| Error::not_found(what()))?;
        let format = format_of(&found);
        let (owner, group) = owners(attributes);
        nix::unistd::fchownat(at, name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW).sys(what)?;
        if !attributes.xattrs.is_empty() {
            let path = place.by_descriptor()?;
            for (name, value) in &attributes.xattrs {
                set_xattr(name, format, |name| xattr::set_blocking(&path, name, value))
                    .sys(what)?;
            }
        }
        if format != SFlag::S_IFLNK {
            // No link stands there, and nobody else is here to put one.
            nix::sys::stat::fchmodat(at, name, mode(attributes), FchmodatFlags::FollowSymlink)
                .sys(what)?;
        }
        set_times(at, name, attributes.atime, attributes.mtime).sys(what)
    }

    /// Hides what the layers below have at `place`. What this layer has there stays, and hides it too.
    ///
    /// # Errors
    /// `Internal` where the kernel refuses.
    pub fn white_out_blocking(&self, place: &Place, uid: u32, gid: u32) -> Result<()> {
        let what = || place.describe("white out");
        let (at, name) = (&*place.directory.fd, place.name.as_c_str());
        match stat(place)?.map(|found| kind_of(&found)) {
            Some(super::Kind::Directory) => return self.make_opaque_blocking(place),
            Some(_) => return Ok(()),
            None => {}
        }
        nix::sys::stat::mknodat(at, name, SFlag::S_IFCHR, Mode::empty(), 0).sys(what)?;
        let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(at, name, Some(owner), Some(group), flags).sys(what)
    }

    /// Lets nothing of the layers below show through the directory at `place`.
    ///
    /// # Errors
    /// `Unimplemented` on file systems without the attribute.
    pub fn make_opaque_blocking(&self, place: &Place) -> Result<()> {
        xattr::set_blocking(&place.by_descriptor()?, OPAQUE, b"y")
            .sys(|| place.describe("make opaque"))
    }

    /// The same for the directory that holds `place`.
    ///
    /// # Errors
    /// As [`LayerTree::make_opaque_blocking`].
    pub fn make_holder_opaque_blocking(&self, place: &Place) -> Result<()> {
        // The trailing dot is no link: the descriptor's own is followed.
        let path = format!("/proc/thread-self/fd/{}/.", place.directory.fd.as_raw_fd());
        let path = CString::new(path)
            .map_err(|error| Error::internal("a NUL in a number").caused_by(error))?;
        xattr::set_blocking(&path, OPAQUE, b"y")
            .sys(|| place.describe("make opaque the directory of"))
    }

    /// Removes what stands at `place`, with all below it. Nothing there counts as removed.
    ///
    /// # Errors
    /// `Internal` where the kernel refuses.
    pub fn remove_blocking(&mut self, place: &Place) -> Result<()> {
        let (at, name) = (&*place.directory.fd, place.name.as_c_str());
        match nix::unistd::unlinkat(at, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(errno) => return Err(errno).sys(|| place.describe("remove")),
        }
        self.recent = None; // it may have been this one, or one below
        let path = place.by_descriptor()?;
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        std::fs::remove_dir_all(path).sys(|| place.describe("remove"))
    }
}

/// Sets one attribute; what a layer may not say, and what this file or file system cannot have, is left out.
fn set_xattr(
    name: &[u8],
    format: SFlag,
    set: impl Fn(&CStr) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    // Those rule overlayfs itself: a layer could redirect directories with them.
    if name.starts_with(b"trusted.") {
        return Ok(());
    }
    let holds_users = matches!(format, SFlag::S_IFREG | SFlag::S_IFDIR);
    let c_name = CString::new(name).map_err(|_nul_inside| Errno::EINVAL)?;
    match set(&c_name) {
        Err(Errno::EOPNOTSUPP) => Ok(()),
        Err(Errno::EPERM) if name.starts_with(b"user.") && !holds_users => Ok(()),
        done => done,
    }
}

pub(super) fn set_times(
    at: impl AsFd,
    name: &CStr,
    atime: (i64, i64),
    mtime: (i64, i64),
) -> std::result::Result<(), Errno> {
    let flags = UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(at, name, &spec(atime), &spec(mtime), flags)
}

fn spec((seconds, nanos): (i64, i64)) -> TimeSpec {
    TimeSpec::from_timespec(libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanos,
    })
}

fn owners(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )
}

fn mode(attributes: &Attributes) -> Mode {
    Mode::from_bits_truncate(attributes.mode & 0o7777)
}
