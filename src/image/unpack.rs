//! Layers to snapshots: bottom up, each applied as soon as its blob is there while the blobs above are still coming.
//!
//! ```text
//! Prepare(layer n) --AlreadyExists--> there: next layer, no blob needed
//!       | mounts
//! blob n arrives (n+1.. keep coming) -> unpack -> digest == diff id? -> Commit(chain id) -> label the blob
//! ```
//!
//! Layers are unpacked in this process where the snapshot is a plain directory; otherwise by containerd's diff service.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};

use super::apply::Plan;
use super::facts::Layer;
use super::labels::{self, SNAPSHOT_REF, UNCOMPRESSED};
use super::lazy::Lazy;
use super::locks::Locks;
use super::progress::{LayerState, Progress};
use crate::config::Unpacker;
use crate::containerd::{Containerd, LeaseId, RootfsMount, SnapshotRequest, Snapshots};
use crate::model::{Clock, Context, Descriptor, Digest, Error, Kind, Result};
use crate::ops::Supervisor;

const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const PARENT_CHAIN: &str = "containerd.io/snapshot/parent-chain-id";
const DOCKER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONTENT_PLUGIN: &str = "io.containerd.content.v1";
const KEY_TRIES: usize = 3;
const UNDO_LIMIT: Duration = Duration::from_secs(10);

/// How the layers of one image get into one snapshotter.
pub(super) struct Unpack<'a> {
    pub(super) progress: Option<&'a Progress>,
    pub(super) containerd: &'a Containerd,
    pub(super) locks: &'a Locks,
    pub(super) supervisor: &'a Supervisor,
    pub(super) clock: &'a dyn Clock,
    pub(super) lease: &'a LeaseId,
    pub(super) snapshotter: &'a str,
    pub(super) unpacker: Unpacker,
    /// Set for a lazy snapshotter.
    pub(super) lazy: Option<Lazy<'a>>,
}

/// Brings one layer's blob into the content store.
pub(super) trait BringLayer: Send + Sync {
    /// Returns once the blob is there.
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> futures::future::BoxFuture<'a, Result<()>>;
}

/// An active snapshot that goes away unless it is committed.
struct Prepared {
    snapshots: Arc<dyn Snapshots>,
    supervisor: Supervisor,
    request: SnapshotRequest,
    mounts: Vec<RootfsMount>,
    /// Held while a thread of ours works in the snapshot.
    in_use: Arc<Mutex<()>>,
    armed: bool,
}

/// A prepared layer, and the lock that keeps peers from making it as well.
struct Claim {
    prepared: Prepared,
    turn: OwnedMutexGuard<()>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let snapshots = Arc::clone(&self.snapshots);
        let (snapshotter, key) = (self.request.snapshotter.clone(), self.request.key.clone());
        let in_use = Arc::clone(&self.in_use);
        self.supervisor.start("remove half-made layer", async move {
            let removal = async {
                let _unused = in_use.lock().await;
                snapshots.remove(&snapshotter, &key).await
            };
            match tokio::time::timeout(UNDO_LIMIT, removal).await {
                Ok(Err(error)) if !error.is_not_found() => {
                    tracing::warn!(%key, %error, "a half-made layer stays until its lease ends");
                }
                Err(_elapsed) => {
                    tracing::warn!(%key, "a half-made layer stays until its lease ends");
                }
                Ok(_) => {}
            }
        });
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
        let (done, arrived): (Vec<_>, Vec<_>) =
            missing.iter().map(|_| oneshot::channel::<()>()).unzip();
        let jobs: Vec<BoxFuture<'_, Result<()>>> = missing
            .iter()
            .zip(done)
            .map(|(layer, done)| announce(bring.bring(&layer.blob), done).boxed())
            .collect();
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
            match self.apply(layer, prepared).await? {
                Some(filled) => prepared = filled,
                None => return Ok(()),
            }
        }
        let snapshots = &self.containerd.snapshots;
        match snapshots
            .commit(layer.chain_id.as_str(), &prepared.request)
            .await
        {
            Ok(()) => prepared.armed = false,
            Err(error) if error.kind() == Kind::AlreadyExists => {}
            Err(error) => {
                return Err(error.context(format!("commit layer {}", layer.blob.digest)));
            }
        }
        if is_staged {
            return Ok(());
        }
        let label = BTreeMap::from([(UNCOMPRESSED.to_owned(), layer.diff_id.to_string())]);
        self.containerd
            .content
            .label(&layer.blob.digest, label)
            .await
    }

    /// Fills the snapshot, in this process if it can. Answers the one that was filled; `None` where another client made
    /// the layer meanwhile.
    async fn apply(&self, layer: &Layer, prepared: Prepared) -> Result<Option<Prepared>> {
        let has_parent = !prepared.request.parent.is_empty();
        let introspection = &self.containerd.introspection;
        let (content, server) = (self.content_directory().await, introspection.server_pid());
        let content = content.as_deref();
        let plan = Plan::of(&layer.blob, &prepared.mounts, has_parent, content, server);
        let Some(plan) = plan.filter(|_| self.unpacker == Unpacker::Auto) else {
            self.apply_by_containerd(layer, &prepared.mounts).await?;
            return Ok(Some(prepared));
        };
        let hold = Arc::clone(&prepared.in_use).lock_owned().await;
        match plan.run(hold).await {
            Ok(found) => check_diff_id(layer, &found).map(|()| Some(prepared)),
            Err(error) if error.kind() == Kind::Unimplemented => {
                tracing::debug!(layer = %layer.blob.digest, why = %error.chain(), "containerd unpacks this layer");
                // What is half full goes; the next one begins empty.
                let parent = match prepared.request.parent.as_str() {
                    "" => None,
                    name => Some(name.parse()?),
                };
                drop(prepared);
                let again = self.prepare(layer, parent.as_ref()).await?;
                if let Some(again) = &again {
                    self.apply_by_containerd(layer, &again.mounts).await?;
                }
                Ok(again)
            }
            Err(error) => Err(error.context(format!("unpack layer {}", layer.blob.digest))),
        }
    }

    /// Where containerd keeps its blobs, if it says so.
    async fn content_directory(&self) -> Option<PathBuf> {
        let plugins = self.containerd.introspection.plugins().await;
        let plugins = plugins.unwrap_or_else(|error| {
            tracing::debug!(%error, "containerd does not say where blobs lie");
            Vec::new()
        });
        let mut store = plugins
            .into_iter()
            .find(|plugin| plugin.kind == CONTENT_PLUGIN && plugin.id == "content")?;
        store.exports.remove("root").map(PathBuf::from)
    }

    async fn apply_by_containerd(&self, layer: &Layer, mounts: &[RootfsMount]) -> Result<()> {
        let mut blob = layer.blob.clone();
        if blob.media_type == DOCKER_ZSTD {
            // containerd before 2.0 knows only the OCI name; the bytes are the same.
            blob.media_type = OCI_ZSTD.to_owned();
        }
        let found = self
            .containerd
            .diff
            .apply(&blob, mounts)
            .await
            .context(|| format!("unpack layer {}", layer.blob.digest))?;
        check_diff_id(layer, &found)
    }

    /// An active snapshot for the layer, or `None` where the layer is there; either way it is under the lease.
    async fn prepare(&self, layer: &Layer, parent: Option<&Digest>) -> Result<Option<Prepared>> {
        let snapshots = &self.containerd.snapshots;
        let mut last = None;
        for _attempt in 0..KEY_TRIES {
            let request = SnapshotRequest {
                snapshotter: self.snapshotter.to_owned(),
                key: self.key(layer)?,
                parent: parent.map(Digest::to_string).unwrap_or_default(),
                labels: self.labels(layer, parent),
                lease: Some(self.lease.clone()),
            };
            match snapshots.prepare(&request).await {
                Ok(mounts) => {
                    return Ok(Some(Prepared {
                        snapshots: Arc::clone(snapshots),
                        supervisor: self.supervisor.clone(),
                        request,
                        mounts,
                        in_use: Arc::default(),
                        armed: true,
                    }));
                }
                Err(error) if error.kind() == Kind::AlreadyExists => {
                    match snapshots
                        .stat(self.snapshotter, layer.chain_id.as_str())
                        .await
                    {
                        Ok(_there) => return Ok(None),
                        Err(missing) if missing.is_not_found() => last = Some(error),
                        Err(error) => return Err(error.context("look for a layer")),
                    }
                }
                Err(error) => {
                    return Err(error.context(format!("prepare layer {}", layer.blob.digest)));
                }
            }
        }
        let last = last.unwrap_or_else(|| Error::internal("no key was tried"));
        Err(last.context(format!("prepare layer {}", layer.blob.digest)))
    }

    fn key(&self, layer: &Layer) -> Result<String> {
        let mut random = [0_u8; 3];
        getrandom::fill(&mut random)
            .map_err(|error| Error::internal("read random bytes for a key").caused_by(error))?;
        let (_, nanos) = self.clock.now().parts();
        let random = URL_SAFE_NO_PAD.encode(random);
        Ok(format!("extract-{nanos}-{random} {}", layer.chain_id))
    }

    /// Labels of a layer's snapshot. An image's annotations have no say in them: some, such as id mappings, would be
    /// obeyed.
    fn labels(&self, layer: &Layer, parent: Option<&Digest>) -> BTreeMap<String, String> {
        let mut labels = self
            .lazy
            .as_ref()
            .map_or_else(BTreeMap::new, |lazy| lazy.labels(layer));
        labels.extend([
            (SNAPSHOT_REF.to_owned(), layer.chain_id.to_string()),
            (DIFF_ID.to_owned(), layer.diff_id.to_string()),
        ]);
        if let Some(parent) = parent {
            labels.insert(PARENT_CHAIN.to_owned(), parent.to_string());
        }
        labels
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

fn check_diff_id(layer: &Layer, found: &Digest) -> Result<()> {
    if *found == layer.diff_id {
        return Ok(());
    }
    Err(Error::new(
        Kind::Aborted,
        format!(
            "layer {}: it unpacks to {found} but the image says {}",
            layer.blob.digest, layer.diff_id
        ),
    ))
}

async fn announce(work: BoxFuture<'_, Result<()>>, done: oneshot::Sender<()>) -> Result<()> {
    work.await?;
    // Nobody waits where the layer turned out to be there.
    done.send(()).ok();
    Ok(())
}

fn parent(layers: &[Layer], at: usize) -> Option<&Digest> {
    let below = layers.get(at.checked_sub(1)?)?;
    Some(&below.chain_id)
}
