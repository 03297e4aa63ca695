//! Reads CRI log files: `2026-01-01T00:00:00.000000000Z stdout F text`, one record a line.

use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::defaults::Plan;
use super::dirs::{Dirs, log_path};
use crate::model::{Classify as _, Error, Kind, Result};

/// A record that never ends is passed on from this size.
const RECORD_MAX: usize = 1 << 20;
/// What is read at once.
const CHUNK: usize = 64 << 10;

/// Takes the records of a log apart.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// The text of the records that `bytes` completes. What is no record is dropped.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.pending.len() > RECORD_MAX {
                let record = std::mem::take(&mut self.pending);
                out.extend(content(&record));
            }
        }
        out
    }
}

/// The text of one record, its newline only where the record ends a line.
fn content(record: &[u8]) -> Vec<u8> {
    let mut parts = record.splitn(4, |byte| *byte == b' ');
    let (Some(_time), Some(stream), Some(tag), Some(text)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    if stream != b"stdout" && stream != b"stderr" {
        return Vec::new();
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut text = text.to_vec();
    // Tags may grow by `:`; the first says whether the line goes on.
    if tag.split(|byte| *byte == b':').next() != Some(b"P") {
        text.push(b'\n');
    }
    text
}

/// The newest attempt of `container` that left a log in `directory`.
pub(super) fn newest_attempt_blocking(directory: &Path, container: &str) -> Option<u32> {
    let entries = std::fs::read_dir(directory.join(container));
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_suffix(".log")?.parse().ok()
        })
        .max()
}

/// One container's logs, attempt after attempt.
#[derive(Debug)]
pub(super) struct Reader {
    directory: PathBuf,
    container: String,
    attempt: u32,
    open: Option<(std::fs::File, u64)>,
    decoder: Decoder,
}

impl Reader {
    /// A reader from the newest attempt on.
    fn newest_blocking(directory: &Path, container: &str) -> Self {
        let newest = newest_attempt_blocking(directory, container);
        Self {
            directory: directory.to_owned(),
            container: container.to_owned(),
            attempt: newest.unwrap_or(0),
            open: None,
            decoder: Decoder::default(),
        }
    }

    /// What is new, at most one chunk; empty at the end of what there is.
    ///
    /// # Errors
    /// `Internal` where the file cannot be read.
    fn read_blocking(&mut self) -> Result<Vec<u8>> {
        let path = self.path(self.attempt);
        let what = || format!("read {}", path.display());
        if self.open.is_none() {
            match std::fs::File::open(&path) {
                Ok(file) => {
                    let inode = file.metadata().classify(Kind::Internal, what)?.ino();
                    self.open = Some((file, inode));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Vec::new());
                }
                Err(error) => return Err(error).classify(Kind::Internal, what),
            }
        }
        let Some((file, inode)) = &mut self.open else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; CHUNK];
        loop {
            let count = file.read(&mut bytes).classify(Kind::Internal, what)?;
            if count > 0 {
                let text = self.decoder.feed(bytes.get(..count).unwrap_or_default());
                if text.is_empty() {
                    continue;
                }
                return Ok(text);
            }
            break;
        }
        // The file was read to its end: it may have been rotated away, or the container started again.
        let rotated = std::fs::metadata(&path).is_ok_and(|now| now.ino() != *inode);
        let next = self.attempt.saturating_add(1);
        if rotated {
            self.open = None;
        } else if self.path(next).exists() {
            self.attempt = next;
            self.open = None;
        }
        if self.open.is_none() {
            self.decoder = Decoder::default();
            return self.read_blocking();
        }
        Ok(Vec::new())
    }

    fn path(&self, attempt: u32) -> PathBuf {
        self.directory.join(log_path(&self.container, attempt))
    }
}

/// The logs of several containers, each line behind its container's name where there is more than one.
#[derive(Debug)]
pub(super) struct Follower {
    readers: Vec<Reader>,
    /// Where a line is not ended yet, by container.
    open_lines: BTreeMap<usize, Vec<u8>>,
}

impl Follower {
    /// A follower of `only`, or of all containers of `plan`.
    ///
    /// # Errors
    /// `NotFound` where the pod has no such container.
    pub(super) fn new_blocking(plan: &Plan, dirs: &Dirs, only: Option<&str>) -> Result<Self> {
        let names = plan.containers.iter().map(|one| one.spec.name.as_str());
        let wanted: Vec<&str> = names
            .clone()
            .filter(|name| only.is_none_or(|only| only == *name))
            .collect();
        if wanted.is_empty() {
            let known: Vec<&str> = names.collect();
            return Err(Error::not_found(format!(
                "pod {} has no container {}; it has {}",
                plan.title(),
                only.unwrap_or_default(),
                known.join(", ")
            )));
        }
        let directory = dirs.log_directory(plan);
        Ok(Self {
            readers: wanted
                .into_iter()
                .map(|name| Reader::newest_blocking(&directory, name))
                .collect(),
            open_lines: BTreeMap::new(),
        })
    }

    /// Writes what is new to `out`; whether there was anything.
    ///
    /// # Errors
    /// `Internal` where a log cannot be read, `Cancelled` where nobody reads `out` any more.
    pub(super) fn pass_blocking(&mut self, out: &mut dyn Write) -> Result<bool> {
        let mut any = false;
        let many = self.readers.len() > 1;
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let text = reader.read_blocking()?;
            if text.is_empty() {
                continue;
            }
            any = true;
            if !many {
                write(out, &text)?;
                continue;
            }
            let open = self.open_lines.entry(index).or_default();
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                open.extend_from_slice(line);
                if line.ends_with(b"\n") || open.len() > RECORD_MAX {
                    write(out, format!("[{}] ", reader.container).as_bytes())?;
                    write(out, open)?;
                    open.clear();
                }
            }
        }
        out.flush()
            .classify(Kind::Cancelled, || "write to standard output".into())?;
        Ok(any)
    }
}

fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes)
        .classify(Kind::Cancelled, || "write to standard output".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::testing::plan;

    #[test]
    fn partial_records_join_and_other_lines_are_dropped() {
        let mut decoder = Decoder::default();

        let mut text = decoder.feed(b"half a record\n2026Z stdout P one \n2026Z std");
        text.extend(decoder.feed(b"err F two\n2026Z stdout F \n"));

        assert_eq!(String::from_utf8(text).unwrap(), "one two\n\n");
    }

    #[test]
    fn a_restarted_container_is_followed_into_its_next_log() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs {
            logs: root.path().into(),
            ..Dirs::default()
        };
        let plan = plan("containers: [{name: a, image: i}, {name: b, image: i}]");
        let directory = dirs.log_directory(&plan).join("a");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("2.log"), "t stdout F two\n").unwrap();
        let mut follower = Follower::new_blocking(&plan, &dirs, Some("a")).unwrap();
        let mut all = Follower::new_blocking(&plan, &dirs, None).unwrap();
        let (mut out, mut named) = (Vec::new(), Vec::new());

        follower.pass_blocking(&mut out).unwrap();
        std::fs::write(directory.join("3.log"), "t stderr F three\n").unwrap();
        follower.pass_blocking(&mut out).unwrap();
        all.pass_blocking(&mut named).unwrap();

        assert_eq!(String::from_utf8(out).unwrap(), "two\nthree\n");
        assert_eq!(String::from_utf8(named).unwrap(), "[a] two\n");
        assert!(Follower::new_blocking(&plan, &dirs, Some("x")).is_err());
    }
}
