//! The archive of a checkpoint: a plain tar. Blocking.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::model::{Context as _, Error, Result};
use crate::sys::errno::SysContext as _;
use crate::sys::files::open_regular_blocking;
use crate::sys::new_file::{NewFile, Place};

const MODE: u32 = 0o600;

/// A member of the archive.
pub(super) enum Member {
    /// Of these bytes.
    Text(&'static str, Vec<u8>),
    /// With what a plain file has now.
    File(String, PathBuf),
    /// The same, if such a file is there.
    FileIfThere(&'static str, PathBuf),
}

/// Writes the archive and answers its size. `gone` is cancelled when nobody waits for it any more. A failure, or the end
/// of this process, leaves nothing.
///
/// # Errors
/// `ResourceExhausted` on a full disk, `AlreadyExists` where the place is taken meanwhile, `Cancelled` where nobody waits
/// any more.
pub(super) fn write_blocking(
    place: &Place,
    members: &[Member],
    gone: &CancellationToken,
) -> Result<u64> {
    let what = || format!("write {}", place.path().display());
    let new = NewFile::begin_blocking(place)?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 18, &new.file));
    for member in members {
        if gone.is_cancelled() {
            break;
        }
        add(&mut tar, member).context(what)?;
    }
    let flushed = tar.into_inner().and_then(|mut file| file.flush());
    flushed.sys(what)?;
    if gone.is_cancelled() {
        return Err(Error::cancelled("the checkpoint was given up"));
    }
    new.keep_blocking()
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
