//! Where the time of each pod's start went. Kept for the last pods, each within limits.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::live::{OpInfo, StepTime};
use crate::model::Timestamp;

/// So many pods are remembered.
const PODS: usize = 256;
/// So many operations of each.
const PASSAGES: usize = 64;
/// Characters of what an operation worked on: others choose the names.
const OBJECT: usize = 256;
/// What begins later than this after the first one is no part of the start any more.
const START: Duration = Duration::from_secs(600);

/// One operation of a pod's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// E.g. `CreateContainer`.
    pub kind: &'static str,
    /// What it worked on.
    pub object: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; `None` while it runs.
    pub ended: Option<Timestamp>,
    /// Its steps.
    pub steps: Vec<StepTime>,
}

impl Passage {
    /// The operation of `row`, with all that was still open at its end.
    pub(super) fn of(row: OpInfo, ended: Option<Timestamp>) -> Self {
        let mut steps = row.steps;
        // Nobody waited: that step says nothing.
        steps.retain(|step| step.ended != Some(step.began));
        for step in &mut steps {
            step.ended = step.ended.or(ended);
        }
        Self {
            kind: row.kind,
            object: row.object,
            began: row.started_at,
            ended,
            steps,
        }
    }
}

#[derive(Debug, Default)]
struct Kept {
    order: VecDeque<String>,
    by_pod: BTreeMap<String, Vec<Passage>>,
}

/// The starts of the last pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Timelines(Arc<Mutex<Kept>>);

impl Timelines {
    pub(super) fn keep(&self, pod: &str, mut passage: Passage) {
        if passage.object.len() > OBJECT {
            passage.object = passage.object.chars().take(OBJECT).collect();
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        if !kept.by_pod.contains_key(pod) {
            if kept.order.len() >= PODS
                && let Some(oldest) = kept.order.pop_front()
            {
                kept.by_pod.remove(&oldest);
            }
            kept.order.push_back(pod.to_owned());
        }
        let passages = kept.by_pod.entry(pod.to_owned()).or_default();
        let first = passages.iter().map(|passage| passage.began).min();
        let is_late = first.is_some_and(|first| passage.began.since(first) > START);
        if passages.len() < PASSAGES && !is_late {
            passages.push(passage);
        }
    }

    pub(super) fn of(&self, pod: &str) -> Vec<Passage> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_pod.get(pod).cloned().unwrap_or_default()
    }

    pub(super) fn pods(&self, prefix: &str) -> Vec<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let from = kept
            .by_pod
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let found = from.map(|(pod, _)| pod.clone());
        found.take_while(|pod| pod.starts_with(prefix)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(began: i64) -> Passage {
        Passage {
            kind: "CreateContainer",
            object: String::new(),
            began: Timestamp(began),
            ended: None,
            steps: Vec::new(),
        }
    }

    #[test]
    fn pods_and_their_operations_are_kept_within_limits() {
        let timelines = Timelines::default();
        for pod in 0..PODS + 3 {
            timelines.keep(&format!("{pod:04}"), passage(0));
        }
        for nth in 0..200 {
            timelines.keep("0100", passage(nth));
        }
        timelines.keep("0101", passage(601_000_000_000));

        assert!(timelines.of("0002").is_empty());
        assert_eq!(timelines.of("0003").len(), 1);
        assert_eq!(timelines.of("0100").len(), PASSAGES);
        assert_eq!(timelines.of("0101").len(), 1);
        assert_eq!(timelines.pods("").len(), PODS);
        assert_eq!(timelines.pods("010").len(), 10);
    }
}
