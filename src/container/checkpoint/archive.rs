//! The archive of a checkpoint: a plain tar, that gets its name when it is whole. Blocking.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{fsync, linkat};
use tokio_util::sync::CancellationToken;

use crate::model::{Context as _, Error, Result};
use crate::sys::errno::SysContext as _;
use crate::sys::files::{open_regular_blocking, unnamed_file_blocking};

const MODE: u32 = 0o600;
/// Bits that let others than the owner write to a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The bit by which they cannot touch what is not theirs there.
const STICKY: u32 = 0o1000;

/// Where the archive is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    dir: PathBuf,
    name: String,
}

/// A member of the archive.
pub(super) enum Member {
    /// Of these bytes.
    Text(&'static str, Vec<u8>),
    /// With what a plain file has now.
    File(String, PathBuf),
    /// The same, if such a file is there.
    FileIfThere(&'static str, PathBuf),
}

impl Place {
    /// The place that a request names.
    ///
    /// # Errors
    /// `InvalidArgument` unless it is the absolute path of a file.
    pub(super) fn of(location: &str) -> Result<Self> {
        let path = Path::new(location);
        let plain = path
            .components()
            .all(|part| !matches!(part, std::path::Component::ParentDir));
        let name = path.file_name().and_then(std::ffi::OsStr::to_str);
        match (path.parent(), name) {
            (Some(dir), Some(name)) if path.is_absolute() && plain && !location.ends_with('/') => {
                Ok(Self {
                    dir: dir.to_owned(),
                    name: name.to_owned(),
                })
            }
            _ => Err(Error::invalid(format!(
                "location {location:?}: want the absolute path of a file, without \"..\""
            ))),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Opens the directory: nobody else may put a file of theirs in the place of ours (threats §2.3).
    pub(super) fn open_blocking(&self) -> Result<OwnedFd> {
        let what = || format!("open directory {}", self.dir.display());
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = openat(AT_FDCWD, &self.dir, flags, Mode::empty()).sys(what)?;
        let facts = File::from(dir.try_clone().sys(what)?)
            .metadata()
            .sys(what)?;
        let is_ours = facts.uid() == nix::unistd::geteuid().as_raw();
        if !is_ours || (facts.mode() & WRITABLE_BY_OTHERS != 0 && facts.mode() & STICKY == 0) {
            return Err(Error::invalid(format!(
                "location {}: others may write to its directory; choose one that is root's alone",
                self.path().display()
            )));
        }
        let taken = std::fs::symlink_metadata(self.path());
        if taken.is_ok() {
            return Err(self.taken());
        }
        Ok(dir)
    }

    fn taken(&self) -> Error {
        Error::already_exists(format!(
            "location {}: something is there already",
            self.path().display()
        ))
    }
}

/// Writes the archive and answers its size. `gone` is cancelled when nobody waits for it any more. The file has no name
/// until it is whole, so that a failure, or the end of this process, leaves nothing.
///
/// # Errors
/// `ResourceExhausted` on a full disk, `AlreadyExists` where the place is taken meanwhile, `Cancelled` where nobody waits
/// any more.
pub(super) fn write_blocking(
    place: &Place,
    members: &[Member],
    gone: &CancellationToken,
) -> Result<u64> {
    let dir = place.open_blocking()?;
    let what = || format!("write {}", place.path().display());
    let file = unnamed_file_blocking(&link_to(&dir)).context(what)?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, &file));
    for member in members {
        if gone.is_cancelled() {
            break;
        }
        add(&mut tar, member).context(what)?;
    }
    tar.into_inner()
        .and_then(|mut file| file.flush())
        .sys(what)?;
    file.sync_all().sys(what)?;
    if gone.is_cancelled() {
        return Err(Error::cancelled("the checkpoint was given up"));
    }
    let named = linkat(
        AT_FDCWD,
        &link_to(&file),
        &dir,
        place.name.as_str(),
        AtFlags::AT_SYMLINK_FOLLOW,
    );
    match named {
        Err(Errno::EEXIST) => return Err(place.taken()),
        named => named.sys(what)?,
    }
    fsync(dir.as_fd()).sys(what)?;
    Ok(file.metadata().sys(what)?.len())
}

/// The path that leads to what is open.
fn link_to(open: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_fd().as_raw_fd()))
}

fn add(tar: &mut tar::Builder<impl Write>, member: &Member) -> Result<()> {
    match member {
        Member::Text(name, text) => {
            let size = text.len() as u64;
            append(tar, name, size, text.as_slice()).sys(|| (*name).to_owned())
        }
        Member::File(name, path) => {
            let (file, size) = open(path)?;
            append(tar, name, size, file.take(size)).sys(|| name.clone())
        }
        Member::FileIfThere(name, path) => match open(path) {
            Ok((file, size)) => append(tar, name, size, file.take(size)).sys(|| (*name).to_owned()),
            Err(_not_there) => Ok(()),
        },
    }
}

fn open(path: &Path) -> Result<(File, u64)> {
    let file = open_regular_blocking(path)?;
    let size = file
        .metadata()
        .sys(|| format!("open {}", path.display()))?
        .len();
    Ok((file, size))
}

/// Adds a plain file of root's. It must have as many bytes as its header says.
fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(MODE);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    let mut counted = Counted { data, count: 0 };
    tar.append_data(&mut header, name, &mut counted)?;
    match counted.count == size {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{name} ended after {} of {size} bytes", counted.count),
        )),
    }
}

struct Counted<R> {
    data: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.data.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}
