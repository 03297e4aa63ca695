//! The plugins that take part, in the order in which they are asked, and who works with which list of them.
//!
//! An operation asks the plugins about an object, and later publishes that object. A plugin that joins in between would
//! neither be asked nor be told. So an operation is present in one generation of the list from before it asks until it has
//! published, and a plugin that made the next generation waits until everybody has left the former ones before it is told
//! what exists. Entering takes no lock and never waits; whoever entered goes on with its own list, so nobody waits for a
//! plugin that waits for it.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::event::Event;
use super::plugin::Plugin;

/// A list that is read without a lock and replaced as a whole.
#[derive(Default)]
pub(super) struct Roster {
    now: ArcSwap<Generation>,
    heard: AtomicU32,
    former: Mutex<Vec<Arc<Generation>>>,
}

/// One list, and how many work with it.
#[derive(Default)]
pub(super) struct Generation {
    plugins: Vec<Arc<Plugin>>,
    inside: AtomicUsize,
    left: Notify,
}

impl Generation {
    fn leave(&self) {
        if self.inside.fetch_sub(1, SeqCst) == 1 {
            self.left.notify_waiters();
        }
    }

    async fn until_empty(&self) {
        loop {
            let left = self.left.notified();
            if self.inside.load(SeqCst) == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Roster {
    /// Whether anybody hears of `event`: one atomic load.
    pub(super) fn hears(&self, event: Event) -> bool {
        self.heard.load(SeqCst) & event.bit() != 0
    }

    /// Everybody, in order.
    pub(super) fn all(&self) -> Vec<Arc<Plugin>> {
        self.now.load().plugins.clone()
    }

    /// Those who hear of `event`, in order.
    pub(super) fn listeners(&self, event: Event) -> Vec<Arc<Plugin>> {
        listeners(&self.now.load().plugins, event)
    }

    /// Enters; the value's drop leaves.
    pub(super) fn enter(&self) -> Present {
        loop {
            let generation = self.now.load_full();
            generation.inside.fetch_add(1, SeqCst);
            let present = Present(Some(generation));
            // Where the list was replaced meanwhile, whoever did so may not have seen us.
            if present.is_of(&self.now.load()) {
                return present;
            }
        }
    }

    pub(super) fn add(&self, plugin: Arc<Plugin>) {
        self.replace(|plugins| {
            plugins.push(plugin);
            plugins.sort_by(|a, b| (&a.index, &a.name).cmp(&(&b.index, &b.name)));
        });
    }

    pub(super) fn remove(&self, plugin: &Arc<Plugin>) {
        self.replace(|plugins| plugins.retain(|other| !Arc::ptr_eq(other, plugin)));
    }

    /// Waits until everybody has left who works with a former list.
    pub(super) async fn until_former_left(&self) {
        let former = {
            let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
            former.retain(|generation| generation.inside.load(SeqCst) > 0);
            former.clone()
        };
        for generation in former {
            generation.until_empty().await;
        }
    }

    fn replace(&self, change: impl FnOnce(&mut Vec<Arc<Plugin>>)) {
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        let mut plugins = self.all();
        change(&mut plugins);
        let heard = plugins
            .iter()
            .fold(0, |mask, plugin| mask | plugin.subscription());
        let next = Arc::new(Generation {
            plugins,
            ..Generation::default()
        });
        let old = self.now.swap(next);
        self.heard.store(heard, SeqCst);
        former.retain(|generation| generation.inside.load(SeqCst) > 0);
        // Empty or not: somebody may have loaded it and not entered yet.
        former.push(old);
    }
}

fn listeners(plugins: &[Arc<Plugin>], event: Event) -> Vec<Arc<Plugin>> {
    let listeners = plugins.iter().filter(|plugin| plugin.hears(event));
    listeners.cloned().collect()
}

/// Somebody who is in the middle of a change, and the plugins that are asked about it.
#[must_use = "leaves when it is dropped"]
pub struct Present(Option<Arc<Generation>>);

impl Present {
    /// Somebody who asks nobody, and for whom nobody waits.
    pub(super) const fn nobody() -> Self {
        Self(None)
    }

    fn is_of(&self, generation: &Arc<Generation>) -> bool {
        matches!(&self.0, Some(own) if Arc::ptr_eq(own, generation))
    }

    pub(super) fn all(&self) -> &[Arc<Plugin>] {
        self.0.as_ref().map_or(&[], |own| &own.plugins)
    }

    pub(super) fn listeners(&self, event: Event) -> Vec<Arc<Plugin>> {
        listeners(self.all(), event)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(generation) = self.0.take() {
            generation.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_entered_before_is_waited_for_and_who_enters_later_is_not() {
        let roster = Roster::default();
        let soon = Duration::from_millis(1);
        let before = roster.enter();

        roster.replace(|_| ());
        let mut waiting = std::pin::pin!(roster.until_former_left());
        assert!(tokio::time::timeout(soon, &mut waiting).await.is_err());
        let later = roster.enter();
        drop(before);
        tokio::time::timeout(soon, &mut waiting).await.unwrap();

        roster.replace(|_| ());
        roster.replace(|_| ());
        let mut second = std::pin::pin!(roster.until_former_left());
        assert!(tokio::time::timeout(soon, &mut second).await.is_err());
        drop(later);
        tokio::time::timeout(soon, &mut second).await.unwrap();
        roster.until_former_left().await;
    }

    /// Somebody who did not see the change must have left by the end of the wait.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_missed_however_the_lists_change() {
        let roster = Arc::new(Roster::default());
        for _ in 0..200 {
            let changed = Arc::new(AtomicBool::new(false));
            let unaware = Arc::new(AtomicUsize::new(0));
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let (roster, changed, unaware) = (
                        Arc::clone(&roster),
                        Arc::clone(&changed),
                        Arc::clone(&unaware),
                    );
                    tokio::task::spawn_blocking(move || {
                        let _present = roster.enter();
                        if !changed.load(SeqCst) {
                            unaware.fetch_add(1, SeqCst);
                            std::hint::spin_loop();
                            unaware.fetch_sub(1, SeqCst);
                        }
                    })
                })
                .collect();
            changed.store(true, SeqCst);
            roster.replace(|_| ());
            roster.until_former_left().await;
            assert_eq!(unaware.load(SeqCst), 0);
            for worker in workers {
                worker.await.unwrap();
            }
        }
    }
}
