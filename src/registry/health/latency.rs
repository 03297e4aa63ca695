//! The last few latencies of a host.

use std::collections::VecDeque;
use std::time::Duration;

/// How many are kept.
const KEPT: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Latencies(VecDeque<Duration>);

impl Latencies {
    pub(super) fn note(&mut self, latency: Duration) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(latency);
    }

    /// The median; the upper one of an even number.
    pub(super) fn median(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_last_ones() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.median(), None);
        for ms in (0..100).chain([7; KEPT / 2]) {
            latencies.note(Duration::from_millis(ms));
        }

        assert_eq!(latencies.median(), Some(Duration::from_millis(84)));
    }
}
