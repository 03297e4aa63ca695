//! From a hostile path to an open directory.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{Mode, SFlag};

use super::{Directory, LayerTree, MAX_PATH, component, format_of, join, shown};
use crate::model::{Error, Result};
use crate::sys::errno::SysContext as _;

/// Links on the way to one file.
const MAX_LINKS: usize = 255;
/// Components looked at on the way to one file, those of links included.
const MAX_STEPS: usize = 8192;

/// A walk on its way: the true path so far, how much of it is there, and the last directory that is.
struct Walk {
    path: Vec<Vec<u8>>,
    there: usize,
    at: Rc<OwnedFd>,
}

impl LayerTree {
    /// The directory at `path`; what is missing of it is made.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<Rc<Directory>> {
        if let Some((known, directory)) = &self.recent
            && known == path
        {
            return Ok(Rc::clone(directory));
        }
        let directory = Rc::new(self.find_or_make(path)?);
        self.recent = Some((path.to_vec(), Rc::clone(&directory)));
        Ok(directory)
    }

    /// The directory at `path`, if it is there.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<Directory>> {
        if let Some(directory) = self.straight(path)? {
            return Ok(Some(directory));
        }
        let walk = self.walk(path)?;
        Ok((walk.there == walk.path.len()).then(|| Directory {
            path: walk.path.join(&b'/'),
            fd: walk.at,
        }))
    }

    fn find_or_make(&self, path: &[u8]) -> Result<Directory> {
        if let Some(directory) = self.straight(path)? {
            return Ok(directory);
        }
        let mut walk = self.walk(path)?;
        while let Some(name) = walk.path.get(walk.there) {
            let name = component(name)?;
            let done: &[Vec<u8>] = walk.path.get(..walk.there).unwrap_or_default();
            let path = join(&done.join(&b'/'), name.as_bytes());
            if path.len() > MAX_PATH {
                return Err(too_long(&path));
            }
            self.make_parent(&walk.at, &name, &path)?;
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            walk.at = nix::fcntl::openat(&*walk.at, name.as_c_str(), flags, Mode::empty())
                .map(Rc::new)
                .sys(|| format!("open directory {}", shown(&path)))?;
            walk.there = walk.there.saturating_add(1);
        }
        Ok(Directory {
            path: walk.path.join(&b'/'),
            fd: walk.at,
        })
    }

    /// The directory at `path`, where the way there is one of directories only: the common case, in one call.
    fn straight(&self, path: &[u8]) -> Result<Option<Directory>> {
        if path.is_empty() {
            return Ok(Some(Directory {
                path: Vec::new(),
                fd: Rc::clone(&self.root),
            }));
        }
        if path.len() > MAX_PATH {
            return Err(too_long(path));
        }
        if path
            .split(|byte| *byte == b'/')
            .any(|part| matches!(part, b"" | b"." | b".."))
        {
            return Ok(None);
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_XDEV,
            );
        match nix::fcntl::openat2(&*self.root, std::ffi::OsStr::from_bytes(path), how) {
            Ok(fd) => Ok(Some(Directory {
                path: path.to_vec(),
                fd: Rc::new(fd),
            })),
            // The walk finds out why, and is right where the kernel could not vouch for the way.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR | Errno::EXDEV | Errno::EAGAIN) => {
                Ok(None)
            }
            Err(errno) => Err(errno).sys(|| format!("open directory {}", shown(path))),
        }
    }

    /// Follows `path` from the root, component by component. What is not there is taken by its name.
    fn walk(&self, path: &[u8]) -> Result<Walk> {
        if path.len() > MAX_PATH {
            return Err(too_long(path));
        }
        let mut walk = Walk {
            path: Vec::new(),
            there: 0,
            at: Rc::clone(&self.root),
        };
        let mut todo: Vec<Vec<u8>> = Vec::new();
        push_parts(&mut todo, path);
        let (mut links, mut steps) = (0_usize, 0_usize);
        while let Some(part) = todo.pop() {
            steps = steps.saturating_add(1);
            if steps > MAX_STEPS {
                return Err(Error::invalid(format!(
                    "{}: links go in circles",
                    shown(path)
                )));
            }
            match part.as_slice() {
                b"" | b"." => {}
                b".." => self.up(&mut walk)?,
                name => {
                    let Some(link) = self.enter(&mut walk, name)? else {
                        continue;
                    };
                    links = links.saturating_add(1);
                    if links > MAX_LINKS || link.len() > MAX_PATH {
                        return Err(Error::invalid(format!("{}: too many links", shown(path))));
                    }
                    if link.first() == Some(&b'/') {
                        walk.path.clear();
                        walk.there = 0;
                        walk.at = Rc::clone(&self.root);
                    }
                    push_parts(&mut todo, &link);
                }
            }
        }
        Ok(walk)
    }

    /// One component down; answers the target where it is a link.
    #[expect(
        clippy::unused_self,
        reason = "reads as a step of the walk beside `up`"
    )]
    fn enter(&self, walk: &mut Walk, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let c_name = component(name)?;
        if walk.there < walk.path.len() {
            walk.path.push(name.to_vec());
            return Ok(None);
        }
        let what = || format!("look at {}", shown(name));
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = match nix::fcntl::openat(&*walk.at, c_name.as_c_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                walk.path.push(name.to_vec());
                return Ok(None);
            }
            found => found.sys(what)?,
        };
        let stat = nix::sys::stat::fstat(&found).sys(what)?;
        match format_of(&stat) {
            SFlag::S_IFDIR => {
                walk.path.push(name.to_vec());
                walk.there = walk.path.len();
                walk.at = Rc::new(found);
                Ok(None)
            }
            SFlag::S_IFLNK => {
                let target = nix::fcntl::readlinkat(found.as_fd(), c"").sys(what)?;
                Ok(Some(target.as_bytes().to_vec()))
            }
            _ => Err(Error::invalid(format!("{}: not a directory", shown(name)))),
        }
    }

    /// One component up; the root is its own parent.
    fn up(&self, walk: &mut Walk) -> Result<()> {
        walk.path.pop();
        if walk.there <= walk.path.len() {
            return Ok(());
        }
        walk.there = walk.path.len();
        let path = walk.path.join(&b'/');
        let back = self.straight(&path)?;
        walk.at = back
            .ok_or_else(|| Error::internal(format!("{}: gone while it was used", shown(&path))))?
            .fd;
        Ok(())
    }

    /// Makes a directory that no entry told of.
    fn make_parent(&self, at: &OwnedFd, name: &std::ffi::CStr, path: &[u8]) -> Result<()> {
        let what = || format!("make directory {}", shown(path));
        let mode = Mode::from_bits_truncate(0o755);
        nix::sys::stat::mkdirat(at, name, mode).sys(what)?;
        nix::sys::stat::fchmodat(at, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
            .sys(what)?;
        self.inherit(at, name, path)
    }

    /// Sets the times of what stands at `path` once all entries are there. As containerd does, of whatever took a
    /// directory's place meanwhile, and of the directory that a link leads to.
    ///
    /// # Errors
    /// `Internal` where the kernel refuses.
    pub fn restore_times_blocking(
        &self,
        path: &[u8],
        atime: (i64, i64),
        mtime: (i64, i64),
    ) -> Result<()> {
        let (parent, name) = super::split(path);
        let Some(directory) = self.find(parent).unwrap_or_default() else {
            return Ok(());
        };
        let name = component(name)?;
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let what = || format!("set the times of {}", shown(path));
        match nix::sys::stat::fstatat(directory.fd.as_fd(), name.as_c_str(), flags) {
            Err(Errno::ENOENT) => Ok(()),
            Ok(found) if format_of(&found) == SFlag::S_IFLNK => {
                match self.find(path).unwrap_or_default() {
                    Some(end) => super::make::set_times(&*end.fd, c".", atime, mtime).sys(what),
                    None => Ok(()),
                }
            }
            Ok(_) => super::make::set_times(&*directory.fd, &name, atime, mtime).sys(what),
            Err(errno) => Err(errno).sys(what),
        }
    }
}

fn push_parts(todo: &mut Vec<Vec<u8>>, path: &[u8]) {
    todo.extend(path.rsplit(|byte| *byte == b'/').map(<[u8]>::to_vec));
}

fn too_long(path: &[u8]) -> Error {
    Error::invalid(format!(
        "{}…: a path of {} bytes, more than any file can have",
        shown(path),
        path.len()
    ))
}
