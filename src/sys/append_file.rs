//! Opens a file for appending beneath a directory that others may write to, without being led elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat};

use crate::model::{Classify, Error, Kind, Result};

const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o640;
/// How often a name may change under us before we give up.
const TRIES: usize = 4;

/// Opens `directory`/`relative` for appending; creates the file (0640) and missing directories (0755).
///
/// No component of `relative`, nor the last one of `directory`, may be a symlink, and what is there already must be
/// a regular file with one name: nothing else is opened, not even for a moment. May block for as long as the
/// filesystem does.
///
/// # Errors
/// `InvalidArgument` where `relative` could lead out of the directory, `FailedPrecondition` where something other
/// than such a file or directory is in the way, `Internal` for the rest.
pub fn open_beneath_blocking(directory: &Path, relative: &Path) -> Result<File> {
    let names = names_of(relative)?;
    let (file, parents) = names
        .split_last()
        .ok_or_else(|| Error::invalid("log path: names no file"))?;
    std::fs::create_dir_all(directory).classify(Kind::Internal, || {
        format!("make the directory {directory:?}")
    })?;
    let dir_flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir = open(directory, dir_flags, Mode::empty()).map_err(|e| refused(directory, e))?;
    for name in parents {
        dir = enter(&dir, name).map_err(|e| refused(&directory.join(relative), e))?;
    }
    open_last(&dir, file).map_err(|trouble| match trouble {
        Trouble::Sys(e) => refused(&directory.join(relative), e),
        Trouble::Shape(what) => Error::precondition(format!(
            "{:?} is {what}: remove it, logs go to regular files only",
            directory.join(relative)
        )),
    })
}

/// The plain names that `relative` is made of.
fn names_of(relative: &Path) -> Result<Vec<&OsStr>> {
    relative
        .components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| match component {
            Component::Normal(name) => Ok(name),
            _ => Err(Error::invalid(format!(
                "{relative:?}: want a relative path without .."
            ))),
        })
        .collect()
}

fn refused(path: &Path, errno: Errno) -> Error {
    let kind = match errno {
        Errno::ELOOP | Errno::ENOTDIR | Errno::EISDIR => Kind::FailedPrecondition,
        _ => Kind::Internal,
    };
    Error::new(kind, format!("open {path:?} for appending")).caused_by(io::Error::from(errno))
}

/// Opens the directory `name` in `dir`, made where it is missing.
fn enter(dir: &OwnedFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let mode = Mode::from_bits_truncate(DIR_MODE);
    let is_ours = match mkdirat(dir, name, mode) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(e) => return Err(e),
    };
    let fd = openat(dir, name, flags, Mode::empty())?;
    if is_ours {
        fchmod(&fd, mode)?; // whatever the umask
    }
    Ok(fd)
}

enum Trouble {
    Sys(Errno),
    Shape(&'static str),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Sys(errno)
    }
}

fn open_last(dir: &OwnedFd, name: &OsStr) -> Result<File, Trouble> {
    let create = OFlag::O_WRONLY
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC;
    let look = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(FILE_MODE);
    for _ in 0..TRIES {
        match openat(dir, name, look, Mode::empty()) {
            Ok(found) => match reopen_regular(&found)? {
                Some(file) => return Ok(file),
                None => continue, // unlinked since
            },
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        match openat(dir, name, create, mode) {
            Ok(fd) => {
                fchmod(&fd, mode)?;
                return Ok(File::from(fd));
            }
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Trouble::Sys(Errno::EAGAIN))
}

/// Opens what `found` (an `O_PATH` descriptor) stands for, if it is a file that only this name leads to.
fn reopen_regular(found: &OwnedFd) -> Result<Option<File>, Trouble> {
    let stat = fstat(found.as_fd())?;
    let shape = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    match shape {
        SFlag::S_IFREG => {}
        SFlag::S_IFLNK => return Err(Trouble::Shape("a symlink")),
        SFlag::S_IFDIR => return Err(Trouble::Shape("a directory")),
        _ => return Err(Trouble::Shape("a fifo, a socket or a device")),
    }
    match stat.st_nlink {
        0 => return Ok(None),
        1 => {}
        _ => return Err(Trouble::Shape("a file with several names (hard links)")),
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    // Read access too: the writer looks at the last bytes for a record that a crash tore.
    let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CLOEXEC;
    let fd = open(path.as_str(), flags, Mode::empty())?;
    Ok(Some(File::from(fd)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rstest::rstest;

    use super::*;

    #[test]
    fn a_new_file_and_its_directories_get_the_contract_modes() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("pod");

        open_beneath_blocking(&dir, Path::new("./app/0.log"))
            .unwrap()
            .write_all(b"1")
            .unwrap();
        open_beneath_blocking(&dir, Path::new("app/0.log"))
            .unwrap()
            .write_all(b"2")
            .unwrap();

        let mode = |p: &str| std::fs::metadata(dir.join(p)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode("app/0.log"), 0o640);
        assert_eq!(mode("app"), 0o755);
        assert_eq!(std::fs::read(dir.join("app/0.log")).unwrap(), b"12");
    }

    #[rstest]
    #[case("../x")]
    #[case("/abs")]
    #[case("a/../../x")]
    #[case("")]
    #[case(".")]
    fn a_path_that_could_leave_is_invalid(#[case] path: &str) {
        let root = tempfile::tempdir().unwrap();
        let error = open_beneath_blocking(root.path(), Path::new(path)).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
    }

    #[test]
    fn nothing_but_a_plain_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let canary = root.path().join("canary");
        std::fs::write(&canary, b"alive").unwrap();
        let dir = root.path().join("pod");
        std::fs::create_dir(&dir).unwrap();
        symlink(&canary, dir.join("symlink")).unwrap();
        symlink(root.path(), dir.join("dirlink")).unwrap();
        symlink(root.path().join("made"), dir.join("dangling")).unwrap();
        std::fs::hard_link(&canary, dir.join("hardlink")).unwrap();
        super::super::fifo::make(&dir.join("fifo")).unwrap();
        std::fs::create_dir(dir.join("dir")).unwrap();

        for bad in [
            "symlink",
            "dirlink/canary",
            "dangling",
            "hardlink",
            "fifo",
            "dir",
        ] {
            let error = open_beneath_blocking(&dir, Path::new(bad)).unwrap_err();
            assert_eq!(error.kind(), Kind::FailedPrecondition, "{bad}: {error}");
        }
        symlink(&dir, root.path().join("podlink")).unwrap();
        let error =
            open_beneath_blocking(&root.path().join("podlink"), Path::new("0.log")).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert_eq!(std::fs::read(&canary).unwrap(), b"alive");
        assert!(!root.path().join("made").exists());
    }
}
