//! A file that others hand over a place for: it must be a new one, and gets its name only once it is whole.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{fsync, geteuid, linkat};

use super::errno::SysContext as _;
use super::files::unnamed_file_blocking;
use crate::model::{Error, Result};

/// Bits that let others than the owner write to a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit by which they cannot touch what is not theirs there.
const STICKY: u32 = 0o1000;

/// Where the file is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    dir: PathBuf,
    name: String,
}

/// The file before it has its name. Dropping it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    place: Place,
    dir: OwnedFd,
    /// What is to be filled.
    pub file: File,
}

impl Place {
    /// The place that `text` names.
    ///
    /// # Errors
    /// `InvalidArgument` unless it is the absolute path of a file.
    pub fn of(text: &str) -> Result<Self> {
        let path = Path::new(text);
        let is_plain = path.is_absolute()
            && !text.ends_with('/')
            && !path.components().any(|part| part == Component::ParentDir);
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        match (path.parent(), name) {
            (Some(dir), Some(name)) if is_plain => Ok(Self {
                dir: dir.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(Error::invalid(format!(
                "location {text:?}: want the absolute path of a file, without \"..\""
            ))),
        }
    }

    /// The whole path.
    pub fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Whether a file may be made here.
    ///
    /// # Errors
    /// `InvalidArgument` where others may write to the directory, who could put a file of theirs in the place of ours;
    /// `AlreadyExists` where something is there; `NotFound` without the directory.
    pub fn check_blocking(&self) -> Result<()> {
        self.open_blocking().map(drop)
    }

    fn open_blocking(&self) -> Result<OwnedFd> {
        let what = || format!("open directory {}", self.dir.display());
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(AT_FDCWD, &self.dir, flags, Mode::empty()).sys(what)?;
        let facts = File::from(dir.try_clone().sys(what)?)
            .metadata()
            .sys(what)?;
        let is_ours = facts.uid() == geteuid().as_raw();
        if !is_ours || (facts.mode() & WRITABLE_BY_OTHERS != 0 && facts.mode() & STICKY == 0) {
            return Err(Error::invalid(format!(
                "location {}: others may write to its directory; choose one that is root's alone",
                self.path().display()
            )));
        }
        match std::fs::symlink_metadata(self.path()) {
            Ok(_taken) => Err(self.taken()),
            Err(_free) => Ok(dir),
        }
    }

    fn taken(&self) -> Error {
        Error::already_exists(format!(
            "location {}: something is there already",
            self.path().display()
        ))
    }
}

impl NewFile {
    /// Begins the file, readable by root alone.
    ///
    /// # Errors
    /// Those of [`Place::check_blocking`], and where the file system has no files without names.
    pub fn begin_blocking(place: &Place) -> Result<Self> {
        let dir = place.open_blocking()?;
        Ok(Self {
            file: unnamed_file_blocking(&link_to(&dir))?,
            place: place.clone(),
            dir,
        })
    }

    /// Brings the file to the disk and gives it its name; answers its size in bytes.
    ///
    /// # Errors
    /// `AlreadyExists` where the place was taken meanwhile; `ResourceExhausted` on a full disk.
    pub fn keep_blocking(self) -> Result<u64> {
        let what = || format!("write {}", self.place.path().display());
        self.file.sync_all().sys(what)?;
        let named = linkat(
            AT_FDCWD,
            &link_to(&self.file),
            &self.dir,
            self.place.name.as_str(),
            AtFlags::AT_SYMLINK_FOLLOW,
        );
        match named {
            Err(Errno::EEXIST) => return Err(self.place.taken()),
            named => named.sys(what)?,
        }
        fsync(self.dir.as_fd()).sys(what)?;
        Ok(self.file.metadata().sys(what)?.len())
    }
}

/// The path that leads to what is open.
fn link_to(open: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::model::Kind;

    fn place(dir: &Path) -> Place {
        Place::of(dir.join("a:b.tar").to_str().unwrap()).unwrap()
    }

    fn write(place: &Place) -> Result<u64> {
        let mut new = NewFile::begin_blocking(place)?;
        new.file.write_all(b"abc").unwrap();
        new.keep_blocking()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_place_is_the_absolute_path_of_a_file() {
        for bad in ["", "a.tar", "./a.tar", "/", "/a/", "/a/../b", "/.."] {
            assert_eq!(
                Place::of(bad).unwrap_err().kind(),
                Kind::InvalidArgument,
                "{bad:?}"
            );
        }
        let path = "/var/lib/kubelet/checkpoints/checkpoint-p_ns-c-2026-01-01T00:00:00Z.tar";
        assert_eq!(Place::of(path).unwrap().path(), Path::new(path));
    }

    #[test]
    fn a_file_has_a_name_once_it_is_whole_and_belongs_to_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());

        let mut new = NewFile::begin_blocking(&place).unwrap();
        new.file.write_all(b"half").unwrap();
        assert_eq!(names(dir.path()), [""; 0]);
        drop(new);
        assert_eq!(names(dir.path()), [""; 0]);

        assert_eq!(write(&place).unwrap(), 3);
        let facts = fs::metadata(place.path()).unwrap();
        assert_eq!(facts.permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(dir.path()), ["a:b.tar"]);
    }

    #[test]
    fn what_is_there_already_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        for make in [
            |path: &Path| fs::write(path, "theirs").unwrap(),
            |path: &Path| std::os::unix::fs::symlink("/nowhere", path).unwrap(),
        ] {
            let late = NewFile::begin_blocking(&place).unwrap();
            make(&place.path());
            for refused in [write(&place), late.keep_blocking()] {
                let error = refused.unwrap_err();
                assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
            }
            assert_eq!(names(dir.path()), ["a:b.tar"]);
            fs::remove_file(place.path()).unwrap();
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_unless_it_is_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        for (mode, is_taken) in [
            (0o777, false),
            (0o770, false),
            (0o1777, true),
            (0o755, true),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let written = write(&place);
            assert_eq!(written.is_ok(), is_taken, "{mode:o}: {written:?}");
            if let Err(error) = written {
                assert_eq!(error.kind(), Kind::InvalidArgument);
            }
            drop(fs::remove_file(place.path()));
        }
    }
}
