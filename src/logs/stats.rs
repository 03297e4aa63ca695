//! What a pump counts, readable from anywhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::writer::Dropped;

/// A pump's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PumpStats {
    /// Records taken, dropped ones included.
    pub records: u64,
    /// Bytes of output taken.
    pub bytes: u64,
    /// Records that the log file did not take.
    pub dropped_records: u64,
    /// Bytes of those records.
    pub dropped_bytes: u64,
    /// How long the log file's filesystem has kept us waiting in the call under way.
    pub blocked_for: Option<Duration>,
}

/// Written by the pump's thread, read by everyone.
#[derive(Debug)]
pub(super) struct Counters {
    records: AtomicU64,
    bytes: AtomicU64,
    dropped_records: AtomicU64,
    dropped_bytes: AtomicU64,
    made: Instant,
    /// Microseconds after `made`, plus one, at which the file call under way began; zero for none.
    busy_since: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped_records: AtomicU64::new(0),
            dropped_bytes: AtomicU64::new(0),
            made: Instant::now(),
            busy_since: AtomicU64::new(0),
        }
    }

    pub(super) fn count(&self, records: u64, bytes: usize, dropped: Dropped) {
        self.records.fetch_add(records, Ordering::Relaxed);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.dropped_records
            .fetch_add(dropped.records, Ordering::Relaxed);
        self.dropped_bytes
            .fetch_add(dropped.bytes, Ordering::Relaxed);
    }

    /// Marks the time of `call`, which may block for as long as a filesystem likes.
    pub(super) fn busy<T>(&self, call: impl FnOnce() -> T) -> T {
        let began = self.elapsed_us().saturating_add(1);
        self.busy_since.store(began, Ordering::Relaxed);
        let done = call();
        self.busy_since.store(0, Ordering::Relaxed);
        done
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn read(&self) -> PumpStats {
        let blocked_for = match self.busy_since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(Duration::from_micros(
                self.elapsed_us().saturating_add(1).saturating_sub(since),
            )),
        };
        PumpStats {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped_records: self.dropped_records.load(Ordering::Relaxed),
            dropped_bytes: self.dropped_bytes.load(Ordering::Relaxed),
            blocked_for,
        }
    }
}
