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
/// Bytes a second that are read in order to be dropped, after a burst: far more than is of use to anybody, and yet what a
/// flood costs in processor time has a limit. They come on top of what is written, so nobody waits longer than if it were
/// blocked.
const APPETITE: u64 = 64 * 1024 * 1024;
/// Once that is used up, what must be there before more is read: several FIFOs' worth.
const AFTER_FEAST: Duration = Duration::from_millis(10);
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
    /// Whether a line stands open in the log, which is to be ended. `None`: only the file knows, and whether
    /// [`FILE_IS_FULL`] stands there.
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
    /// Of [`APPETITE`].
    appetite: Bucket,
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
            appetite: Bucket::full(now),
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
            return self.drop_in_time(next, limit, now);
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
            _ => self.drop_in_time(next, limit, now),
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

    /// Drops the record, unless so much was dropped lately that it waits.
    fn drop_in_time(&mut self, next: Candidate, limit: Limit, now: Instant) -> Ruling {
        if self.last_words.is_none()
            && let Some(until) = self.appetite.closed_until(AFTER_FEAST, now)
        {
            return Ruling::Wait(until);
        }
        self.appetite.pay(next.output, APPETITE, now);
        self.drop(next, limit)
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
mod tests;
