//! An archive on disk: a tar of hostile origin, an image's or a checkpoint's. Nothing of it is ever unpacked; entries are
//! only found by name and read where they lie. Blocking.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;

use super::apply::{GZIP, Unzstd, ZSTD};
use crate::model::{Error, Result};
use crate::sys::errno::SysContext as _;

const MAX_ENTRIES: usize = 10_000;
const MAX_NAME: usize = 1024;
const MAX_LINKS: usize = 8;
/// Bytes of one extended header.
const MAX_EXTENSION: u64 = 1 << 20;

/// Where an entry's bytes lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    offset: u64,
    /// How many there are.
    pub len: u64,
}

/// The entries of an archive by their clean names.
#[derive(Debug)]
pub struct Archive {
    file: File,
    spans: HashMap<String, Span>,
    links: HashMap<String, String>,
}

fn bad(why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("archive: {why}"))
}

fn malformed(error: std::io::Error) -> Error {
    bad("not a well-formed tar").caused_by(error)
}

/// Refuses headers that only lengthen names or add attributes, and are longer than any such thing: reading the entries
/// takes each of them into memory whole.
fn check_extensions(reader: impl Read + Seek) -> Result<()> {
    let mut tar = tar::Archive::new(reader);
    for entry in tar.entries_with_seek().map_err(malformed)?.raw(true) {
        let entry = entry.map_err(malformed)?;
        let kind = entry.header().entry_type();
        let is_extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if is_extension && entry.size() > MAX_EXTENSION {
            let size = entry.size();
            return Err(bad(format!("an extended header of {size} bytes")));
        }
    }
    Ok(())
}

impl Archive {
    /// Reads the table of entries.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed tar, an entry that leads outside, appears twice or is neither file, directory
    /// nor symbolic link, and beyond the limits.
    pub fn open_blocking(file: File) -> Result<Self> {
        let len = file
            .metadata()
            .map_err(|error| bad("cannot be read").caused_by(error))?
            .len();
        let reader = file
            .try_clone()
            .map_err(|error| bad("cannot be read").caused_by(error))?;
        let mut archive = Self {
            file,
            spans: HashMap::new(),
            links: HashMap::new(),
        };
        let mut reader = BufReader::new(reader);
        check_extensions(&mut reader)?;
        reader.rewind().map_err(malformed)?;
        let mut tar = tar::Archive::new(reader);
        for entry in tar.entries_with_seek().map_err(malformed)? {
            archive.add(&entry.map_err(malformed)?, len)?;
        }
        Ok(archive)
    }

    fn add<R: std::io::Read>(&mut self, entry: &tar::Entry<'_, R>, len: u64) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            return Ok(());
        }
        if self.spans.len().saturating_add(self.links.len()) >= MAX_ENTRIES {
            return Err(bad(format!("more than {MAX_ENTRIES} entries")));
        }
        let path = entry.path_bytes();
        let text =
            std::str::from_utf8(&path).map_err(|_binary| bad("an entry's name is no text"))?;
        let name = clean("", text)?;
        let is_new = !self.spans.contains_key(&name) && !self.links.contains_key(&name);
        if !is_new {
            return Err(bad(format!("{name:?} appears twice")));
        }
        if kind.is_symlink() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = std::str::from_utf8(&target)
                .map_err(|_binary| bad("a link's target is no text"))?;
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            let target = clean(parent, target)?;
            self.links.insert(name, target);
            return Ok(());
        }
        if !kind.is_file() && !kind.is_contiguous() {
            return Err(bad(format!(
                "{name:?} is neither file, directory nor symbolic link"
            )));
        }
        let span = Span {
            offset: entry.raw_file_position(),
            len: entry.size(),
        };
        if span
            .offset
            .checked_add(span.len)
            .is_none_or(|end| end > len)
        {
            return Err(bad(format!("{name:?} is cut off")));
        }
        self.spans.insert(name, span);
        Ok(())
    }

    /// The entry `name`, following links inside the archive.
    pub fn find(&self, name: &str) -> Option<Span> {
        let mut name = name;
        for _hop in 0..MAX_LINKS {
            if let Some(span) = self.spans.get(name) {
                return Some(*span);
            }
            name = self.links.get(name)?;
        }
        None
    }

    /// All files directly or indirectly below `prefix`, with the rest of their names.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, Span)> {
        self.spans
            .iter()
            .filter_map(move |(name, span)| Some((name.strip_prefix(prefix)?, *span)))
    }

    /// Whether it has links, by which one entry is read under the name of another.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Reads at most `max` bytes of an entry from byte `from` on; empty at its end.
    pub(super) fn read_at(&self, span: Span, from: u64, max: usize) -> Result<Vec<u8>> {
        let left = span.len.saturating_sub(from);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(max);
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, span.offset.saturating_add(from))
            .map_err(|error| bad("cannot be read").caused_by(error))?;
        Ok(bytes)
    }

    /// Reads a whole entry of at most `limit` bytes.
    ///
    /// # Errors
    /// `ResourceExhausted` where it is longer; `InvalidArgument` where it cannot be read.
    pub fn read_blocking(&self, span: Span, limit: u64) -> Result<Vec<u8>> {
        if span.len > limit {
            return Err(Error::exhausted(format!(
                "archive: a document of {} bytes, more than {limit}",
                span.len
            )));
        }
        self.read_at(span, 0, usize::MAX)
    }

    /// Copies a whole entry to where `into` stands.
    ///
    /// # Errors
    /// `ResourceExhausted` on a full disk; `InvalidArgument` where the archive has become shorter.
    pub fn copy_blocking(&self, span: Span, into: &mut File) -> Result<()> {
        let unreadable = |error: std::io::Error| bad("cannot be read").caused_by(error);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(span.offset))
            .map_err(unreadable)?;
        let what = || "copy out of an archive".to_owned();
        let copied = std::io::copy(&mut file.take(span.len), into).sys(what)?;
        match copied == span.len {
            true => Ok(()),
            false => Err(bad("it became shorter while it was read")),
        }
    }
}

/// The name that `text` has when it stands in `parent`; refused where it leads outside.
fn clean(parent: &str, text: &str) -> Result<String> {
    if text.len() > MAX_NAME || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(bad(
            "an entry's name is too long or holds control characters",
        ));
    }
    if text.starts_with('/') {
        return Err(bad(format!("{text:?} is an absolute name")));
    }
    let mut parts: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => {
                return Err(bad(format!("{text:?} leads outside")));
            }
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// The archive from its beginning; gzip or zstd around it, where there is one, undone into `spare`, at most `limit` bytes.
///
/// # Errors
/// `InvalidArgument` for what is broken, `ResourceExhausted` above the limit or on a full disk.
pub fn plain_blocking(
    mut file: File,
    spare: impl FnOnce() -> Result<File>,
    limit: u64,
) -> Result<File> {
    let unreadable = |error: std::io::Error| bad("cannot be read").caused_by(error);
    file.rewind().map_err(unreadable)?;
    let mut magic = [0_u8; 4];
    let packed: Box<dyn Read> = match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic.starts_with(GZIP) => {
            Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
        }
        Ok(()) if magic.starts_with(ZSTD) => {
            Box::new(Unzstd::new(BufReader::new(file)).map_err(unreadable)?)
        }
        _ => return Ok(file),
    };
    let mut out = spare()?;
    let mut bounded = packed.take(limit.saturating_add(1));
    let written = std::io::copy(&mut bounded, &mut out).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::StorageFull => Error::exhausted("archive: the disk is full"),
            _ => bad("cannot be decompressed"),
        }
        .caused_by(error)
    })?;
    if written > limit {
        return Err(Error::exhausted(format!(
            "archive: larger than {limit} bytes when decompressed"
        )));
    }
    out.rewind().map_err(unreadable)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rstest::rstest;

    use super::*;

    fn raw(name: &str, kind: tar::EntryType, link: &str, body: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        // Written by hand: the crate's setters refuse what an attacker would write.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn open(entries: &[Vec<u8>]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        for entry in entries {
            file.write_all(entry).unwrap();
        }
        file.write_all(&[0; 1024]).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Archive::open_blocking(file)
    }

    fn file(name: &str, body: &[u8]) -> Vec<u8> {
        raw(name, tar::EntryType::Regular, "", body)
    }

    #[rstest]
    fn an_extended_header_beyond_any_name_is_refused_unread(
        #[values(b'L', b'K', b'x', b'g')] kind: u8,
    ) {
        let body = vec![b'a'; usize::try_from(MAX_EXTENSION).unwrap() + 1];
        let header = raw("././@LongLink", tar::EntryType::new(kind), "", &body);

        let error = open(&[header, file("a", b"")]).unwrap_err();

        assert!(
            error.chain().contains("extended header"),
            "{}",
            error.chain()
        );
    }

    #[test]
    fn entries_are_found_by_clean_name_and_through_links_inside() {
        let archive = open(&[
            file("./a/b", b"hello"),
            raw("c/link", tar::EntryType::Symlink, "../a/b", b""),
            raw("a/", tar::EntryType::Directory, "", b""),
        ])
        .unwrap();

        for name in ["a/b", "c/link"] {
            let span = archive.find(name).unwrap();
            assert_eq!(archive.read_blocking(span, 5).unwrap(), b"hello");
            assert!(archive.read_blocking(span, 4).is_err());
        }
        assert_eq!(
            archive
                .below("a/")
                .map(|(name, _)| name)
                .collect::<Vec<_>>(),
            ["b"]
        );
        assert!(archive.find("nothing").is_none());
    }

    #[rstest]
    #[case::outside(vec![file("../x", b"")])]
    #[case::absolute(vec![file("/etc/passwd", b"")])]
    #[case::twice(vec![file("a", b"1"), file("./a", b"2")])]
    #[case::hard_link(vec![raw("a", tar::EntryType::Link, "/etc/shadow", b"")])]
    #[case::link_outside(vec![raw("a", tar::EntryType::Symlink, "../../etc/shadow", b"")])]
    #[case::device(vec![raw("a", tar::EntryType::Char, "", b"")])]
    #[case::fifo(vec![raw("a", tar::EntryType::Fifo, "", b"")])]
    #[case::control(vec![file("a\x1bb", b"")])]
    fn hostile_entries_are_refused(#[case] entries: Vec<Vec<u8>>) {
        assert!(open(&entries).is_err());
    }

    #[test]
    fn a_link_loop_finds_nothing() {
        let archive = open(&[
            raw("a", tar::EntryType::Symlink, "b", b""),
            raw("b", tar::EntryType::Symlink, "a", b""),
        ])
        .unwrap();
        assert!(archive.find("a").is_none());
    }

    #[test]
    fn gzip_is_undone_up_to_the_limit() {
        let zipped = || {
            let mut file = tempfile::tempfile().unwrap();
            let mut gzip = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
            gzip.write_all(&[7; 10_000]).unwrap();
            gzip.finish().unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            file
        };
        let spare = || Ok(tempfile::tempfile().unwrap());

        let out = plain_blocking(zipped(), spare, 10_000).unwrap();
        assert_eq!(out.metadata().unwrap().len(), 10_000);
        assert!(plain_blocking(zipped(), spare, 9_999).is_err());
    }
}
