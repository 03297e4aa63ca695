//! Records and containerd's truth to repairs: at start, and by the janitor ever after.
//!
//! `gather` reads everything once, each task with a deadline of its own, so that one hung shim does not hold the node;
//! `plan` decides, purely; `apply` lists what exists and takes back what was cut off. Only what carries our mark is
//! ever looked at.

mod apply;
mod gather;
mod janitor;
pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::container::Containers;
use crate::model::Result;
use crate::sandbox::{Deps, Sandboxes};

/// The room's entrance.
#[derive(Clone)]
pub struct Recovery {
    deps: Arc<Deps>,
    sandboxes: Sandboxes,
    containers: Containers,
    /// Objects whose records cannot be read, and what stands on them: nothing of theirs is taken back.
    untouched: Arc<Mutex<BTreeSet<String>>>,
    /// What the janitor found without an owner and could not remove in its last round, by kind.
    orphans: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

/// What a recovery did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sandboxes listed.
    pub sandboxes: usize,
    /// Containers listed.
    pub containers: usize,
    /// Objects whose creation was cut off, taken back.
    pub unwound: usize,
    /// Objects that could not be read; they stay in containerd untouched.
    pub unreadable: usize,
    /// Attachments being given back in the background.
    pub detached: usize,
}

impl Recovery {
    /// Recovery over the lifecycles.
    pub fn new(sandboxes: Sandboxes, containers: Containers) -> Self {
        Self {
            deps: Arc::clone(sandboxes.deps()),
            sandboxes,
            containers,
            untouched: Arc::default(),
            orphans: Arc::default(),
        }
    }

    /// What the janitor found without an owner and could not remove in its last round, by kind.
    pub fn orphans(&self) -> BTreeMap<&'static str, u64> {
        let orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.clone()
    }

    fn note_orphans(&self, kind: &'static str, count: u64) {
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.insert(kind, count);
    }

    /// Leaves the object `id` as it is, for as long as this process lives.
    fn leave_untouched(&self, id: String) {
        let mut untouched = self
            .untouched
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        untouched.insert(id);
    }

    fn is_untouched(&self, id: &str) -> bool {
        let untouched = self
            .untouched
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        untouched.contains(id)
    }

    /// Brings the lifecycles to what records and containerd tell. Once, before the first request.
    ///
    /// # Errors
    /// `Unavailable` where containerd's records cannot be listed, `Internal` where our own cannot be read or written.
    pub async fn run(&self) -> Result<Report> {
        let found = self.gather().await?;
        let report = self.apply(found).await?;
        tracing::info!(?report, "recovered");
        Ok(report)
    }
}
