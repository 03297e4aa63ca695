//! What pulls do right now, and what the last ones did: for people, and for whoever watches a slow registry.
//!
//! A pull writes here as it goes, with atomics where bytes flow; readers copy. Nothing in here decides anything.

mod layers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub(super) use layers::{LayerProgress, Meter};
pub use layers::{LayerReport, LayerState};

use super::facts::Layer;
use super::pull::PullKey;
use crate::model::{Clock, Digest, Kind, Result, Timestamp};

/// Ended pulls that are remembered.
const REMEMBERED: usize = 32;

/// One pull as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullReport {
    /// Number within this process's life.
    pub id: u64,
    /// The reference, normalised.
    pub reference: String,
    /// Whose snapshots are made.
    pub snapshotter: String,
    /// When it began.
    pub started_at: Timestamp,
    /// The step it is in, or ended in.
    pub step: &'static str,
    /// When that step began.
    pub step_started_at: Timestamp,
    /// The host that said what the reference names; empty before.
    pub host: String,
    /// The layers, bottom first; empty before they are known and where all of it was here.
    pub layers: Vec<LayerReport>,
    /// How it ended; `None` while it runs.
    pub end: Option<PullEnd>,
}

/// How a pull ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullEnd {
    /// When.
    pub at: Timestamp,
    /// The image's id, or what went wrong.
    pub outcome: std::result::Result<Digest, String>,
}

/// What pulls came to since the start, those that are remembered no more included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullTally {
    /// How many ended well, or with which kind of error; a pull that nobody waited for any more was cancelled.
    pub ended: Vec<(std::result::Result<(), Kind>, u64)>,
    /// Bytes of layers that were fetched, by those that still run as well.
    pub fetched: u64,
}

/// All pulls that run, and the last ones that ended. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct PullBook(Arc<Book>);

struct Book {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, Arc<Progress>>,
    ended: VecDeque<PullReport>,
    /// Of those that ended.
    tally: PullTally,
}

impl PullReport {
    /// Bytes that it fetched.
    fn fetched(&self) -> u64 {
        self.layers.iter().map(|layer| layer.fetched).sum()
    }
}

impl PullTally {
    fn add(&mut self, how: std::result::Result<(), Kind>, fetched: u64) {
        self.fetched = self.fetched.saturating_add(fetched);
        match self.ended.iter_mut().find(|(known, _count)| *known == how) {
            Some((_known, count)) => *count = count.saturating_add(1),
            None => self.ended.push((how, 1)),
        }
    }
}

impl PullBook {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Book {
            clock,
            state: Mutex::default(),
        }))
    }

    /// Enters a pull. One that is dropped without an end was stopped.
    pub(super) fn begin(&self, key: PullKey) -> Tracked {
        let now = self.0.clock.now();
        let mut state = self.lock();
        let id = state.next;
        state.next = id.wrapping_add(1);
        let progress = Arc::new(Progress {
            id,
            key,
            started_at: now,
            clock: Arc::clone(&self.0.clock),
            head: Mutex::new(Head {
                step: "begin",
                since: now,
                host: String::new(),
            }),
            layers: OnceLock::new(),
        });
        state.running.insert(id, Arc::clone(&progress));
        Tracked {
            book: self.clone(),
            progress,
        }
    }

    /// The running pulls, oldest first, and then those that ended, the latest first.
    pub(super) fn reports(&self) -> Vec<PullReport> {
        let state = self.lock();
        let running = state.running.values().map(|progress| progress.report());
        running.chain(state.ended.iter().cloned()).collect()
    }

    /// What all pulls came to.
    pub(super) fn tally(&self) -> PullTally {
        let state = self.lock();
        let mut tally = state.tally.clone();
        for progress in state.running.values() {
            tally.fetched = tally.fetched.saturating_add(progress.report().fetched());
        }
        tally
    }

    /// The running pull of `key`.
    pub(super) fn running(&self, key: &PullKey) -> Option<PullReport> {
        let state = self.lock();
        let mut running = state.running.values();
        let found = running.find(|progress| progress.key == *key)?;
        Some(found.report())
    }

    fn end(&self, id: u64, outcome: std::result::Result<Digest, (Kind, String)>) {
        let at = self.0.clock.now();
        let mut state = self.lock();
        let Some(progress) = state.running.remove(&id) else {
            return;
        };
        let mut report = progress.report();
        let how = outcome.as_ref().map(drop).map_err(|(kind, _why)| *kind);
        state.tally.add(how, report.fetched());
        let outcome = outcome.map_err(|(_kind, why)| why);
        report.end = Some(PullEnd { at, outcome });
        state.ended.push_front(report);
        state.ended.truncate(REMEMBERED);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running pull's place in the book.
pub(super) struct Tracked {
    book: PullBook,
    progress: Arc<Progress>,
}

impl Tracked {
    /// Says how the pull ended.
    pub(super) fn end(self, outcome: &Result<Digest>) {
        let outcome = match outcome {
            Ok(id) => Ok(id.clone()),
            Err(error) => Err((error.kind(), error.chain())),
        };
        self.book.end(self.progress.id, outcome);
    }
}

impl std::ops::Deref for Tracked {
    type Target = Progress;

    fn deref(&self) -> &Progress {
        &self.progress
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let stopped = "stopped, since nobody waited for it any more".to_owned();
        let how = (Kind::Cancelled, stopped);
        self.book.end(self.progress.id, Err(how));
    }
}

/// How far one pull is.
pub(super) struct Progress {
    id: u64,
    key: PullKey,
    started_at: Timestamp,
    clock: Arc<dyn Clock>,
    head: Mutex<Head>,
    layers: OnceLock<Vec<LayerProgress>>,
}

struct Head {
    step: &'static str,
    since: Timestamp,
    host: String,
}

impl Progress {
    /// Says that the pull entered `step`.
    pub(super) fn step(&self, step: &'static str) {
        let since = self.clock.now();
        let mut head = self.head();
        head.step = step;
        head.since = since;
    }

    /// Says who told what the reference names.
    pub(super) fn host(&self, host: &str) {
        host.clone_into(&mut self.head().host);
    }

    /// Says which layers the image has.
    pub(super) fn layers(&self, layers: &[Layer]) {
        self.layers.get_or_init(|| {
            let rows = layers.iter();
            rows.map(|layer| LayerProgress::new(layer, Arc::clone(&self.clock)))
                .collect()
        });
    }

    /// The row of the layer whose blob is `digest`. An image that has it twice shows both alike.
    pub(super) fn meter(&self, digest: &Digest) -> Meter<'_> {
        Meter::new(self.layers.get().map_or(&[], Vec::as_slice), digest)
    }

    fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> PullReport {
        let head = self.head();
        let layers = self.layers.get().map_or(&[][..], Vec::as_slice);
        PullReport {
            id: self.id,
            reference: self.key.reference.clone(),
            snapshotter: self.key.snapshotter.clone(),
            started_at: self.started_at,
            step: head.step,
            step_started_at: head.since,
            host: head.host.clone(),
            layers: layers.iter().map(LayerProgress::report).collect(),
            end: None,
        }
    }
}
