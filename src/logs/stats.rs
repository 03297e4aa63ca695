//! What pumps count, readable from anywhere: each container's, and all of them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A pump's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PumpStats {
    /// Records taken, dropped ones included.
    pub records: u64,
    /// Bytes of output taken.
    pub bytes: u64,
    /// What the log file did not take: records, and bytes as they would stand in it.
    pub dropped: Dropped,
    /// What was beyond the quota on bytes a second: records, and bytes of output.
    pub over_rate: Dropped,
    /// What was beyond the quota on the file's size: records, and bytes of output.
    pub over_size: Dropped,
    /// How many times the output was left unread for a while, because it was beyond a quota.
    pub holds: u64,
    /// Since when it is left unread.
    pub held_for: Option<Duration>,
    /// How long the log file's filesystem has kept us waiting in the call under way.
    pub blocked_for: Option<Duration>,
}

/// Records that are in no log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Dropped {
    /// Whether there is nothing of it.
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn add(&mut self, records: u64, bytes: u64) {
        self.records = self.records.saturating_add(records);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What all pumps counted since the start, those included that have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogTotals {
    /// Records taken, dropped ones included.
    pub records: u64,
    /// Bytes of output taken.
    pub bytes: u64,
    /// Records that log files did not take.
    pub dropped: u64,
    /// Records beyond the quota on bytes a second.
    pub over_rate: u64,
    /// Records beyond the quota on the file's size.
    pub over_size: u64,
    /// How many times the output of a container was left unread for a while.
    pub holds: u64,
}

/// What became of some of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) dropped: Dropped,
    pub(super) over_rate: Dropped,
    pub(super) over_size: Dropped,
}

/// Counted by pumps' threads, read by everyone.
#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
    dropped: Pair,
    over_rate: Pair,
    over_size: Pair,
    holds: AtomicU64,
}

impl Counts {
    fn count(&self, tally: &Tally) {
        add(&self.records, tally.records);
        add(&self.bytes, tally.bytes);
        self.dropped.count(tally.dropped);
        self.over_rate.count(tally.over_rate);
        self.over_size.count(tally.over_size);
    }
}

#[derive(Debug, Default)]
struct Pair {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Pair {
    fn count(&self, dropped: Dropped) {
        if !dropped.is_empty() {
            add(&self.records, dropped.records);
            add(&self.bytes, dropped.bytes);
        }
    }

    fn read(&self) -> Dropped {
        Dropped {
            records: read(&self.records),
            bytes: read(&self.bytes),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The counters of all pumps together. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals(Arc<Counts>);

impl Totals {
    pub(super) fn read(&self) -> LogTotals {
        LogTotals {
            records: read(&self.0.records),
            bytes: read(&self.0.bytes),
            dropped: read(&self.0.dropped.records),
            over_rate: read(&self.0.over_rate.records),
            over_size: read(&self.0.over_size.records),
            holds: read(&self.0.holds),
        }
    }
}

/// One pump's counters. Written by its thread.
#[derive(Debug)]
pub(super) struct Counters {
    own: Counts,
    all: Totals,
    made: Instant,
    /// When the file call under way began.
    busy: Since,
    /// When the output was left unread.
    held: Since,
}

impl Counters {
    pub(super) fn new(all: Totals) -> Self {
        Self {
            own: Counts::default(),
            all,
            made: Instant::now(),
            busy: Since::default(),
            held: Since::default(),
        }
    }

    pub(super) fn count(&self, tally: &Tally) {
        self.own.count(tally);
        self.all.0.count(tally);
    }

    /// Notes that the output is left unread from now on, or is read again.
    pub(super) fn hold(&self, is_held: bool) {
        if !is_held {
            self.held.clear();
        } else if self.held.begin(self.made) {
            add(&self.own.holds, 1);
            add(&self.all.0.holds, 1);
        }
    }

    /// Marks the time of `call`, which may block for as long as a filesystem likes.
    pub(super) fn busy<T>(&self, call: impl FnOnce() -> T) -> T {
        self.busy.begin(self.made);
        let done = call();
        self.busy.clear();
        done
    }

    pub(super) fn read(&self) -> PumpStats {
        PumpStats {
            records: read(&self.own.records),
            bytes: read(&self.own.bytes),
            dropped: self.own.dropped.read(),
            over_rate: self.own.over_rate.read(),
            over_size: self.own.over_size.read(),
            holds: read(&self.own.holds),
            held_for: self.held.lasts(self.made),
            blocked_for: self.busy.lasts(self.made),
        }
    }
}

/// The beginning of something that lasts: microseconds after an instant, plus one; zero for nothing.
#[derive(Debug, Default)]
struct Since(AtomicU64);

impl Since {
    /// It lasts from now on; false where it did already.
    fn begin(&self, made: Instant) -> bool {
        let now = Self::now(made);
        let order = Ordering::Relaxed;
        self.0.compare_exchange(0, now, order, order).is_ok()
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn lasts(&self, made: Instant) -> Option<Duration> {
        match read(&self.0) {
            0 => None,
            since => Some(Duration::from_micros(Self::now(made).saturating_sub(since))),
        }
    }

    fn now(made: Instant) -> u64 {
        u64::try_from(made.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .saturating_add(1)
    }
}
