//! Time as the CRI tells it: nanoseconds since the epoch, from a clock that tests can own.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From whole seconds and nanoseconds, as protobuf's Timestamp carries them; saturates.
    pub fn from_parts(seconds: i64, nanos: i32) -> Self {
        Self(
            seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(nanos)),
        )
    }

    /// Whole seconds and the nanoseconds above them.
    pub fn parts(self) -> (i64, i32) {
        let nanos = i32::try_from(self.0.rem_euclid(1_000_000_000)).unwrap_or(0);
        (self.0.div_euclid(1_000_000_000), nanos)
    }

    /// The time that is `by` after this one; the last there is where it would be later.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(by)))
    }

    /// The time that is `by` before this one; the first there is where it would be earlier.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(by)))
    }

    /// How long after `earlier` this is; zero where it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn nanoseconds(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// Tells the time. Rooms hold `Arc<dyn Clock>`.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The host's real-time clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that reads the host's clock"
        )]
        let now = std::time::SystemTime::now();
        let elapsed = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(nanoseconds(elapsed))
    }
}

/// A clock that stands still until told otherwise.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that says `now`.
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(nanoseconds(by), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// Hands out creation stamps that never repeat nor go backwards, even where the host's clock does (a node whose
/// clock is not yet synchronised at boot): kubelet sorts pods and containers by them.
#[derive(Debug)]
pub struct CreationStamps {
    last: Mutex<Timestamp>,
}

impl CreationStamps {
    /// Stamps later than `high_water`, the newest stamp known from before a restart.
    pub fn after(high_water: Timestamp) -> Self {
        Self {
            last: Mutex::new(high_water),
        }
    }

    /// Raises the mark so that later stamps lie after `seen`.
    pub fn observe(&self, seen: Timestamp) {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = (*last).max(seen);
    }

    /// A stamp of `clock`'s now, or one nanosecond after the last one where that is later.
    pub fn next(&self, clock: &dyn Clock) -> Timestamp {
        let mut last = self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = clock.now().max(Timestamp(last.0.saturating_add(1)));
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_stamps_rise_while_the_clock_goes_backwards() {
        let stamps = CreationStamps::after(Timestamp(500));
        let clock = ManualClock::at(Timestamp(100));

        assert_eq!(stamps.next(&clock), Timestamp(501));
        assert_eq!(stamps.next(&clock), Timestamp(502));
    }

    #[test]
    fn parts_of_a_time_before_the_epoch_keep_positive_nanos() {
        assert_eq!(Timestamp(-1).parts(), (-1, 999_999_999));
        assert_eq!(Timestamp::from_parts(-1, 999_999_999), Timestamp(-1));
    }
}
