//! How long things took that ended, in buckets: a few atomics each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Buckets;

/// Upper bounds of the buckets, in microseconds: from a read of a view to the pull of a large image.
const BOUNDS: [u64; 16] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    15_000_000,
    60_000_000,
    300_000_000,
];

/// Those of one kind that have ended since the start.
#[derive(Debug, Default)]
pub struct Timings {
    /// One a bound, and what took longer.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Timings {
    /// Counts one that has ended.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let nth = BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(count) = self.counts.get(nth) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn buckets(&self) -> Buckets {
        let bounds = BOUNDS
            .iter()
            .map(|micros| Duration::from_micros(*micros).as_secs_f64())
            .chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|it| it.load(Ordering::Relaxed));
        Buckets {
            counts: bounds.zip(counts).collect(),
            sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)),
        }
    }
}
