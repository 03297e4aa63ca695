//! The log file: whole records are appended, a failing disk costs records and never stalls the workload.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use super::target::LogTarget;
use crate::model::{Classify, Kind, Result};
use crate::sys::append_file::open_beneath_blocking;

/// How long records are dropped after an error before the file is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// How far back a torn record's beginning is looked for: the longest record that we write.
const LONGEST_RECORD: u64 = 512 * 1024;

/// What became of a batch of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// Appends whole records to the file that both streams of a container share. Used by one thread only.
#[derive(Debug)]
pub(super) struct LogWriter {
    target: LogTarget,
    file: Option<File>,
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
        let file = open(&target)?;
        Ok(Self {
            target,
            file,
            retry_at: None,
            lost: 0,
        })
    }

    /// A writer whose file could not be opened: drops records and keeps trying.
    pub(super) fn without_file(target: LogTarget) -> Self {
        Self {
            target,
            file: None,
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
        Ok(())
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
            Ok(file) => self.file = file,
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
    let from = length.saturating_sub(LONGEST_RECORD);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(LONGEST_RECORD).read_to_end(&mut tail)?;
    match (end_of_last_record(&tail), from) {
        // Not one record in so many bytes: not a file of ours, so only begin on a line of our own.
        (0, 1..) => file.write_all(b"\n"),
        (whole, _) => file.set_len(from.saturating_add(count_of(whole))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

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
}
