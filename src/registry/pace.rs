//! Whether a host delivers more than a trickle.

use std::time::Duration;

/// How much came while we waited. Only time spent waiting for it counts.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    received: u64,
    /// Waited since the last byte.
    silent: Duration,
}

impl Pace {
    /// Charges time in which no byte could come.
    pub(super) fn wait(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
        self.silent = self.silent.saturating_add(waited);
    }

    /// Whether no byte has come for `window`, over all connections; zero is never.
    pub(super) fn is_silent_for(&self, window: Duration) -> bool {
        !window.is_zero() && self.silent >= window
    }

    pub(super) fn keeps_up(
        &mut self,
        waited: Duration,
        received: u64,
        window: Duration,
        rate: u64,
    ) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.received = self.received.saturating_add(received);
        self.silent = Duration::ZERO;
        if window.is_zero() || self.waited < window {
            return true;
        }
        let kept_up = self.received >= rate.saturating_mul(self.waited.as_secs());
        *self = Self::default();
        kept_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_noticed_after_the_window_and_a_pause_of_the_reader_is_not() {
        let window = Duration::from_secs(300);
        let mut pace = Pace::default();
        for _ in 0..299 {
            assert!(pace.keeps_up(Duration::from_secs(1), 10, window, 1024));
        }
        assert!(!pace.keeps_up(Duration::from_secs(1), 10, window, 1024));
        assert!(pace.keeps_up(Duration::from_secs(300), 1024 * 300, window, 1024));
    }
}
