//! Directories of small files that operators and device plugins change while we run: read again on every request, parsed
//! again only where a file has changed. Nobody waits for another's reading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::model::{Classify, Clock, Context, Error, Kind, Result};
use crate::sys;
use crate::sys::fingerprint::Fingerprint;

/// Files of one directory that are read; more are reported.
const MAX_FILES: usize = 1_000;
/// Longest file.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// All files of all directories together.
const MAX_ALL_BYTES: u64 = 64 << 20;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// One file that can be used.
#[derive(Debug)]
pub(super) struct Loaded<T> {
    /// Position of its directory in the list: a later one wins.
    pub(super) priority: usize,
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it says.
    pub(super) content: Arc<T>,
}

/// What the directories hold.
#[derive(Debug)]
pub(super) struct Reading<T> {
    /// Directory by directory, by name within one.
    pub(super) files: Vec<Loaded<T>>,
    /// What was left out.
    pub(super) broken: Vec<BrokenFile>,
}

/// What was read before, by path.
type Kept<T> = BTreeMap<PathBuf, (Fingerprint, Arc<T>)>;

/// The files of some directories, and what is remembered of them.
#[derive(Debug)]
pub(super) struct Files<T> {
    /// What the files are, for log lines.
    what: &'static str,
    suffixes: &'static [&'static str],
    parse: fn(&str) -> Result<T>,
    clock: Arc<dyn Clock>,
    kept: ArcSwap<Kept<T>>,
    /// What was said of broken files last.
    said: Mutex<Vec<BrokenFile>>,
}

impl<T> Files<T> {
    pub(super) fn new(
        what: &'static str,
        suffixes: &'static [&'static str],
        parse: fn(&str) -> Result<T>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            what,
            suffixes,
            parse,
            clock,
            kept: ArcSwap::default(),
            said: Mutex::default(),
        }
    }

    /// Looks at every directory; one that does not exist is empty. Where broken files are others than last time, says
    /// so in the log.
    pub(super) fn read_blocking(&self, directories: &[PathBuf]) -> Reading<T> {
        let before = self.kept.load_full();
        let mut kept = Kept::new();
        let mut bytes_left = MAX_ALL_BYTES;
        let mut reading = Reading {
            files: Vec::new(),
            broken: Vec::new(),
        };
        for (priority, directory) in directories.iter().enumerate() {
            if directories
                .iter()
                .skip(priority + 1)
                .any(|later| later == directory)
            {
                continue;
            }
            for path in self.list_blocking(directory, &mut reading.broken) {
                match self.load_blocking(&path, &before, &mut kept, &mut bytes_left) {
                    Ok(Some(content)) => reading.files.push(Loaded {
                        priority,
                        path,
                        content,
                    }),
                    Ok(None) => {}
                    Err(error) => reading.broken.push(BrokenFile {
                        path,
                        reason: error.chain(),
                    }),
                }
            }
        }
        self.kept.store(Arc::new(kept));
        self.tell(&reading.broken);
        reading
    }

    /// The files with the right suffix, sorted.
    fn list_blocking(&self, directory: &Path, broken: &mut Vec<BrokenFile>) -> Vec<PathBuf> {
        let mut report = |reason: String| {
            broken.push(BrokenFile {
                path: directory.to_owned(),
                reason,
            });
        };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                report(format!("cannot be listed: {error}"));
                return Vec::new();
            }
        };
        let is_meant = |path: &PathBuf| {
            path.extension()
                .and_then(|suffix| suffix.to_str())
                .is_some_and(|suffix| self.suffixes.contains(&suffix))
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(is_meant)
            .take(MAX_FILES + 1)
            .collect();
        if paths.len() > MAX_FILES {
            report(format!("more than {MAX_FILES} files; none of them is read"));
            return Vec::new();
        }
        paths.sort();
        paths
    }

    /// The content of one file; `None` where it is no regular file, or went away meanwhile.
    fn load_blocking(
        &self,
        path: &Path,
        before: &Kept<T>,
        kept: &mut Kept<T>,
        bytes_left: &mut u64,
    ) -> Result<Option<Arc<T>>> {
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::precondition("cannot be read").caused_by(error)),
        };
        if !metadata.is_file() {
            return Ok(None);
        }
        let print = Fingerprint::of(&metadata);
        *bytes_left = bytes_left.checked_sub(print.size()).ok_or_else(|| {
            Error::exhausted(format!(
                "not read: all files together exceed {MAX_ALL_BYTES} bytes"
            ))
        })?;
        if let Some((known, content)) = before.get(path)
            && *known == print
        {
            kept.insert(path.to_owned(), (print, Arc::clone(content)));
            return Ok(Some(Arc::clone(content)));
        }
        let now = self.clock.now();
        // A link to a file is as good as the file.
        let real = path
            .canonicalize()
            .classify(Kind::FailedPrecondition, || "follow its link".to_owned())?;
        let bytes = sys::files::read_capped_blocking(&real, MAX_FILE_BYTES)?;
        let text = std::str::from_utf8(&bytes)
            .classify(Kind::InvalidArgument, || "not UTF-8".to_owned())?;
        let content = Arc::new((self.parse)(text).context(|| format!("no valid {}", self.what))?);
        if print.is_settled(now) {
            kept.insert(path.to_owned(), (print, Arc::clone(&content)));
        }
        Ok(Some(content))
    }

    fn tell(&self, broken: &[BrokenFile]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said == broken {
            return;
        }
        for file in broken.iter().filter(|file| !said.contains(file)) {
            tracing::warn!(path = %file.path.display(), reason = file.reason, "a {} cannot be used", self.what);
        }
        *said = broken.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::model::Timestamp;
    use crate::model::clock::SystemClock;

    static PARSED: AtomicUsize = AtomicUsize::new(0);

    #[derive(Debug)]
    struct FarFuture;

    impl Clock for FarFuture {
        fn now(&self) -> Timestamp {
            Timestamp(i64::MAX)
        }
    }

    fn parse(text: &str) -> Result<String> {
        if text == "bad" {
            return Err(Error::invalid("bad"));
        }
        Ok(text.to_owned())
    }

    fn counted(text: &str) -> Result<String> {
        PARSED.fetch_add(1, Ordering::Relaxed);
        parse(text)
    }

    fn files(parse: fn(&str) -> Result<String>, clock: Arc<dyn Clock>) -> Files<String> {
        Files::new("test file", &["json"], parse, clock)
    }

    fn texts(reading: &Reading<String>) -> Vec<(usize, &str)> {
        let one = |file: &Loaded<String>| file.content.as_str().to_owned();
        let texts: Vec<String> = reading.files.iter().map(one).collect();
        assert_eq!(texts.len(), reading.files.len());
        reading
            .files
            .iter()
            .map(|file| (file.priority, file.content.as_str()))
            .collect()
    }

    #[test]
    fn every_directory_is_read_in_order_and_a_bad_file_hides_no_other() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(low.path().join("b.json"), "b").unwrap();
        std::fs::write(low.path().join("a.json"), "a").unwrap();
        std::fs::write(low.path().join("c.json"), "bad").unwrap();
        std::fs::write(low.path().join("d.json"), b"\xff").unwrap();
        std::fs::write(low.path().join("e.yml"), "other").unwrap();
        std::fs::create_dir(low.path().join("f.json")).unwrap();
        std::os::unix::fs::symlink("gone", low.path().join("g.json")).unwrap();
        std::os::unix::fs::symlink(low.path().join("a.json"), high.path().join("z.json")).unwrap();
        let missing = low.path().join("missing");

        let files = files(parse, Arc::new(SystemClock));
        let reading = files.read_blocking(&[low.path().into(), missing, high.path().into()]);

        assert_eq!(texts(&reading), [(0, "a"), (0, "b"), (2, "a")]);
        let names: Vec<_> = reading
            .broken
            .iter()
            .filter_map(|file| file.path.file_name())
            .collect();
        assert_eq!(names, ["c.json", "d.json"]);
    }

    #[test]
    fn a_directory_named_twice_counts_where_it_stands_last() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(one.path().join("a.json"), "one").unwrap();
        std::fs::write(two.path().join("a.json"), "two").unwrap();
        let dirs = [one.path(), two.path(), one.path()].map(Path::to_owned);

        let reading = files(parse, Arc::new(SystemClock)).read_blocking(&dirs);

        assert_eq!(texts(&reading), [(1, "two"), (2, "one")]);
    }

    #[test]
    fn only_what_changed_is_parsed_again() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        std::fs::write(dir.path().join("a.json"), "a").unwrap();
        std::fs::write(dir.path().join("b.json"), "b").unwrap();
        let files = files(counted, Arc::new(FarFuture));
        let parsed = || PARSED.swap(0, Ordering::Relaxed);

        files.read_blocking(&dirs);
        assert_eq!(parsed(), 2);
        files.read_blocking(&dirs);
        assert_eq!(parsed(), 0);
        std::fs::write(dir.path().join("a.json"), "other").unwrap();
        let reading = files.read_blocking(&dirs);
        assert_eq!(parsed(), 1);
        assert_eq!(texts(&reading), [(0, "other"), (0, "b")]);
        std::fs::remove_file(dir.path().join("b.json")).unwrap();
        assert_eq!(texts(&files.read_blocking(&dirs)), [(0, "other")]);
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        std::fs::write(dir.path().join("a.json"), "a").unwrap();
        let files = files(parse, Arc::new(SystemClock));

        files.read_blocking(&dirs);

        assert!(files.kept.load().is_empty());
    }

    #[test]
    fn a_file_that_is_too_long_and_a_directory_that_is_too_full_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let long = std::fs::File::create(dir.path().join("a.json")).unwrap();
        long.set_len(MAX_FILE_BYTES + 1).unwrap();
        let files = files(parse, Arc::new(SystemClock));

        assert_eq!(files.read_blocking(&dirs).broken.len(), 1);
        for number in 0..MAX_FILES {
            std::fs::write(dir.path().join(format!("{number}.json")), "x").unwrap();
        }
        let reading = files.read_blocking(&dirs);
        assert!(reading.files.is_empty());
        assert_eq!(reading.broken[0].path, dir.path());
    }
}
