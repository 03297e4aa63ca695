//! The log file: whole records are appended, a failing disk costs records and never stalls the workload.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use super::governor::{FILE_IS_FULL, LOOK_AGAIN};
use super::line::{FRAME, Stream, TIME_LENGTH};
use super::stats::Dropped;
use super::target::LogTarget;
use crate::config::LONGEST_LINE;
use crate::model::{Classify, Kind, Result};
use crate::sys::append_file::open_beneath_blocking;

/// How long records are dropped after an error before the file is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How far back a torn record's beginning is looked for: the longest record that we write.
const LONGEST_RECORD: u64 = LONGEST_LINE as u64 + FRAME as u64;
/// How every line of ours begins, behind its stream.
const OURS: &[u8] = b"F podwright: ";

/// How a predecessor of ours left a stream in the file, as far as the end of the file tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// Its last record leaves its line open.
    pub(super) is_open: bool,
    /// [`FILE_IS_FULL`] is said, and nothing but lines of ours stands behind it.
    pub(super) is_told_full: bool,
}

/// Appends whole records to the file that both streams of a container share. Used by one thread only.
#[derive(Debug)]
pub(super) struct LogWriter {
    target: LogTarget,
    file: Option<File>,
    /// The file's, as far as we know: only we write to it.
    length: u64,
    /// When the file was last asked for its length because it seemed to be too long.
    measured_at: Option<Instant>,
    /// Set by an error: until when records are dropped untried.
    retry_at: Option<Instant>,
    /// Records dropped since the file last took one.
    lost: u64,
}

impl LogWriter {
    /// Opens the target's file. May block for as long as its filesystem does.
    ///
    /// # Errors
    /// As [`open_beneath_blocking`].
    pub(super) fn open(target: LogTarget) -> Result<Self> {
        let mut writer = Self::without_file(target);
        writer.reopen()?;
        Ok(writer)
    }

    /// A writer whose file could not be opened: drops records and keeps trying.
    pub(super) fn without_file(target: LogTarget) -> Self {
        Self {
            target,
            file: None,
            length: 0,
            measured_at: None,
            retry_at: Some(Instant::now()),
            lost: 0,
        }
    }

    /// Opens the file's name anew; on success nothing goes to the old file any more, on failure everything still
    /// does.
    ///
    /// # Errors
    /// As [`open_beneath_blocking`].
    pub(super) fn reopen(&mut self) -> Result<()> {
        self.file = open(&self.target)?;
        self.retry_at = None;
        self.measure();
        Ok(())
    }

    /// Whether anything is kept.
    pub(super) fn keeps(&self) -> bool {
        self.target.place().is_some()
    }

    /// Whether the file with `pending` more bytes has so many as `limit`. One that somebody cut short is noticed, a
    /// while later.
    pub(super) fn has_reached(&mut self, limit: u64, pending: usize, now: Instant) -> bool {
        let has = |length: u64| length.saturating_add(count_of(pending)) >= limit;
        if !has(self.length) {
            return false;
        }
        let is_known = |at: Instant| now.saturating_duration_since(at) < LOOK_AGAIN;
        if !self.measured_at.is_some_and(is_known) {
            self.measured_at = Some(now);
            self.measure();
        }
        has(self.length)
    }

    fn measure(&mut self) {
        let measured = self
            .file
            .as_ref()
            .map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()));
        match measured {
            Ok(length) => self.length = length,
            Err(error) => tracing::debug!(%error, "length of a container log"),
        }
    }

    /// How a predecessor left `stream`. A file that we made is open for writing only, and holds nobody else's.
    pub(super) fn left(&mut self, stream: Stream) -> Left {
        let Some(file) = &mut self.file else {
            return Left::default();
        };
        match read_end(file) {
            Ok((_from, end)) => left(&end, stream),
            Err(error) => {
                tracing::debug!(%error, "end of a container log");
                Left::default()
            }
        }
    }

    /// Appends `batch`, which is whole records, in as few writes as the kernel needs. What cannot be written is
    /// dropped and counted.
    pub(super) fn append(&mut self, batch: &[u8]) -> Dropped {
        if self.target.place().is_none() || batch.is_empty() {
            return Dropped::default();
        }
        if !self.is_due() {
            return self.drop_rest(batch);
        }
        let Some(file) = &mut self.file else {
            return self.drop_rest(batch);
        };
        match write_whole_records(file, batch) {
            Ok(()) => {
                self.length = self.length.saturating_add(count_of(batch.len()));
                self.recovered();
                Dropped::default()
            }
            Err((rest, error)) => {
                if self.lost == 0 {
                    tracing::warn!(
                        path = ?self.target.path(), %error,
                        "container log cannot be written: records are dropped until it can"
                    );
                }
                self.retry_at = Some(Instant::now() + RETRY);
                self.measure();
                self.drop_rest(rest)
            }
        }
    }

    /// Whether a write may be tried; after an error the file is opened anew first, where that helps.
    fn is_due(&mut self) -> bool {
        let Some(at) = self.retry_at else { return true };
        if Instant::now() < at {
            return false;
        }
        match open(&self.target) {
            Ok(file) => {
                self.file = file;
                self.measure();
            }
            Err(error) if self.file.is_none() => {
                tracing::debug!(%error, "container log still cannot be opened");
                self.retry_at = Some(Instant::now() + RETRY);
                return false;
            }
            Err(error) => tracing::debug!(%error, "container log cannot be opened anew"),
        }
        self.retry_at = None;
        true
    }

    fn recovered(&mut self) {
        if self.lost > 0 {
            tracing::warn!(
                path = ?self.target.path(), dropped = self.lost,
                "container log is written again"
            );
            self.lost = 0;
        }
    }

    fn drop_rest(&mut self, rest: &[u8]) -> Dropped {
        let dropped = Dropped {
            records: count_of(rest.iter().filter(|byte| **byte == b'\n').count()),
            bytes: count_of(rest.len()),
        };
        self.lost = self.lost.saturating_add(dropped.records);
        dropped
    }
}

fn count_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn open(target: &LogTarget) -> Result<Option<File>> {
    let Some(place) = target.place() else {
        return Ok(None);
    };
    let mut file = open_beneath_blocking(&place.directory, &place.relative)?;
    mend_end(&mut file).classify(Kind::Internal, || {
        format!("look for a torn record at the end of {:?}", target.path())
    })?;
    Ok(Some(file))
}

/// Writes all of `batch`; on an error, the records that are not in the file. A record torn by the error is taken
/// out of the file again.
fn write_whole_records<'b>(file: &mut File, batch: &'b [u8]) -> Result<(), (&'b [u8], io::Error)> {
    let mut left = batch;
    while !left.is_empty() {
        let error = match file.write(left) {
            Ok(0) => ErrorKind::WriteZero.into(),
            Ok(written) => {
                left = left.get(written..).unwrap_or_default();
                continue;
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => e,
        };
        let done = batch.len().saturating_sub(left.len());
        let whole = end_of_last_record(batch.get(..done).unwrap_or_default());
        take_back(file, done.saturating_sub(whole));
        return Err((batch.get(whole..).unwrap_or_default(), error));
    }
    Ok(())
}

fn end_of_last_record(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at.saturating_add(1))
}

/// Removes the last `count` bytes of the file. Where that fails, the torn record is mended when it is opened anew.
fn take_back(file: &File, count: usize) {
    if count == 0 {
        return;
    }
    let cut = file
        .metadata()
        .and_then(|meta| file.set_len(meta.len().saturating_sub(count_of(count))));
    if let Err(error) = cut {
        tracing::debug!(%error, "torn record left in a container log");
    }
}

/// Takes away a record that a kill or a full disk tore at the end of the file: its bytes are still in the FIFO, and
/// readers skip no line that way.
fn mend_end(file: &mut File) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut last = [0];
    if length == 0 || {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        last == *b"\n"
    } {
        return Ok(());
    }
    let (from, tail) = read_end(file)?;
    match (end_of_last_record(&tail), from) {
        // Not one record in so many bytes: not a file of ours, so only begin on a line of our own.
        (0, 1..) => file.write_all(b"\n"),
        (whole, _) => file.set_len(from.saturating_add(count_of(whole))),
    }
}

/// The last bytes of the file, at least a record, and where they begin.
fn read_end(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    let length = file.seek(SeekFrom::End(0))?;
    let from = length.saturating_sub(LONGEST_RECORD);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(LONGEST_RECORD).read_to_end(&mut end)?;
    Ok((from, end))
}

/// How `stream` stands at the end of whole records.
fn left(records: &[u8], stream: Stream) -> Left {
    let records = records.rsplit(|byte| *byte == b'\n');
    let its = records.filter_map(|record| {
        record
            .get(TIME_LENGTH..)
            .and_then(|rest| rest.strip_prefix(stream.word()))
    });
    let last = its.clone().next();
    let mut ours = its.take_while(|record| record.starts_with(OURS));
    Left {
        is_open: last.is_some_and(|record| record.starts_with(b"P ")),
        is_told_full: ours.any(|record| record.ends_with(FILE_IS_FULL.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::line::{Piece, RecordWriter, Tag};
    use super::*;
    use crate::model::Timestamp;

    fn target(dir: &Path) -> LogTarget {
        LogTarget::new(dir.to_str().unwrap(), "app/0.log").unwrap()
    }

    fn text(path: &Path) -> String {
        String::from_utf8(std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn reopening_after_a_rename_leaves_the_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(target(dir.path())).unwrap();
        writer.append(b"one\n");
        let (now, old) = (dir.path().join("app/0.log"), dir.path().join("app/0.log.1"));
        std::fs::rename(&now, &old).unwrap();
        writer.append(b"two\n");

        writer.reopen().unwrap();
        writer.append(b"three\n");

        assert_eq!(text(&old), "one\ntwo\n");
        assert_eq!(text(&now), "three\n");
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(target(dir.path())).unwrap();
        let (now, old) = (dir.path().join("app/0.log"), dir.path().join("app/0.log.1"));
        std::fs::rename(&now, &old).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &now).unwrap();

        let error = writer.reopen().unwrap_err();
        writer.append(b"one\n");

        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert_eq!(text(&old), "one\n");
    }

    #[test]
    fn a_full_disk_drops_records_and_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(target(dir.path())).unwrap();
        writer.file = Some(File::options().write(true).open("/dev/full").unwrap());

        let lost = Dropped {
            records: 2,
            bytes: 8,
        };
        assert_eq!(writer.append(b"one\ntwo\n"), lost);
        assert_eq!(writer.append(b"one\ntwo\n"), lost);
        writer.retry_at = Some(Instant::now());
        assert_eq!(writer.append(b"three\n"), Dropped::default());

        assert_eq!(text(&dir.path().join("app/0.log")), "three\n");
    }

    #[test]
    fn a_torn_record_is_taken_away_when_the_file_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app/0.log");
        for (torn, whole) in [("one\ntw", "one\n"), ("on", ""), ("one\n", "one\n")] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, torn).unwrap();
            LogWriter::open(target(dir.path())).unwrap();
            assert_eq!(text(&path), whole);
        }
    }

    #[test]
    fn the_longest_record_is_found_again_whole_or_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app/0.log");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut record = Vec::new();
        let piece = Piece {
            content: &vec![b'x'; usize::try_from(LONGEST_LINE).unwrap()],
            tag: Tag::Partial,
            consumed: 0,
        };
        RecordWriter::default().write(&mut record, Timestamp(42), Stream::Stderr, &piece);
        assert_eq!(count_of(record.len()), LONGEST_RECORD);
        let torn = &record[..record.len() - 1];

        std::fs::write(&path, [&record, torn].concat()).unwrap();
        let mut writer = LogWriter::open(target(dir.path())).unwrap();

        assert_eq!(std::fs::read(&path).unwrap(), record);
        assert!(writer.left(Stream::Stderr).is_open);
    }

    #[test]
    fn the_file_tells_whether_a_stream_was_told_that_it_is_full() {
        let time = "2024-01-31T12:00:00.000000042Z";
        let full = format!("{time} stdout F {FILE_IS_FULL}\n");
        let gap = format!("{time} stdout F podwright: 2 lines (9 bytes) dropped: over x\n");
        let other = format!("{time} stderr F more\n");
        let more = format!("{time} stdout F more\n");
        let is_told = |parts: &[&str]| left(parts.concat().as_bytes(), Stream::Stdout).is_told_full;
        assert!(is_told(&[&full, &gap, &other]));
        assert!(!is_told(&[&full, &more, &gap]));
        assert!(!is_told(&[&gap, &other]));
        assert!(!left(full.as_bytes(), Stream::Stderr).is_told_full);
    }

    #[test]
    fn without_a_target_everything_is_taken() {
        let mut writer = LogWriter::open(LogTarget::discard()).unwrap();
        assert_eq!(writer.append(b"one\n"), Dropped::default());
        writer.reopen().unwrap();
    }

    #[test]
    fn a_file_that_could_not_be_opened_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::without_file(target(dir.path()));
        assert_eq!(writer.append(b"one\n"), Dropped::default());
        assert_eq!(text(&dir.path().join("app/0.log")), "one\n");
    }

    #[test]
    fn a_file_is_full_at_its_limit_and_not_when_somebody_cut_it_short() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(target(dir.path())).unwrap();
        let now = Instant::now();
        writer.append(b"four\n");
        assert!(!writer.has_reached(6, 0, now));
        assert!(writer.has_reached(6, 1, now));
        assert!(writer.has_reached(5, 0, now));

        std::fs::write(dir.path().join("app/0.log"), "").unwrap();

        assert!(writer.has_reached(5, 0, now));
        assert!(!writer.has_reached(5, 0, now + LOOK_AGAIN));
        // A file that was there already counts whole.
        std::fs::write(dir.path().join("app/0.log"), "four\n").unwrap();
        writer.reopen().unwrap();
        assert!(writer.has_reached(5, 0, now));
    }

    #[test]
    fn the_file_tells_whether_a_stream_stands_within_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let mut writer = LogWriter::open(target(dir.path())).unwrap();
            [Stream::Stdout, Stream::Stderr].map(|stream| writer.left(stream).is_open)
        };
        assert_eq!(open(), [false, false]);
        let time = "2024-01-31T12:00:00.000000042Z";
        let path = dir.path().join("app/0.log");
        let begun = format!("{time} stdout P a\n{time} stderr F P stdout P\n");
        std::fs::write(&path, &begun).unwrap();
        assert_eq!(open(), [true, false]);
        std::fs::write(&path, format!("{begun}{time} stdout F b\nshort\n")).unwrap();
        assert_eq!(open(), [false, false]);
    }
}
