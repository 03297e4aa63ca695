//! The directory that one layer is unpacked into. Names come from a hostile archive: every one is looked up from the root,
//! component by component and by descriptor, so that no `..`, absolute name or link leads out of it.
//!
//! A link in the middle of a name counts from the root, as it will inside a container. The last component is never
//! followed. Nobody else writes to the directory meanwhile.

mod inherit;
mod make;
mod resolve;

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag};

use super::errno::SysContext as _;
use crate::model::{Error, Result};

pub use make::{Attributes, Node};

/// What holds a path: the kernel takes no longer one.
const MAX_PATH: usize = 4095;
/// Extended attribute of overlayfs: nothing of the layers below shows through this directory.
const OPAQUE: &std::ffi::CStr = c"trusted.overlay.opaque";

/// The root of a layer on disk, and the layers below it where they are directories of their own.
pub struct LayerTree {
    root: Rc<OwnedFd>,
    /// Newest first.
    below: Vec<OwnedFd>,
    /// The directory of the entry before: archives go directory by directory.
    recent: Option<(Vec<u8>, Rc<Directory>)>,
}

/// A directory of the layer: its true path, without links, and itself.
struct Directory {
    path: Vec<u8>,
    fd: Rc<OwnedFd>,
}

/// Where a name of the layer leads: the directory that holds it, open, and the last component.
pub struct Place {
    directory: Rc<Directory>,
    name: CString,
}

/// What stands at a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// overlayfs' mark for "deleted in this layer", or a device that looks like it.
    Whiteout,
    /// Anything else.
    Other,
}

impl Place {
    /// The path below the root, without links.
    pub fn path(&self) -> Vec<u8> {
        join(&self.directory.path, self.name.as_bytes())
    }

    /// The same directory's entry `name`.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no name.
    pub fn beside(&self, name: &[u8]) -> Result<Self> {
        Ok(Self {
            directory: Rc::clone(&self.directory),
            name: component(name)?,
        })
    }

    fn describe(&self, verb: &str) -> String {
        format!("{verb} {}", shown(&self.path()))
    }

    /// A path to this file for calls that take no descriptor.
    fn by_descriptor(&self) -> Result<CString> {
        let mut path =
            format!("/proc/thread-self/fd/{}/", self.directory.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        CString::new(path).map_err(|error| Error::invalid("a name with a NUL").caused_by(error))
    }
}

impl LayerTree {
    /// Opens the directory at `root`, and those `below` it, newest first.
    ///
    /// # Errors
    /// `NotFound` and `Internal` as the kernel says.
    pub fn open_blocking(root: &Path, below: &[PathBuf]) -> Result<Self> {
        let open = |path: &Path| {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            nix::fcntl::open(path, flags, Mode::empty())
                .sys(|| format!("open layer directory {}", path.display()))
        };
        Ok(Self {
            root: Rc::new(open(root)?),
            below: below.iter().map(|path| open(path)).collect::<Result<_>>()?,
            recent: None,
        })
    }

    /// Whether nothing is in the directory yet.
    ///
    /// # Errors
    /// `Internal` where it cannot be read.
    pub fn is_empty_blocking(&self) -> Result<bool> {
        let path = format!("/proc/thread-self/fd/{}", self.root.as_raw_fd());
        let mut entries = std::fs::read_dir(path).sys(|| "read a layer directory".to_owned())?;
        Ok(entries.next().is_none())
    }

    /// Bytes of the file system that are free, and all of them.
    ///
    /// # Errors
    /// `Internal` where the kernel refuses.
    pub fn room_blocking(&self) -> Result<(u64, u64)> {
        let found = nix::sys::statvfs::fstatvfs(&self.root)
            .sys(|| "measure the file system of a layer".to_owned())?;
        let unit = found.fragment_size();
        Ok((
            found.blocks_available().saturating_mul(unit),
            found.blocks().saturating_mul(unit),
        ))
    }

    /// Where `path` leads, with missing directories on the way made as the layers below have them; `None` for the root.
    /// `path` is clean: no `.`, no `..` but at the beginning, where it means nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for names that no file can have, for loops, and where something other than a directory stands in
    /// the way; `Internal` where the kernel refuses.
    pub fn place_blocking(&mut self, path: &[u8]) -> Result<Option<Place>> {
        let (parent, name) = split(path);
        if name.is_empty() || name == b".." || name == b"." {
            return Ok(None);
        }
        let name = component(name)?;
        let directory = self.directory(parent)?;
        Ok(Some(Place { directory, name }))
    }

    /// What stands there, if anything.
    ///
    /// # Errors
    /// `Internal` where the kernel refuses.
    pub fn kind_blocking(&self, place: &Place) -> Result<Option<Kind>> {
        Ok(stat(place)?.map(|found| kind_of(&found)))
    }
}

impl AsFd for LayerTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Whether process `pid` finds by `path` what is open as `ours`: it may live in a mount namespace of its own.
pub fn means_the_same_blocking(pid: u32, path: &Path, ours: BorrowedFd<'_>) -> bool {
    let mut theirs = PathBuf::from(format!("/proc/{pid}/root"));
    theirs.push(path.strip_prefix("/").unwrap_or(path));
    let identity = |found: FileStat| (found.st_dev, found.st_ino);
    let ours = nix::sys::stat::fstat(ours).map(identity);
    let theirs = nix::sys::stat::lstat(&theirs).map(identity);
    matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
}

fn stat(place: &Place) -> Result<Option<FileStat>> {
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    match nix::sys::stat::fstatat(place.directory.fd.as_fd(), place.name.as_c_str(), flags) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno).sys(|| place.describe("look at")),
    }
}

fn format_of(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode & libc::S_IFMT)
}

fn kind_of(found: &FileStat) -> Kind {
    match format_of(found) {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFCHR if found.st_rdev == 0 => Kind::Whiteout,
        _ => Kind::Other,
    }
}

/// The part before the last slash and the part after it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at.saturating_add(1)..).unwrap_or_default(),
        ),
        None => (&[], path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn component(name: &[u8]) -> Result<CString> {
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
        return Err(Error::invalid(format!("{:?} names no file", shown(name))));
    }
    CString::new(name).map_err(|error| {
        Error::invalid(format!("{:?}: a NUL in a name", shown(name))).caused_by(error)
    })
}

/// A hostile path as far as it is worth showing.
fn shown(path: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = std::ffi::OsStr::from_bytes(path.get(..path.len().min(SHOWN)).unwrap_or_default());
    text.to_string_lossy().escape_debug().to_string()
}

/// Whether the directory at `path` hides what the layers below have in it.
#[cfg(test)]
pub(crate) fn is_opaque(path: &Path) -> bool {
    attribute(path, OPAQUE).is_some_and(|value| value == b"y")
}

/// The value of an extended attribute of the file at `path`.
#[cfg(test)]
pub(crate) fn attribute(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    super::xattr::get_blocking(&path, name)
}
