//! Times of both endpoints for one thing, and what they amount to.

use std::time::Duration;

/// Resamplings behind an interval.
const RESAMPLES: usize = 1_000;

/// Times of one thing, in milliseconds, in the order they were taken.
#[derive(Default)]
pub(crate) struct Series {
    values: Vec<f64>,
}

impl Series {
    pub(crate) fn push(&mut self, time: Duration) {
        self.values.push(time.as_secs_f64() * 1_000.0);
    }

    pub(crate) fn push_value(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The value below which `share` (0 to 1) of the samples lie; zero without samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.values, share)
    }

    /// How far the medians of the first and the second half lie apart, as a share of the whole median.
    pub(crate) fn drift(&self) -> f64 {
        let (first, second) = self.values.split_at(self.values.len() / 2);
        let whole = self.quantile(0.5);
        if whole == 0.0 || first.is_empty() {
            return 0.0;
        }
        (quantile(first, 0.5) - quantile(second, 0.5)).abs() / whole
    }
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index among at most some thousands of samples"
    )]
    let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// `ours / peer` of the medians, with the ends of its 95 % interval (bootstrap, with a fixed seed: the same samples give
/// the same interval).
pub(crate) fn ratio(ours: &Series, peer: &Series) -> (f64, f64, f64) {
    let divide = |a: f64, b: f64| if b == 0.0 { f64::NAN } else { a / b };
    let middle = divide(ours.quantile(0.5), peer.quantile(0.5));
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let ours = resample(&ours.values, &mut state);
            let peer = resample(&peer.values, &mut state);
            divide(quantile(&ours, 0.5), quantile(&peer, 0.5))
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    (middle, quantile(&ratios, 0.025), quantile(&ratios, 0.975))
}

/// As many values, drawn with replacement (xorshift64).
fn resample(values: &[f64], state: &mut u64) -> Vec<f64> {
    let many = u64::try_from(values.len()).unwrap_or(1).max(1);
    values
        .iter()
        .map(|first| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            usize::try_from(*state % many)
                .ok()
                .and_then(|at| values.get(at))
                .copied()
                .unwrap_or(*first)
        })
        .collect()
}
