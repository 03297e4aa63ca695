//! The end of a container's log, in the format of CRI log files (contract: pods 7).

use std::path::Path;

use crate::model::Result;
use crate::sys::files::read_tail_blocking;

/// As much of the end of a log as is read.
const TAIL_BYTES: u64 = 8 << 10;
/// Lines that are kept.
const LINES: usize = 5;
/// Characters of each of them.
const CHARACTERS: usize = 200;

/// The last lines of the log at `path`, oldest first. May hang where its file system does.
///
/// # Errors
/// Where the file cannot be read.
pub(super) fn read_blocking(path: &Path) -> Result<Vec<String>> {
    let (bytes, is_cut) = read_tail_blocking(path, TAIL_BYTES)?;
    Ok(of(&bytes, is_cut))
}

fn of(bytes: &[u8], is_cut: bool) -> Vec<String> {
    let mut records = bytes.split(|byte| *byte == b'\n');
    if is_cut {
        records.next();
    }
    let texts: Vec<String> = records.filter_map(text_of).collect();
    let first = texts.len().saturating_sub(LINES);
    texts.into_iter().skip(first).collect()
}

/// What was written, of one record: after time, stream and tag. Empty lines say nothing.
fn text_of(record: &[u8]) -> Option<String> {
    let text = record.splitn(4, |byte| *byte == b' ').nth(3)?;
    let text = String::from_utf8_lossy(text);
    let clean = text.chars().map(|character| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    });
    let clean: String = clean.take(CHARACTERS).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// Whether a line is the OCI runtime's: the program was to be executed, and the kernel refused.
pub(super) fn are_of_exec(line: &str) -> bool {
    let ends = [
        "exec format error",
        "no such file or directory",
        "permission denied",
        "is a directory",
    ];
    let line = line.to_ascii_lowercase();
    line.contains("exec") && ends.iter().any(|end| line.ends_with(end))
}

/// The library that a dynamic loader did not find, in its own words (glibc, musl).
pub(super) fn missing_library(line: &str) -> Option<&str> {
    let glibc = line.split_once("error while loading shared libraries: ");
    let musl = line.split_once("Error loading shared library ");
    let (_before, rest) = glibc.or(musl)?;
    rest.split(':').next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stream: &str, text: &str) -> String {
        format!("2026-01-02T03:04:05.000000006Z {stream} F {text}\n")
    }

    #[test]
    fn the_last_lines_are_read_without_time_stream_and_tag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log: String = (0..9)
            .map(|n| record("stdout", &format!("line {n}")))
            .collect();
        log += &record("stderr", "");
        log += &record("stderr", "with \u{1b}[31mcolour\u{7}");
        std::fs::write(&path, &log).unwrap();

        assert_eq!(
            read_blocking(&path).unwrap(),
            ["line 5", "line 6", "line 7", "line 8", "with  [31mcolour"]
        );
        std::fs::write(&path, "x".repeat(20_000) + "\n" + &record("stderr", "last")).unwrap();
        assert_eq!(read_blocking(&path).unwrap(), ["last"]);
        std::fs::write(&path, record("stdout", &"y".repeat(5_000))).unwrap();
        assert_eq!(read_blocking(&path).unwrap(), ["y".repeat(CHARACTERS)]);
        assert!(read_blocking(&dir.path().join("none")).is_err());
    }

    #[test]
    fn the_words_of_runtimes_and_loaders_are_known() {
        assert!(are_of_exec("exec /app: exec format error"));
        assert!(are_of_exec("exec /app: no such file or directory"));
        assert!(are_of_exec("exec /app: Permission denied"));
        assert!(!are_of_exec("cat: /x: no such file or directory"));
        assert_eq!(
            missing_library(
                "Error loading shared library libz.so.1: No such file or directory (needed by /app)"
            ),
            Some("libz.so.1")
        );
        assert_eq!(missing_library("no library at all"), None);
    }
}
