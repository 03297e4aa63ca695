//! One layer of a pull: how many bytes came, from where, and what happens to it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::facts::Layer;
use crate::model::{Clock, Digest, Timestamp};

/// Where a layer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LayerState {
    /// Its turn has not come.
    Waiting,
    /// Its blob is being fetched.
    Fetching,
    /// Its blob is here.
    Fetched,
    /// It is being unpacked.
    Unpacking,
    /// Its snapshot is here.
    Done,
}

impl LayerState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Fetching => "fetching",
            Self::Fetched => "fetched",
            Self::Unpacking => "unpacking",
            Self::Done => "done",
        }
    }
}

/// One layer as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// The blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Bytes of it that are here.
    pub here: u64,
    /// Bytes of it that this pull fetched.
    pub fetched: u64,
    /// Where it is on its way.
    pub state: LayerState,
    /// The host that it comes from; empty where nothing was fetched.
    pub host: String,
    /// When bytes last came; `None` where none did.
    pub last_byte_at: Option<Timestamp>,
}

pub(in crate::image) struct LayerProgress {
    digest: Digest,
    size: u64,
    clock: Arc<dyn Clock>,
    here: AtomicU64,
    fetched: AtomicU64,
    /// 0 is never.
    last_byte_at: AtomicI64,
    words: Mutex<Words>,
}

struct Words {
    state: LayerState,
    host: String,
}

impl LayerProgress {
    pub(super) fn new(layer: &Layer, clock: Arc<dyn Clock>) -> Self {
        Self {
            digest: layer.blob.digest.clone(),
            size: layer.blob.size,
            clock,
            here: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            last_byte_at: AtomicI64::new(0),
            words: Mutex::new(Words {
                state: LayerState::Waiting,
                host: String::new(),
            }),
        }
    }

    pub(super) fn report(&self) -> LayerReport {
        let words = self.words();
        let last = self.last_byte_at.load(Ordering::Relaxed);
        LayerReport {
            digest: self.digest.clone(),
            size: self.size,
            here: self.here.load(Ordering::Relaxed).min(self.size),
            fetched: self.fetched.load(Ordering::Relaxed),
            state: words.state,
            host: words.host.clone(),
            last_byte_at: (last != 0).then_some(Timestamp(last)),
        }
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of one blob. Whoever works on the blob says here how far it is.
pub(in crate::image) struct Meter<'a> {
    rows: Vec<&'a LayerProgress>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(rows: &'a [LayerProgress], digest: &Digest) -> Self {
        let rows = rows.iter().filter(|row| row.digest == *digest).collect();
        Self { rows }
    }

    /// Says what happens to the blob now. A blob never goes back, except to be fetched again.
    pub(in crate::image) fn state(&self, state: LayerState) {
        for row in &self.rows {
            let mut words = row.words();
            if words.state < state || state == LayerState::Fetching {
                words.state = state;
            }
            if state >= LayerState::Fetched {
                row.here.store(row.size, Ordering::Relaxed);
            }
        }
    }

    /// Says that fetching begins with `here` bytes at hand.
    pub(in crate::image) fn begin(&self, here: u64) {
        self.state(LayerState::Fetching);
        for row in &self.rows {
            row.here.store(here, Ordering::Relaxed);
        }
    }

    /// Bytes that have come from the network.
    pub(in crate::image) fn fetched(&self) -> u64 {
        let fetched = self.rows.iter().map(|row| &row.fetched);
        fetched
            .map(|bytes| bytes.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0)
    }

    /// Counts bytes that came from `host`.
    pub(in crate::image) fn received(&self, bytes: u64, host: &str) {
        for row in &self.rows {
            row.here.fetch_add(bytes, Ordering::Relaxed);
            row.fetched.fetch_add(bytes, Ordering::Relaxed);
            row.last_byte_at.store(row.clock.now().0, Ordering::Relaxed);
            let mut words = row.words();
            if words.host != host {
                host.clone_into(&mut words.host);
            }
        }
    }
}
