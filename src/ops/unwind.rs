//! Undo as data: one unwinder for failures, crashes and removals.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::Error;

/// A step that would not go, and why. It stays recorded; the janitor retries it and `doctor` shows it.
#[derive(Debug)]
pub struct StillThere<S> {
    /// The step.
    pub step: S,
    /// Why it would not go.
    pub error: Error,
}

/// The steps that would not go at the last try, by object. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct StuckSteps(Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>);

impl StuckSteps {
    /// Notes what a try left of `object`: nothing, or the steps by name.
    pub fn note(&self, object: &str, left: impl IntoIterator<Item = &'static str>) {
        let left: Vec<_> = left.into_iter().collect();
        let mut stuck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_empty() {
            stuck.remove(object);
        } else {
            stuck.insert(object.to_owned(), left);
        }
    }

    /// How many there are of each step.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        let stuck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for step in stuck.values().flatten() {
            let count: &mut u64 = counts.entry(*step).or_default();
            *count = count.saturating_add(1);
        }
        counts
    }
}

/// Takes back `steps`, newest first. Each undo has `limit` of its own, and one that fails never stops the others.
/// `undo` must be idempotent and must tolerate a step that was recorded and never done.
pub async fn unwind<S, F>(steps: &[S], limit: Duration, undo: impl Fn(S) -> F) -> Vec<StillThere<S>>
where
    S: Copy + Debug,
    F: Future<Output = Result<(), Error>>,
{
    let mut left = Vec::new();
    for step in steps.iter().rev().copied() {
        let error = match tokio::time::timeout(limit, undo(step)).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_elapsed) => Error::timed_out(format!("undo {step:?}"), limit),
        };
        tracing::warn!(?step, %error, "a step would not unwind; it stays recorded");
        left.push(StillThere { step, error });
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_not_go_counts_until_a_try_takes_it_away() {
        let stuck = StuckSteps::default();
        stuck.note("a", ["netns", "network"]);
        stuck.note("b", ["network"]);
        stuck.note("c", []);
        assert_eq!(
            stuck.counts(),
            BTreeMap::from([("netns", 1), ("network", 2)])
        );

        stuck.note("a", ["network"]);
        stuck.note("b", []);

        assert_eq!(stuck.counts(), BTreeMap::from([("network", 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_or_hanging_undo_does_not_stop_the_others() {
        let done = Mutex::new(Vec::new());
        let left = unwind(&[1, 2, 3, 4], Duration::from_secs(1), |step| {
            let done = &done;
            async move {
                match step {
                    2 => std::future::pending().await,
                    3 => Err(Error::internal("no")),
                    _ => {
                        done.lock().unwrap().push(step);
                        Ok(())
                    }
                }
            }
        })
        .await;

        assert_eq!(*done.lock().unwrap(), [4, 1]);
        assert_eq!(
            left.iter().map(|left| left.step).collect::<Vec<_>>(),
            [3, 2]
        );
    }
}
