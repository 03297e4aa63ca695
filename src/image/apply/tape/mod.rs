//! Reading a tar from a stream, entry by entry, as containerd reads it: both must see the same entries, or one could be
//! shown a layer that the other never unpacks. Nothing but the present header is held in memory, and that is bounded.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

use crate::model::{Error, Result};
use header::{BLOCK, Header};
use pax::Records;

pub(super) use sparse::Piece;

/// Bytes of one extended header or long name.
const MAX_EXTENSION: u64 = 1 << 20;
/// Latest time that fits a file: what lies beyond is the beginning of time.
const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A regular file of this many bytes; where it has holes, the pieces that are there.
    File {
        size: u64,
        pieces: Option<Vec<Piece>>,
    },
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Character,
    Block,
    /// Settings for entries after it, which containerd does not obey either.
    Global,
    /// A kind that has no meaning in a layer.
    Unknown(u8),
}

/// One entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) atime: (i64, i64),
    pub(super) mtime: (i64, i64),
    pub(super) device: (i64, i64),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar on its way.
pub(super) struct Tape<R> {
    input: R,
    /// Bytes of the present entry that were not read, and the padding after them.
    left: u64,
    padding: u64,
}

fn malformed(why: &str) -> Error {
    Error::new(
        crate::model::Kind::Aborted,
        format!("not a well-formed tar: {why}"),
    )
}

/// A failure of the stream below. What it carries tells the cause.
pub(super) fn broken(error: io::Error) -> Error {
    if error.get_ref().is_some_and(|inner| inner.is::<Error>()) {
        if let Some(Ok(inner)) = error.into_inner().map(|inner| inner.downcast::<Error>()) {
            return *inner;
        }
        return Error::internal("an error that could not be read");
    }
    Error::new(crate::model::Kind::Aborted, "read the layer").caused_by(error)
}

impl<R: BufRead> Tape<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` after the last. What was not read of the present one is skipped.
    ///
    /// # Errors
    /// `Aborted` for a malformed archive; those of the stream.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        let mut records = Records::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header.flag() {
                b'x' => {
                    let bytes = self.extension(&header)?;
                    records =
                        pax::records(&bytes).ok_or_else(|| malformed("an extended header"))?;
                }
                b'g' => {
                    let bytes = self.extension(&header)?;
                    pax::records(&bytes).ok_or_else(|| malformed("a global header"))?;
                    let mut entry = plain(&header)?;
                    entry.kind = EntryKind::Global;
                    return Ok(Some(entry));
                }
                b'L' => long_name = Some(header::text(&self.extension(&header)?).to_vec()),
                b'K' => long_link = Some(header::text(&self.extension(&header)?).to_vec()),
                _ => {
                    let long_name = long_name.filter(|name| !name.is_empty());
                    let long_link = long_link.filter(|link| !link.is_empty());
                    return self
                        .entry(&header, &records, long_name, long_link)
                        .map(Some);
                }
            }
        }
    }

    /// The rest of the input after the last entry, to its end.
    pub(super) fn drain(mut self) -> Result<()> {
        loop {
            let length = self.input.fill_buf().map_err(broken)?.len();
            if length == 0 {
                return Ok(());
            }
            self.input.consume(length);
        }
    }

    /// Some bytes of the present entry, at most `most`; empty after the last.
    pub(super) fn data(&mut self, most: u64) -> Result<&[u8]> {
        let most = usize::try_from(most.min(self.left)).unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(&[]);
        }
        let bytes = self.input.fill_buf().map_err(broken)?;
        if bytes.is_empty() {
            return Err(malformed("it ends within a file"));
        }
        Ok(bytes.get(..most.min(bytes.len())).unwrap_or_default())
    }

    /// Goes on by `count` bytes that [`Tape::data`] answered.
    pub(super) fn consume(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count as u64);
        self.input.consume(count);
    }

    fn skip(&mut self) -> Result<()> {
        while self.left > 0 {
            let count = self.data(u64::MAX)?.len();
            self.consume(count);
        }
        self.left = std::mem::take(&mut self.padding);
        while self.left > 0 {
            let length = self.input.fill_buf().map_err(broken)?.len() as u64;
            if length == 0 {
                self.left = 0; // some archives end without their last padding
                break;
            }
            self.consume(usize::try_from(length.min(self.left)).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// Fills `block`; `false` where the input ended before its first byte.
    fn block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let bytes = self.input.fill_buf().map_err(broken)?;
            let count = bytes.len().min(rest.len());
            if count == 0 {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(malformed("it ends within a block"));
            }
            for (to, from) in rest.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.input.consume(count);
            filled = filled.saturating_add(count);
        }
        Ok(true)
    }

    /// The next header, or `None` at the end: two blocks of zeros, or nothing.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        if !self.block(&mut block)? {
            return Ok(None);
        }
        let header = Header::new(block);
        if header.is_zero() {
            if !self.block(&mut block)? || Header::new(block).is_zero() {
                return Ok(None);
            }
            return Err(malformed("one empty block in the middle"));
        }
        if !header.is_intact() {
            return Err(malformed("a header's sum is wrong"));
        }
        Ok(Some(header))
    }

    /// The whole content of a header that belongs to the entry after it.
    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = size_of(header.size())?;
        if size > MAX_EXTENSION {
            return Err(malformed("an extended header longer than 1 MiB"));
        }
        self.begin(size);
        let mut bytes = Vec::new();
        while self.left > 0 {
            let piece = self.data(u64::MAX)?;
            let count = piece.len();
            bytes.extend_from_slice(piece);
            self.consume(count);
        }
        Ok(bytes)
    }

    fn begin(&mut self, size: u64) {
        let block = BLOCK as u64;
        self.left = size;
        self.padding = size.wrapping_neg() % block;
    }

    fn entry(
        &mut self,
        header: &Header,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry> {
        let mut entry = plain(header)?;
        let mut size = header
            .size()
            .ok_or_else(|| malformed("a size that is no number"))?;
        merge(&mut entry, &mut size, records)?;
        entry.name = long_name.unwrap_or(entry.name);
        entry.link = long_link.unwrap_or(entry.link);
        // A file was last read when it was last written, or later.
        entry.atime = bound(entry.atime.max(entry.mtime));
        entry.mtime = bound(entry.mtime);
        entry.kind = match header.flag() {
            0 if entry.name.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'S' => EntryKind::File {
                size: size_of(Some(size))?,
                pieces: None,
            },
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Character,
            b'4' => EntryKind::Block,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => EntryKind::Unknown(other),
        };
        // Only what can have content has some, whatever the size says.
        self.begin(match entry.kind {
            EntryKind::File { size, .. } => size,
            EntryKind::Unknown(_) => size_of(Some(size))?,
            _ => 0,
        });
        if header.flag() == b'S' {
            entry.kind = self.old_sparse(header)?;
        } else if pax::is_sparse(records) {
            // Rare, and in three versions.
            return Err(Error::unimplemented("a file with holes in a POSIX archive"));
        }
        Ok(entry)
    }
}

/// The entry as its header alone has it.
fn plain(header: &Header) -> Result<Entry> {
    let number = |number: Option<i64>| number.ok_or_else(|| malformed("a number in a header"));
    let mtime = number(header.mtime())?;
    Ok(Entry {
        name: header.name(),
        link: header.link(),
        kind: EntryKind::Global,
        mode: mode_of(number(header.mode())?),
        uid: number(header.uid())?,
        gid: number(header.gid())?,
        atime: (header.atime().unwrap_or(i64::MIN), 0),
        mtime: (mtime, 0),
        device: header
            .device()
            .ok_or_else(|| malformed("a device number"))?,
        xattrs: Vec::new(),
    })
}

/// What extended records say takes the place of what the header says.
fn merge(entry: &mut Entry, size: &mut i64, records: &Records) -> Result<()> {
    let wrong = || malformed("a value in an extended header");
    for (key, value) in records.iter().filter(|(_, value)| !value.is_empty()) {
        match key.as_slice() {
            b"path" => entry.name.clone_from(value),
            b"linkpath" => entry.link.clone_from(value),
            b"uid" => entry.uid = pax::number(value).ok_or_else(wrong)?,
            b"gid" => entry.gid = pax::number(value).ok_or_else(wrong)?,
            b"size" => *size = pax::number(value).ok_or_else(wrong)?,
            b"atime" => entry.atime = pax::time(value).ok_or_else(wrong)?,
            b"mtime" => entry.mtime = pax::time(value).ok_or_else(wrong)?,
            _ => {}
        }
    }
    entry.xattrs = pax::xattrs(records);
    Ok(())
}

fn size_of(size: Option<i64>) -> Result<u64> {
    let size = size.ok_or_else(|| malformed("a size that is no number"))?;
    u64::try_from(size).map_err(|_negative| malformed("a size below zero"))
}

fn mode_of(mode: i64) -> u32 {
    u32::try_from(mode & 0o7777).unwrap_or(0)
}

/// Times that a file cannot have are the beginning of time.
fn bound(time: (i64, i64)) -> (i64, i64) {
    if (0..MAX_SECONDS).contains(&time.0) {
        time
    } else {
        (0, 0)
    }
}
