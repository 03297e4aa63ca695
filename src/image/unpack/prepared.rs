//! Snapshots that are being filled, and what becomes of those that are not finished.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Mutex;

use super::Unpack;
use crate::containerd::{RootfsMount, SnapshotRequest, Snapshots};
use crate::image::facts::Layer;
use crate::image::labels::SNAPSHOT_REF;
use crate::model::{Digest, Error, Kind, Result};
use crate::ops::Supervisor;

const DIFF_ID: &str = "containerd.io/snapshot/diff-id";
const PARENT_CHAIN: &str = "containerd.io/snapshot/parent-chain-id";
const KEY_TRIES: usize = 3;
const UNDO_LIMIT: Duration = Duration::from_secs(10);

/// An active snapshot that goes away unless it is committed.
pub(super) struct Prepared {
    snapshots: Arc<dyn Snapshots>,
    supervisor: Supervisor,
    pub(super) request: SnapshotRequest,
    pub(super) mounts: Vec<RootfsMount>,
    /// Held while a thread of ours works in the snapshot.
    pub(super) in_use: Arc<Mutex<()>>,
    pub(super) armed: bool,
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
    /// An active snapshot for the layer, or `None` where the layer is there; either way it is under the lease.
    pub(super) async fn prepare(
        &self,
        layer: &Layer,
        parent: Option<&Digest>,
    ) -> Result<Option<Prepared>> {
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
            .filter(|_| layer.file.is_none())
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
}
