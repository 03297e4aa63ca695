//! Leases of image work. A failed pull leaves its lease to expire, so that the next pull of the same target finds what
//! was fetched already, partial blobs included. Pulls of one target share the lease; the last one that succeeds ends it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Inner;
use super::locks::Locks;
use crate::containerd::{LeaseId, Leases};
use crate::model::{Clock, Digest, Result, Timestamp};

/// How long work may take, and how long its remains are kept.
pub(super) const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Pauses after failed attempts to delete a lease.
const WAITS: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(500),
    Duration::ZERO,
];
/// A lease is not joined any more once this much of its life may be over.
const WINDOW: i64 = 12 * 3600;

/// The leases in use, with the number of operations on each.
#[derive(Clone, Default)]
pub(super) struct LeaseBook(Arc<Book>);

#[derive(Default)]
struct Book {
    holders: Mutex<HashMap<LeaseId, usize>>,
    /// One a lease: whoever makes it must not meet whoever is just deleting it.
    turns: Locks,
}

impl Inner {
    /// The lease of work on `target`, as the module says.
    pub(super) async fn lease(&self, target: &Digest) -> Result<Held> {
        let leases = &self.containerd.leases;
        self.leases.take(leases, &*self.clock, target).await
    }
}

/// One operation's hold on a lease.
pub(super) struct Held {
    book: LeaseBook,
    leases: Arc<dyn Leases>,
    id: LeaseId,
}

/// What the ids of these leases begin with.
const PREFIX: &str = "podwright-image-";

/// Whether this is a lease of image work, of this process or of one before it.
pub(super) fn is_ours(id: &LeaseId) -> bool {
    id.0.starts_with(PREFIX)
}

fn id_of(now: Timestamp, target: &Digest) -> LeaseId {
    let (seconds, _) = now.parts();
    let window = seconds.div_euclid(WINDOW);
    LeaseId(format!("{PREFIX}{window}-{}", target.hex()))
}

impl LeaseBook {
    /// Takes the lease for work on `target`, making it where it is not there.
    ///
    /// # Errors
    /// Those of containerd.
    pub(super) async fn take(
        &self,
        leases: &Arc<dyn Leases>,
        clock: &dyn Clock,
        target: &Digest,
    ) -> Result<Held> {
        let now = clock.now();
        let id = id_of(now, target);
        let _turn = self.0.turns.hold(id.0.clone()).await;
        self.count(&id, |holders| holders.saturating_add(1));
        // From here on whatever ends this takes the count back: before, there is none to take.
        let held = Held {
            book: self.clone(),
            leases: Arc::clone(leases),
            id,
        };
        leases
            .create(&held.id, Some(now.after(LIFE)), BTreeMap::new())
            .await?;
        Ok(held)
    }

    /// Ends the lease that a failed pull of `target` left, where nobody works under it: everything is there by now.
    pub(super) async fn sweep(&self, leases: &dyn Leases, clock: &dyn Clock, target: &Digest) {
        let id = id_of(clock.now(), target);
        let _turn = self.0.turns.hold(id.0.clone()).await;
        if self.is_held(&id) {
            return;
        }
        match leases.delete(&id, false).await {
            Err(error) if !error.is_not_found() => {
                tracing::debug!(lease = %id.0, %error, "a failed pull's lease stays until it expires");
            }
            _ => {}
        }
    }

    /// Whether somebody works under a lease.
    pub(super) fn is_held(&self, id: &LeaseId) -> bool {
        self.count(id, |holders| holders) > 0
    }

    /// Ends a lease that nobody works under; answers whether it did.
    ///
    /// # Errors
    /// Those of containerd.
    pub(super) async fn end(&self, leases: &dyn Leases, id: &LeaseId) -> Result<bool> {
        let _turn = self.0.turns.hold(id.0.clone()).await;
        if self.is_held(id) {
            return Ok(false);
        }
        leases.delete(id, false).await.map(|()| true)
    }

    /// Changes the number of holders and answers the new one.
    fn count(&self, id: &LeaseId, change: impl FnOnce(usize) -> usize) -> usize {
        let mut book = self
            .0
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let holders = change(book.get(id).copied().unwrap_or(0));
        if holders == 0 {
            book.remove(id);
        } else {
            book.insert(id.clone(), holders);
        }
        holders
    }
}

impl Held {
    /// The lease's id.
    pub(super) fn id(&self) -> &LeaseId {
        &self.id
    }

    /// Ends the lease, unless others work under it: records hold everything now.
    pub(super) async fn release(self) {
        let book = self.book.clone();
        let _turn = book.0.turns.hold(self.id.0.clone()).await;
        if book.count(&self.id, |holders| holders) > 1 {
            return;
        }
        for wait in WAITS {
            match self.leases.delete(&self.id, false).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() => return,
                Err(error) => {
                    tracing::warn!(lease = %self.id.0, %error, "a finished pull's lease would not go; after some tries it stays until it expires");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.book
            .count(&self.id, |holders| holders.saturating_sub(1));
    }
}
