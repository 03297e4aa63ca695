//! Files that a crash never leaves half-written, and reads that a hostile file cannot hang or blow up.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK, O_TMPFILE};

use super::errno::SysContext;
use crate::model::{Error, Result};

/// How names of files begin that an interrupted write may have left behind.
const TEMPORARY_PREFIX: &str = ".pw-tmp-";

/// Whether a replacement of a file has to survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// Old or new after a crash of ours; anything after a power cut.
    Crash,
    /// Old or new after a power cut as well.
    PowerCut,
}

/// Replaces the file at `path` with `bytes` and permission bits `mode`: readers see the old file or the new one,
/// never a part. Not synced to disk.
///
/// # Errors
/// Where the directory is missing (`NotFound`), full or not writable; the old file is then untouched.
pub fn write_atomic_blocking(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, Durability::Crash)
}

/// As [`write_atomic_blocking`], and on return the file and its name have reached the disk.
///
/// # Errors
/// As there; after a failed sync of the directory the new file may be in place without being durable.
pub fn write_synced_blocking(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    replace(path, bytes, mode, Durability::PowerCut)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durability: Durability) -> Result<()> {
    let what = || format!("write {}", path.display());
    let dir = parent_of(path)?;
    let temporary = temporary_beside(dir)?;
    let written = write_new(&temporary, bytes, mode, durability)
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = written {
        drop(std::fs::remove_file(&temporary)); // sweep_temporaries_blocking takes what stays
        return Err(error).sys(what);
    }
    match durability {
        Durability::Crash => Ok(()),
        Durability::PowerCut => sync_dir_blocking(dir),
    }
}

fn write_new(
    temporary: &Path,
    bytes: &[u8],
    mode: u32,
    durability: Durability,
) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(O_CLOEXEC | O_NOFOLLOW)
        .open(temporary)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?; // the umask must not thin it
    file.write_all(bytes)?;
    match durability {
        Durability::Crash => Ok(()),
        Durability::PowerCut => file.sync_all(),
    }
}

fn parent_of(path: &Path) -> Result<&Path> {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .ok_or_else(|| Error::internal(format!("{}: no directory in the path", path.display())))
}

fn temporary_beside(dir: &Path) -> Result<PathBuf> {
    let mut random = [0_u8; 8];
    getrandom::fill(&mut random)
        .map_err(|e| Error::internal("read random bytes for a file name").caused_by(e))?;
    Ok(dir.join(format!(
        "{TEMPORARY_PREFIX}{:016x}",
        u64::from_ne_bytes(random)
    )))
}

/// Whether `name` is one that an interrupted write may have left; scans of a directory pass over such files.
pub fn is_temporary(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(TEMPORARY_PREFIX))
}

/// Removes what interrupted writes left in `dir`; to be called before anyone writes there. A missing directory is
/// fine.
///
/// # Errors
/// Where the directory cannot be read or a file in it cannot be removed.
pub fn sweep_temporaries_blocking(dir: &Path) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.sys(|| format!("read directory {}", dir.display()))?,
    };
    for entry in entries {
        let entry = entry.sys(|| format!("read directory {}", dir.display()))?;
        if is_temporary(&entry.file_name()) {
            remove_file_blocking(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file; one that is not there counts as removed.
///
/// # Errors
/// Where it is there and stays.
pub fn remove_file_blocking(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.sys(|| format!("remove {}", path.display())),
    }
}

/// Brings creations, renames and removals in `dir` to the disk.
///
/// # Errors
/// Where the directory cannot be opened or synced.
pub fn sync_dir_blocking(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .sys(|| format!("sync directory {}", dir.display()))
}

/// Makes `dir` and its missing parents, and gives `dir` itself exactly the permission bits `mode`, also where it
/// stood before with others.
///
/// # Errors
/// Where a part of the path is not a directory or cannot be made.
pub fn make_dir_blocking(dir: &Path, mode: u32) -> Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode)))
        .sys(|| format!("make directory {}", dir.display()))
}

/// A file in `dir` without a name: only its holder sees it, and nothing of it outlives the holder, whatever happens.
///
/// # Errors
/// Where the directory cannot be written or its file system has no such files.
pub fn unnamed_file_blocking(dir: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(O_TMPFILE | O_CLOEXEC)
        .open(dir)
        .sys(|| format!("make an unnamed file in {}", dir.display()))
}

/// Opens a regular file for reading: does not follow a link in the last component, does not wait on a FIFO.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` where it is anything but a regular file.
pub fn open_regular_blocking(path: &Path) -> Result<File> {
    let what = || format!("open {}", path.display());
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
        .open(path)
    {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(nix::libc::ELOOP | nix::libc::ENXIO)
            ) =>
        {
            return Err(not_regular(path));
        }
        opened => opened.sys(what)?,
    };
    if file.metadata().sys(what)?.is_file() {
        Ok(file)
    } else {
        Err(not_regular(path))
    }
}

fn not_regular(path: &Path) -> Error {
    Error::precondition(format!(
        "{}: not a regular file (links are not followed)",
        path.display()
    ))
}

/// Reads a whole regular file of at most `cap` bytes, opened as by [`open_regular_blocking`].
///
/// # Errors
/// As there; `ResourceExhausted` where the file is longer than `cap`.
pub fn read_capped_blocking(path: &Path, cap: u64) -> Result<Vec<u8>> {
    read_open_capped_blocking(open_regular_blocking(path)?, path, cap)
}

/// Reads the rest of an open file, at most `cap` bytes; `path` is for the error text.
///
/// # Errors
/// `ResourceExhausted` where there is more than `cap`.
pub fn read_open_capped_blocking(file: File, path: &Path, cap: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file
        .take(cap.saturating_add(1))
        .read_to_end(&mut bytes)
        .sys(|| format!("read {}", path.display()))?;
    if u64::try_from(read).is_ok_and(|read| read <= cap) {
        Ok(bytes)
    } else {
        Err(Error::exhausted(format!(
            "{}: longer than {cap} bytes",
            path.display()
        )))
    }
}

/// Reads the last bytes of a regular file, at most `cap`, opened as by [`open_regular_blocking`]. Answers whether there is
/// more before them.
///
/// # Errors
/// As there, and where it cannot be read.
pub fn read_tail_blocking(path: &Path, cap: u64) -> Result<(Vec<u8>, bool)> {
    let what = || format!("read the end of {}", path.display());
    let mut file = open_regular_blocking(path)?;
    let length = file.metadata().sys(what)?.len();
    let begin = length.saturating_sub(cap);
    file.seek(SeekFrom::Start(begin)).sys(what)?;
    let mut bytes = Vec::new();
    file.take(cap).read_to_end(&mut bytes).sys(what)?;
    Ok((bytes, begin > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn a_replaced_file_has_the_new_bytes_and_mode_and_leaves_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        std::fs::write(&path, "old, and longer than the new").unwrap();

        for write in [write_atomic_blocking, write_synced_blocking] {
            write(&path, b"new", 0o640).unwrap();
        }

        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("is-a-directory");
        std::fs::create_dir(&target).unwrap();

        assert!(write_atomic_blocking(&target, b"x", 0o600).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let gone = dir.path().join("missing/record");
        let error = write_atomic_blocking(&gone, b"x", 0o600).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn sweeping_takes_only_what_interrupted_writes_left() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".pw-tmp-0123456789abcdef"), "half").unwrap();
        std::fs::write(dir.path().join("record"), "whole").unwrap();

        sweep_temporaries_blocking(dir.path()).unwrap();
        sweep_temporaries_blocking(&dir.path().join("missing")).unwrap();

        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["record"]);
    }

    #[test]
    fn only_a_regular_file_within_the_cap_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let kind = |path: &Path, cap| read_capped_blocking(path, cap).unwrap_err().kind();

        assert_eq!(read_capped_blocking(&file, 5).unwrap(), b"12345");
        assert_eq!(kind(&file, 4), Kind::ResourceExhausted);
        for other in [&link, &fifo, &dir.path().to_owned()] {
            assert_eq!(kind(other, 5), Kind::FailedPrecondition, "{other:?}");
        }
        assert_eq!(kind(Path::new("/dev/zero"), 5), Kind::FailedPrecondition);
        assert_eq!(kind(&dir.path().join("missing"), 5), Kind::NotFound);
    }

    #[test]
    fn a_directory_that_stood_too_open_is_tightened() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        make_dir_blocking(&state, 0o755).unwrap();
        make_dir_blocking(&state, 0o700).unwrap();

        let mode = std::fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}
