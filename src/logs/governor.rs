//! How much of a container's output its log takes, and what becomes of the rest. Pure: times and sizes are told.
//!
//! Lines are dropped whole. One that had begun to be written when a quota was reached is ended there, so that nobody
//! takes the next line for its rest; and what is still to come of a line that was dropped is dropped as well.

use std::time::{Duration, Instant};

use super::bucket::{BURST, Bucket};
use super::gap::Gap;
use super::line::{Stream, Tag};
use super::stats::{Dropped, Tally};
use crate::config::{LogQuota, OverQuota};

/// Once the bucket is empty, what must be in it before more is read: the sooner, the shorter the container waits.
const AFTER_BLOCK: Duration = Duration::from_millis(100);
/// And before lines are written again: a full bucket, so that there is a line about the gap once a second and no more.
const AFTER_DROP: Duration = BURST;
/// How soon a full file is looked at again: somebody may have cut it short instead of renaming it.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What a stream of an ended process may hold besides its FIFO: the largest pipe (fs.pipe-max-size) and what the shim has
/// in hand. It is written beyond the quota, since nobody can be made to wait any more.
const BEFORE_FIFO: u64 = 1024 * 1024 + 64 * 1024;
/// Stands in a full file on the streams that go on.
pub(super) const FILE_IS_FULL: &str =
    "podwright: lines are dropped from here on: logs.max_file_bytes is reached";

/// One of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Rate,
    Size,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It is written, after a line that tells of the gap before it.
    Write(Option<Gap>),
    /// It is thrown away.
    Drop(Cut),
    /// It stays where it is and is asked about again then.
    Wait(Instant),
}

/// What is written in the place of a record that is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Whether a line stands open in the log, which is to be ended. `None`: only the file knows.
    pub(super) is_open: Option<bool>,
    /// Whether [`FILE_IS_FULL`] is to be said.
    pub(super) is_full: bool,
}

/// Where a stream stands between two records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Perhaps within a line that a predecessor of ours has begun.
    #[default]
    Unknown,
    Between,
    Written,
    /// Within a line of which something was dropped.
    Dropped(Limit),
}

impl Line {
    /// Behind a record that was written.
    fn after(tag: Tag) -> Self {
        match tag {
            Tag::Full => Self::Between,
            Tag::Partial => Self::Written,
        }
    }
}

#[derive(Debug, Default)]
struct Flow {
    line: Line,
    gap: Gap,
}

/// A record that waits for its ruling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) stream: Stream,
    pub(super) tag: Tag,
    /// Bytes of the stream that it accounts for.
    pub(super) output: usize,
}

/// The quota of one container, and how much of it is used.
#[derive(Debug)]
pub(super) struct Governor {
    /// `None` where nothing is kept of the output.
    quota: Option<LogQuota>,
    bucket: Bucket,
    stdout: Flow,
    stderr: Flow,
    /// After the end of the process: bytes of output that are still written although it is too much.
    last_words: Option<u64>,
    tally: Tally,
}

impl Governor {
    pub(super) fn new(quota: Option<LogQuota>, now: Instant) -> Self {
        Self {
            quota,
            bucket: Bucket::full(now),
            stdout: Flow::default(),
            stderr: Flow::default(),
            last_words: None,
            tally: Tally::default(),
        }
    }

    /// Puts another quota in the place of this one, with a full bucket.
    pub(super) fn govern(&mut self, quota: LogQuota, now: Instant) {
        if self.quota.is_some_and(|before| before != quota) {
            self.quota = Some(quota);
            self.bucket = Bucket::full(now);
        }
    }

    /// The process has ended: nothing waits from now on. Its streams have FIFOs of these sizes.
    pub(super) fn begin_ending(&mut self, fifos: impl Iterator<Item = usize>) {
        let words = fifos.map(|size| count_of(size).saturating_add(BEFORE_FIFO));
        self.last_words.get_or_insert(words.sum());
    }

    /// The size from which on a file is full.
    pub(super) fn file_limit(&self) -> Option<u64> {
        self.quota?.file_bytes.map(Into::into)
    }

    /// Whether a record is simply written: no limit is set, and none has left a trace on its stream. Spares most nodes the
    /// rest.
    pub(super) fn is_idle(&mut self, stream: Stream, tag: Tag) -> bool {
        let is_limited =
            |quota: LogQuota| quota.bytes_per_second.is_some() || quota.file_bytes.is_some();
        if self.quota.is_some_and(is_limited) {
            return false;
        }
        let flow = self.flow(stream);
        let is_idle = !matches!(flow.line, Line::Dropped(_)) && flow.gap == Gap::default();
        if is_idle {
            flow.line = Line::after(tag);
        }
        is_idle
    }

    /// What becomes of the next record of a stream.
    pub(super) fn rule(&mut self, next: Candidate, file_is_full: bool, now: Instant) -> Ruling {
        if let Line::Dropped(limit) = self.flow(next.stream).line {
            return self.drop(next, limit);
        }
        let Some((policy, limit, until)) = self.exceeded(file_is_full, now) else {
            return self.write(next);
        };
        let output = count_of(next.output);
        match (policy, &mut self.last_words) {
            (OverQuota::Block, None) => Ruling::Wait(until),
            (OverQuota::Block, Some(left)) if *left >= output => {
                *left = left.saturating_sub(output);
                self.write(next)
            }
            _ => self.drop(next, limit),
        }
    }

    /// The limit that is reached, and when to ask again.
    fn exceeded(
        &mut self,
        file_is_full: bool,
        now: Instant,
    ) -> Option<(OverQuota, Limit, Instant)> {
        let quota = self.quota?;
        if file_is_full {
            return Some((quota.over, Limit::Size, now + LOOK_AGAIN));
        }
        quota.bytes_per_second?;
        let wanted = match quota.over {
            OverQuota::Drop => AFTER_DROP,
            OverQuota::Block => AFTER_BLOCK,
        };
        let until = self.bucket.closed_until(wanted, now)?;
        Some((quota.over, Limit::Rate, until))
    }

    fn write(&mut self, next: Candidate) -> Ruling {
        let flow = self.flow(next.stream);
        flow.line = Line::after(next.tag);
        Ruling::Write(flow.gap.take())
    }

    fn drop(&mut self, next: Candidate, limit: Limit) -> Ruling {
        let output = count_of(next.output);
        let flow = self.flow(next.stream);
        let begins = !matches!(flow.line, Line::Dropped(_));
        let is_full = limit == Limit::Size && begins && !flow.gap.over_size;
        let is_open = match flow.line {
            Line::Unknown => None,
            line => Some(line == Line::Written),
        };
        flow.gap.over_rate |= limit == Limit::Rate;
        flow.gap.over_size |= limit == Limit::Size;
        flow.gap.lines = flow.gap.lines.saturating_add(begins.into());
        flow.gap.bytes = flow.gap.bytes.saturating_add(output);
        flow.line = match next.tag {
            Tag::Full => Line::Between,
            Tag::Partial => Line::Dropped(limit),
        };
        match limit {
            Limit::Rate => self.tally.over_rate.add(1, output),
            Limit::Size => self.tally.over_size.add(1, output),
        }
        Ruling::Drop(Cut { is_open, is_full })
    }

    /// Counts bytes that go to the log.
    pub(super) fn pay(&mut self, bytes: usize, now: Instant) {
        if let Some(rate) = self.quota.and_then(|quota| quota.bytes_per_second) {
            self.bucket.pay(bytes, rate.get(), now);
        }
    }

    /// The gap of a stream that nothing was said of yet.
    pub(super) fn take_gap(&mut self, stream: Stream) -> Option<Gap> {
        self.flow(stream).gap.take()
    }

    /// What was dropped since this was asked last.
    pub(super) fn take_tally(&mut self) -> (Dropped, Dropped) {
        let tally = std::mem::take(&mut self.tally);
        (tally.over_rate, tally.over_size)
    }

    fn flow(&mut self, stream: Stream) -> &mut Flow {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

fn count_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use rstest::rstest;

    use super::*;

    const RATE: usize = 1_000;

    fn quota(over: OverQuota) -> LogQuota {
        LogQuota {
            bytes_per_second: NonZeroU64::new(1_000),
            file_bytes: NonZeroU64::new(1_000_000),
            over,
        }
    }

    /// A governor whose bucket is full at an instant.
    fn governor(over: OverQuota) -> (Governor, Instant) {
        let now = Instant::now() + Duration::from_secs(60);
        (Governor::new(Some(quota(over)), now), now)
    }

    fn record(tag: Tag, length: usize) -> Candidate {
        Candidate {
            stream: Stream::Stdout,
            tag,
            output: length,
        }
    }

    /// Asks, and pays for what is written.
    fn next(governor: &mut Governor, tag: Tag, length: usize, now: Instant) -> Ruling {
        let ruling = governor.rule(record(tag, length), false, now);
        if matches!(ruling, Ruling::Write(_)) {
            governor.pay(length, now);
        }
        ruling
    }

    fn is_written(ruling: Ruling) -> bool {
        matches!(ruling, Ruling::Write(_))
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_burst_passes_and_then_lines_are_dropped_until_the_bucket_is_full_again() {
        let (mut governor, now) = governor(OverQuota::Drop);
        for _ in 0..10 {
            assert!(is_written(next(&mut governor, Tag::Full, RATE / 10, now)));
        }
        // Exactly empty: one more passes, on credit.
        assert!(is_written(next(&mut governor, Tag::Full, RATE / 10, now)));
        for at in [0, 500, 1_099] {
            let ruling = next(&mut governor, Tag::Full, 10, now + millis(at));
            assert!(matches!(ruling, Ruling::Drop(_)), "{at}: {ruling:?}");
        }

        let ruling = next(&mut governor, Tag::Full, 10, now + millis(1_100));

        let Ruling::Write(Some(gap)) = ruling else {
            panic!("{ruling:?}")
        };
        assert_eq!(
            gap.to_string(),
            "podwright: 3 lines (30 bytes) dropped: over logs.max_bytes_per_second"
        );
        assert_eq!(governor.take_tally().0.records, 3);
        let after = next(&mut governor, Tag::Full, 10, now + millis(1_100));
        assert_eq!(after, Ruling::Write(None));
    }

    #[test]
    fn over_a_long_time_the_rate_is_what_was_set() {
        for over in [OverQuota::Drop, OverQuota::Block] {
            let (mut governor, start) = governor(over);
            let written = (0..100_000)
                .filter(|ms| is_written(next(&mut governor, Tag::Full, 50, start + millis(*ms))))
                .count();
            let expected = 50 * written / 100;
            assert!(expected.abs_diff(RATE) < RATE / 20, "{over:?}: {expected}");
        }
    }

    #[test]
    fn blocked_output_goes_on_once_a_tenth_of_a_second_is_in_the_bucket() {
        let (mut governor, now) = governor(OverQuota::Block);
        assert!(is_written(next(&mut governor, Tag::Full, RATE + 50, now)));

        let ruling = next(&mut governor, Tag::Full, 10, now);

        assert_eq!(ruling, Ruling::Wait(now + millis(150)));
        let early = next(&mut governor, Tag::Full, 10, now + millis(149));
        assert_eq!(early, ruling);
        assert!(is_written(next(
            &mut governor,
            Tag::Full,
            10,
            now + millis(150)
        )));
        assert_eq!(governor.take_gap(Stream::Stdout), None);
    }

    #[test]
    fn a_line_that_has_begun_is_ended_and_the_rest_of_it_is_dropped() {
        let (mut governor, now) = governor(OverQuota::Drop);
        assert!(is_written(next(&mut governor, Tag::Partial, 2 * RATE, now)));

        let cut = |is_open| {
            Ruling::Drop(Cut {
                is_open: Some(is_open),
                is_full: false,
            })
        };
        assert_eq!(next(&mut governor, Tag::Partial, 10, now), cut(true));
        // The bucket is full again, and yet the rest of the line goes nowhere.
        let later = now + Duration::from_secs(10);
        assert_eq!(next(&mut governor, Tag::Full, 10, later), cut(false));
        let Ruling::Write(Some(gap)) = next(&mut governor, Tag::Full, 10, later) else {
            panic!("no gap")
        };
        assert_eq!((gap.lines, gap.bytes), (1, 20));
    }

    #[test]
    fn only_the_file_knows_whether_a_predecessor_left_a_line_open() {
        let (mut governor, now) = governor(OverQuota::Drop);
        let full = |governor: &mut Governor| governor.rule(record(Tag::Full, 10), true, now);
        let cut = |is_open, is_full| Ruling::Drop(Cut { is_open, is_full });
        assert_eq!(full(&mut governor), cut(None, true));
        assert_eq!(full(&mut governor), cut(Some(false), false));
        let gap = governor.take_gap(Stream::Stdout).unwrap();
        assert_eq!(
            gap.to_string(),
            "podwright: 2 lines (20 bytes) dropped: over logs.max_file_bytes"
        );
        assert_eq!(governor.take_tally().1.bytes, 20);
    }

    #[test]
    fn streams_share_the_bucket_and_each_has_its_own_gap() {
        let (mut governor, now) = governor(OverQuota::Drop);
        assert!(is_written(next(&mut governor, Tag::Full, 2 * RATE, now)));
        let mut other = record(Tag::Full, 10);
        other.stream = Stream::Stderr;
        assert!(!is_written(governor.rule(other, false, now)));
        assert_eq!(governor.take_gap(Stream::Stdout), None);
        assert!(governor.take_gap(Stream::Stderr).is_some());
    }

    #[test]
    fn last_words_are_written_beyond_the_quota_up_to_a_limit() {
        let (mut governor, now) = governor(OverQuota::Block);
        assert!(is_written(next(&mut governor, Tag::Full, 2 * RATE, now)));
        governor.begin_ending([1_000, 2_000].into_iter());
        let half = usize::try_from(BEFORE_FIFO).unwrap() + 1_500;
        assert!(is_written(next(&mut governor, Tag::Full, half, now)));
        assert!(is_written(next(&mut governor, Tag::Full, half, now)));
        let ruling = next(&mut governor, Tag::Full, 1, now);
        assert!(matches!(ruling, Ruling::Drop(_)), "{ruling:?}");
    }

    #[rstest]
    #[case(OverQuota::Drop)]
    #[case(OverQuota::Block)]
    fn another_quota_takes_effect_at_once(#[case] over: OverQuota) {
        let (mut governor, now) = governor(over);
        assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
        assert!(!is_written(next(&mut governor, Tag::Full, 9, now)));

        let none = LogQuota {
            bytes_per_second: None,
            ..quota(over)
        };
        governor.govern(quota(over), now);
        assert!(!is_written(next(&mut governor, Tag::Full, 9, now)));
        governor.govern(none, now);

        assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
        assert!(is_written(next(&mut governor, Tag::Full, 9, now)));
    }

    #[test]
    fn only_a_stream_without_limits_and_traces_is_idle() {
        let (mut governor, now) = governor(OverQuota::Drop);
        assert!(!governor.is_idle(Stream::Stdout, Tag::Full));
        assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
        assert!(!is_written(next(&mut governor, Tag::Partial, 9, now)));
        let none = LogQuota {
            bytes_per_second: None,
            file_bytes: None,
            over: OverQuota::Drop,
        };
        governor.govern(none, now);

        assert!(governor.is_idle(Stream::Stderr, Tag::Full));
        assert!(!governor.is_idle(Stream::Stdout, Tag::Full));
        assert!(!is_written(next(&mut governor, Tag::Full, 9, now)));
        assert!(!governor.is_idle(Stream::Stdout, Tag::Partial));
        let told = next(&mut governor, Tag::Partial, 9, now);
        assert!(matches!(told, Ruling::Write(Some(_))), "{told:?}");
        assert!(governor.is_idle(Stream::Stdout, Tag::Partial));

        // A line that began meanwhile is known to be open.
        governor.govern(quota(OverQuota::Drop), now);
        let Ruling::Drop(cut) = governor.rule(record(Tag::Full, 9), true, now) else {
            panic!("it was not dropped")
        };
        assert_eq!(cut.is_open, Some(true));
    }

    #[test]
    fn output_that_is_not_kept_is_not_governed() {
        let now = Instant::now();
        let mut governor = Governor::new(None, now);
        governor.govern(quota(OverQuota::Block), now);
        assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
        assert!(is_written(next(&mut governor, Tag::Full, 9, now)));
        assert_eq!(governor.file_limit(), None);
    }
}
