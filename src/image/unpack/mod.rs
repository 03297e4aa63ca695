//! Layers to snapshots: bottom up, each applied as soon as its blob is there while the blobs above are still coming.
//!
//! ```text
//! Prepare(layer n) --AlreadyExists--> there: next layer, no blob needed
//!       | mounts
//! blob n arrives (n+1.. keep coming) -> unpack -> digest == diff id? -> Commit(chain id) -> label the blob
//! ```
//!
//! Layers are unpacked in this process where the snapshot is a plain directory; otherwise by containerd's diff service.

mod files;
mod fill;
mod prepared;
mod turns;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use tokio::sync::OwnedMutexGuard;

use super::Inner;
use super::artifact;
use super::facts::Layer;
use super::labels::{self, UNCOMPRESSED};
use super::lazy::Lazy;
use super::locks::Locks;
use super::progress::{LayerState, Progress};
use crate::config::Unpacker;
use crate::containerd::{Containerd, LeaseId, PluginInfo};
use crate::model::{Clock, Descriptor, Digest, Error, Kind, Result};
use crate::ops::Supervisor;
use crate::telemetry::traces::Place;
use prepared::Prepared;

/// How the layers of one image get into one snapshotter.
pub(super) struct Unpack<'a> {
    progress: Option<&'a Progress>,
    containerd: &'a Containerd,
    locks: &'a Locks,
    supervisor: &'a Supervisor,
    clock: &'a dyn Clock,
    lease: &'a LeaseId,
    snapshotter: &'a str,
    unpacker: Unpacker,
    /// Where containerd keeps its blobs, if it says so.
    content: Option<PathBuf>,
    limits: Limits,
    /// Bytes that layers have unpacked to so far.
    unpacked: AtomicU64,
    /// Set for a lazy snapshotter.
    lazy: Option<Lazy<'a>>,
}

/// Bytes that things may unpack to; 0 is no limit.
#[derive(Clone, Copy, Debug)]
struct Limits {
    layer: u64,
    /// All layers that one operation unpacks.
    image: u64,
}

/// Brings one layer's blob into the content store.
pub(super) trait BringLayer: Send + Sync {
    /// Returns once the blob is there.
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> futures::future::BoxFuture<'a, Result<()>>;
}

/// A prepared layer, and the lock that keeps peers from making it as well.
struct Claim {
    prepared: Prepared,
    turn: OwnedMutexGuard<()>,
}

impl Inner {
    /// What containerd says of its plugins: where blobs lie, and what snapshotters want. Nothing where it does not say.
    pub(super) async fn plugins(&self) -> Vec<PluginInfo> {
        let plugins = self.containerd.introspection.plugins().await;
        plugins.unwrap_or_else(|error| {
            tracing::debug!(%error, "containerd does not say what plugins it has");
            Vec::new()
        })
    }

    /// How layers get into `snapshotter`, for an operation with this lease.
    pub(super) fn unpack<'a>(
        &'a self,
        lease: &'a LeaseId,
        snapshotter: &'a str,
        plugins: &[PluginInfo],
    ) -> Unpack<'a> {
        let is_store =
            |plugin: &&PluginInfo| plugin.kind == PluginInfo::CONTENT && plugin.id == "content";
        let store = plugins.iter().find(is_store);
        let images = &self.config.load().images;
        Unpack {
            progress: None,
            containerd: &self.containerd,
            locks: &self.locks,
            supervisor: &self.supervisor,
            clock: &*self.clock,
            lease,
            snapshotter,
            unpacker: images.unpack,
            limits: Limits {
                layer: images.max_unpacked_layer_bytes,
                image: images.max_unpacked_image_bytes,
            },
            unpacked: AtomicU64::new(0),
            content: store.and_then(|store| store.exports.get("root").map(PathBuf::from)),
            lazy: None,
        }
    }
}

impl<'a> Unpack<'a> {
    /// The same for a pull: layers are noted in its `progress`; `lazy` is set for a lazy snapshotter.
    pub(super) fn of_a_pull(self, progress: &'a Progress, lazy: Option<Lazy<'a>>) -> Self {
        Self {
            progress: Some(progress),
            lazy,
            ..self
        }
    }
}

impl Unpack<'_> {
    /// Unpacks all layers of the image `id`, bottom first. `parallel` blobs are brought at once.
    ///
    /// # Errors
    /// Those of `bring` and of containerd; `Aborted` where a layer is not what the configuration says. Dropping the
    /// future stops the work; a half-made layer is removed by a task of its own.
    pub(super) async fn run(
        &self,
        id: &Digest,
        layers: &[Layer],
        bring: &dyn BringLayer,
        parallel: usize,
    ) -> Result<()> {
        let Some(top) = layers.last() else {
            return Ok(());
        };
        if artifact::is_one(layers) {
            self.files(layers, top, bring, parallel).await?;
            let label = labels::snapshot_of(self.snapshotter, &top.chain_id);
            return self.containerd.content.label(id, label).await;
        }
        for (at, layer) in layers.iter().enumerate() {
            if let Some(claim) = self.claim(layer, parent(layers, at)).await? {
                let Claim { prepared, turn } = claim;
                drop(turn);
                if self.lazy.is_some() {
                    self.one_by_one(layers, at, prepared, bring).await?;
                } else {
                    self.from(layers, at, prepared, bring, parallel).await?;
                }
                break;
            }
            self.note(layer, LayerState::Done);
        }
        let label = labels::snapshot_of(self.snapshotter, &top.chain_id);
        self.containerd.content.label(id, label).await
    }

    /// Brings and applies the layers from `start` up, whose snapshot is prepared already. No lock is held while blobs
    /// arrive: a registry that takes its time over a layer that many images share would keep them all waiting.
    async fn from(
        &self,
        layers: &[Layer],
        start: usize,
        first: Prepared,
        bring: &dyn BringLayer,
        parallel: usize,
    ) -> Result<()> {
        let missing = layers.get(start..).unwrap_or_default();
        let (jobs, arrived) = turns::jobs(missing, bring, self.progress);
        let bringing = futures::stream::iter(jobs)
            .buffer_unordered(parallel.max(1))
            .try_collect::<()>();
        let applying = async {
            let mut first = Some(first);
            for ((at, layer), arrived) in layers.iter().enumerate().skip(start).zip(arrived) {
                arrived.await.map_err(|_dropped| {
                    let digest = &layer.blob.digest;
                    Error::new(
                        Kind::Cancelled,
                        format!("layer {digest}: its download ended"),
                    )
                })?;
                let claim = match first.take() {
                    Some(prepared) => self.reclaim(layer, prepared).await?,
                    None => self.claim(layer, parent(layers, at)).await?,
                };
                if let Some(claim) = claim {
                    self.complete(layer, claim).await?;
                }
                self.note(layer, LayerState::Done);
            }
            Ok(())
        };
        futures::future::try_join(bringing, applying)
            .await
            .map(|((), ())| ())
    }

    /// As [`Self::from`], for a lazy snapshotter: it may take any layer, so a blob is fetched only once it has not.
    async fn one_by_one(
        &self,
        layers: &[Layer],
        start: usize,
        first: Prepared,
        bring: &dyn BringLayer,
    ) -> Result<()> {
        let mut first = Some(first);
        for (at, layer) in layers.iter().enumerate().skip(start) {
            let prepared = match first.take() {
                Some(prepared) => Some(prepared),
                None => {
                    let claim = self.claim(layer, parent(layers, at)).await?;
                    claim.map(|claim| claim.prepared)
                }
            };
            if let Some(prepared) = prepared {
                bring.bring(&layer.blob).await?;
                if let Some(claim) = self.reclaim(layer, prepared).await? {
                    self.complete(layer, claim).await?;
                }
            }
            self.note(layer, LayerState::Done);
        }
        Ok(())
    }

    /// The right to make the layer, or `None` where it is there.
    async fn claim(&self, layer: &Layer, parent: Option<&Digest>) -> Result<Option<Claim>> {
        let turn = self.locks.hold(self.lock_name(layer)).await;
        let prepared = self.prepare(layer, parent).await?;
        Ok(prepared.map(|prepared| Claim { prepared, turn }))
    }

    /// The right to complete what was prepared a while ago, or `None` where a peer was faster.
    async fn reclaim(&self, layer: &Layer, prepared: Prepared) -> Result<Option<Claim>> {
        let turn = self.locks.hold(self.lock_name(layer)).await;
        let snapshots = &self.containerd.snapshots;
        match snapshots
            .stat(self.snapshotter, layer.chain_id.as_str())
            .await
        {
            Ok(_committed) => Ok(None),
            Err(error) if error.is_not_found() => Ok(Some(Claim { prepared, turn })),
            Err(error) => Err(error),
        }
    }

    async fn commit(&self, layer: &Layer, mut prepared: Prepared) -> Result<()> {
        let snapshots = &self.containerd.snapshots;
        let name = layer.chain_id.as_str();
        match snapshots.commit(name, &prepared.request).await {
            Ok(()) => prepared.armed = false,
            Err(error) if error.kind() == Kind::AlreadyExists => {}
            Err(error) => {
                return Err(error.context(format!("commit layer {}", layer.blob.digest)));
            }
        }
        Ok(())
    }

    async fn complete(&self, layer: &Layer, claim: Claim) -> Result<()> {
        // The lock is held to the end.
        let Claim {
            mut prepared,
            turn: _turn,
        } = claim;
        // A snapshotter that hands out a read-only view has staged the layer itself.
        let is_staged = prepared
            .mounts
            .last()
            .is_some_and(|mount| mount.options.iter().any(|option| option == "ro"));
        if !is_staged {
            self.note(layer, LayerState::Unpacking);
            let span = Place::here().begin("unpack layer");
            span.note("digest", layer.blob.digest.as_str());
            let applied = span.place().clone().hold(self.apply(layer, prepared)).await;
            if let Err(error) = &applied {
                span.fail(&error.chain());
            }
            match applied? {
                Some(filled) => prepared = filled,
                None => return Ok(()),
            }
        }
        self.commit(layer, prepared).await?;
        if is_staged {
            return Ok(());
        }
        let label = BTreeMap::from([(UNCOMPRESSED.to_owned(), layer.diff_id.to_string())]);
        self.containerd
            .content
            .label(&layer.blob.digest, label)
            .await
    }

    fn note(&self, layer: &Layer, state: LayerState) {
        if let Some(progress) = self.progress {
            progress.meter(&layer.blob.digest).state(state);
        }
    }

    fn lock_name(&self, layer: &Layer) -> String {
        format!("{} {}", self.snapshotter, layer.chain_id)
    }
}

fn parent(layers: &[Layer], at: usize) -> Option<&Digest> {
    let below = layers.get(at.checked_sub(1)?)?;
    Some(&below.chain_id)
}
