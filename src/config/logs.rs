//! The rules of `[logs]`.

use std::num::NonZeroU64;

use super::file;
use super::rules::Rules;
use super::settings::{LogQuota, Logs};

/// The most content bytes that one record of a log may hold: the largest `logs.max_line_bytes`.
pub const LONGEST_LINE: u32 = 1 << 20;
/// The lowest rate: a line that is cut at its shortest limit passes within seconds.
const LEAST_RATE: u64 = 1_024;
/// The lowest size: some lines, whatever their length.
const LEAST_FILE: u64 = 64 * 1024;
/// kubelet rotates a log that has reached so many bytes (`containerLogMaxSize`), unless it is told otherwise.
const KUBELET_ROTATES_AT: u64 = 10 * 1024 * 1024;

impl Rules {
    pub(super) fn logs(&mut self, file: &file::Logs) -> Logs {
        Logs {
            max_line_bytes: self.size(
                "logs.max_line_bytes",
                file.max_line_bytes,
                1_024,
                LONGEST_LINE,
            ),
            buffer_bytes: self.size("logs.buffer_bytes", file.buffer_bytes, 65_536, 64 << 20),
            quota: LogQuota {
                bytes_per_second: self.quota(
                    "logs.max_bytes_per_second",
                    file.max_bytes_per_second,
                    LEAST_RATE,
                ),
                file_bytes: self.quota("logs.max_file_bytes", file.max_file_bytes, LEAST_FILE),
                over: file.over_quota,
            },
        }
    }

    fn quota(&mut self, key: &str, bytes: u64, least: u64) -> Option<NonZeroU64> {
        if (1..least).contains(&bytes) {
            self.broken(key, format!("must be at least {least}, or 0 for none"));
        }
        NonZeroU64::new(bytes)
    }
}

impl Logs {
    /// What is allowed and yet worth a word.
    pub(super) fn warn(&self, out: &mut Vec<String>) {
        let limit = self.quota.file_bytes.map_or(u64::MAX, NonZeroU64::get);
        if limit < KUBELET_ROTATES_AT {
            out.push(format!(
                "logs.max_file_bytes {limit}: kubelet rotates a log from 10 MiB on unless its containerLogMaxSize says otherwise, so that a full one may stay full"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use crate::config::{Config, OverQuota};

    #[test]
    fn there_is_no_quota_unless_one_is_set() {
        let quota = Config::default().logs.quota;
        assert_eq!((quota.bytes_per_second, quota.file_bytes), (None, None));
        assert_eq!(quota.over, OverQuota::Drop);
    }

    #[rstest]
    #[case("max_bytes_per_second = 1024", "")]
    #[case("max_bytes_per_second = 1023", "logs.max_bytes_per_second")]
    #[case("max_file_bytes = 65536", "")]
    #[case("max_file_bytes = 1", "logs.max_file_bytes")]
    #[case("max_file_bytes = -1", "max_file_bytes")]
    #[case("over_quota = \"block\"", "")]
    #[case("over_quota = \"kill\"", "over_quota")]
    fn a_quota_is_none_or_large_enough_for_a_line(#[case] line: &str, #[case] says: &str) {
        let read = Config::parse(&format!("[logs]\n{line}\n"));
        let complaint = read.err().map(|problems| problems.to_string());
        let complaint = complaint.unwrap_or_default();
        assert_eq!(complaint.is_empty(), says.is_empty(), "{complaint}");
        assert!(complaint.contains(says), "{complaint}");
    }

    #[test]
    fn a_file_that_is_full_before_kubelet_rotates_it_is_worth_a_word() {
        let warned = |bytes: u64| {
            let text = format!("[logs]\nmax_file_bytes = {bytes}\n");
            let warnings = Config::parse(&text).unwrap().warnings();
            warnings
                .iter()
                .any(|text| text.contains("containerLogMaxSize"))
        };
        assert!(warned((10 << 20) - 1));
        assert!(!warned(10 << 20));
    }
}
