//! What writable layers take: counted by the file system where a layer has a project of its own, else as `image` measured
//! it last.
//!
//! A count is one question to the kernel. It may wait for a disk, so it is asked on a thread where system calls may wait,
//! and an answer is kept as long as other readings are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::index::{ContainerView, LayerProject, Snapshot};
use crate::model::ContainerId;
use crate::sys;
use crate::sys::project_quota::used_blocking;

use super::Stats;
use super::container::LayerUsage;

/// What was counted last, and when.
struct Counted {
    made: Instant,
    usage: LayerUsage,
}

/// The counts of all layers that have one.
#[derive(Default)]
pub(super) struct Layers {
    last: Mutex<HashMap<ContainerId, Counted>>,
    /// Held by whoever asks, so that others who come meanwhile share the answers.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Layers {
    fn of(&self, id: &ContainerId) -> Option<LayerUsage> {
        self.with(|last| last.get(id).map(|counted| counted.usage.clone()))
    }

    fn is_stale(&self, id: &ContainerId, age: Duration) -> bool {
        self.with(|last| {
            last.get(id)
                .is_none_or(|counted| counted.made.elapsed() >= age)
        })
    }

    /// Keeps `usage`; nothing is kept where there was no answer.
    fn note(&self, id: &ContainerId, usage: Option<LayerUsage>) {
        self.with(|last| match usage {
            None => drop(last.remove(id)),
            Some(usage) => {
                let made = Instant::now();
                last.insert(id.clone(), Counted { made, usage });
            }
        });
    }

    /// Forgets what `now` does not list any more.
    pub(super) fn forget_others(&self, now: &Snapshot) {
        self.with(|last| last.retain(|id, _| now.container(id).is_some()));
    }

    fn with<R>(&self, act: impl FnOnce(&mut HashMap<ContainerId, Counted>) -> R) -> R {
        act(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Stats {
    /// Sees to it that no count of these layers is older than `age`.
    pub(super) async fn count_layers<'a>(
        &self,
        views: impl IntoIterator<Item = &'a Arc<ContainerView>>,
        age: Duration,
    ) {
        let counted = |view: &&Arc<ContainerView>| self.project_of(view).is_some();
        let mut stale: Vec<_> = views.into_iter().filter(counted).cloned().collect();
        if stale.is_empty() {
            return;
        }
        let asking = Arc::clone(&self.layers.asking).lock_owned().await;
        stale.retain(|view| self.layers.is_stale(&view.id, age));
        if stale.is_empty() {
            return;
        }
        let stats = self.clone();
        let ask = sys::off_thread("ask what writable layers take", move || {
            // A caller that hangs up must not let the next one ask at the same time.
            let _asking = asking;
            for view in stale {
                stats.layers.note(&view.id, stats.counted_blocking(&view));
            }
            Ok(())
        });
        if let Err(error) = ask.await {
            tracing::warn!(%error, "what writable layers take could not be asked for");
        }
    }

    /// What the layer of a container takes by the last count or measurement; makes no call.
    pub(super) fn layer_of(&self, view: &ContainerView) -> Option<LayerUsage> {
        let counted = self.project_of(view).and_then(|_| self.layers.of(&view.id));
        counted.or_else(|| self.measured(view))
    }

    /// The same by a count of this moment.
    pub(super) fn layer_now_blocking(&self, view: &ContainerView) -> Option<LayerUsage> {
        self.counted_blocking(view).or_else(|| self.measured(view))
    }

    fn measured(&self, view: &ContainerView) -> Option<LayerUsage> {
        let measured = self
            .images
            .measured(&view.snapshotter, view.snapshot_key())?;
        Some(LayerUsage {
            at: measured.at,
            mountpoint: measured.mountpoint,
            bytes: measured.usage.bytes,
            inodes: measured.usage.inodes,
        })
    }

    /// The project of a layer whose count may be told.
    pub(super) fn project_of<'a>(&self, view: &'a ContainerView) -> Option<&'a LayerProject> {
        let project = view.project.as_ref()?;
        let is_asked = self.deps.settings().stats.project_quotas;
        let is_believed = || {
            let key = view.snapshot_key();
            !self.images.is_count_doubted(&view.snapshotter, key)
        };
        (is_asked && is_believed()).then_some(project)
    }

    fn counted_blocking(&self, view: &ContainerView) -> Option<LayerUsage> {
        let project = self.project_of(view)?;
        let used = used_blocking(&project.dir, project.id);
        let used = used
            .inspect_err(|error| tracing::debug!(container.id = %view.id, %error, "a layer's count cannot be had"))
            .ok()?;
        Some(LayerUsage {
            at: self.deps.clock.now(),
            mountpoint: self.images.root_of(&view.snapshotter),
            bytes: used.bytes,
            inodes: used.inodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::Timestamp;

    #[test]
    fn a_count_is_kept_until_the_next_or_until_its_container_goes() {
        let layers = Layers::default();
        let id: ContainerId = "c".repeat(64).parse().unwrap();
        let usage = |bytes| LayerUsage {
            at: Timestamp(1),
            mountpoint: PathBuf::from("/"),
            bytes,
            inodes: 2,
        };

        assert!(layers.is_stale(&id, Duration::from_secs(60)));
        layers.note(&id, Some(usage(8192)));
        assert!(!layers.is_stale(&id, Duration::from_secs(60)));
        assert!(layers.is_stale(&id, Duration::ZERO));
        assert_eq!(layers.of(&id), Some(usage(8192)));

        layers.note(&id, None);
        assert_eq!(layers.of(&id), None);
        layers.note(&id, Some(usage(1)));
        layers.forget_others(&Snapshot::default());
        assert_eq!(layers.of(&id), None);
    }
}
