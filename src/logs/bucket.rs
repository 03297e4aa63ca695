//! Bytes a second, with a burst. Pure: the time is told.

use std::time::{Duration, Instant};

/// What may pass at once after silence: so much time's worth of bytes.
pub(super) const BURST: Duration = Duration::from_secs(1);

/// A token bucket that holds time: what was written is paid for until an instant, and every byte moves that on.
#[derive(Debug)]
pub(super) struct Bucket {
    paid_until: Instant,
    /// Set while it was empty and has not filled up as far as was wanted.
    closed_until: Option<Instant>,
}

impl Bucket {
    pub(super) fn full(now: Instant) -> Self {
        Self {
            paid_until: now.checked_sub(BURST).unwrap_or(now),
            closed_until: None,
        }
    }

    /// `None` while something may pass. Once it is empty: when `wanted` will be in it.
    pub(super) fn closed_until(&mut self, wanted: Duration, now: Instant) -> Option<Instant> {
        if self.closed_until.is_none() && now < self.paid_until {
            self.closed_until = Some(self.paid_until + wanted);
        }
        self.closed_until = self.closed_until.filter(|until| now < *until);
        self.closed_until
    }

    /// Takes `bytes` out, be it more than there are: a record is not cut.
    pub(super) fn pay(&mut self, bytes: usize, rate: u64, now: Instant) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = bytes.saturating_mul(1_000_000_000) / rate.max(1);
        let from = now.checked_sub(BURST).unwrap_or(now);
        self.paid_until = self.paid_until.max(from) + Duration::from_nanos(nanos);
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1_024, 10)]
    #[case(64_000_000, 100_000)]
    #[case(1_000_000_000, 1_000_000)]
    fn short_records_use_up_any_rate(#[case] rate: u64, #[case] most: u64) {
        let now = Instant::now() + Duration::from_secs(60);
        let mut bucket = Bucket::full(now);
        let length = usize::try_from(rate / most).unwrap();
        let passed = (0..2 * most)
            .take_while(|_| {
                let is_open = bucket.closed_until(BURST, now).is_none();
                bucket.pay(length, rate, now);
                is_open
            })
            .count();
        let passed = u64::try_from(passed).unwrap();
        assert!(passed.abs_diff(most) <= 1 + most / 10, "{passed} of {most}");
    }
}
