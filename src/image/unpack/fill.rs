//! Filling the snapshot of one layer, in this process or by containerd's diff service, within limits.
//!
//! What is unpacked here ends with the byte that is one too many. The diff service knows no limit: what its work takes on
//! disk is looked at every few seconds, and the work is called off then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Unpack;
use super::prepared::Prepared;
use crate::config::Unpacker;
use crate::image::apply::{Most, Plan};
use crate::image::facts::Layer;
use crate::model::{Context, Digest, Error, Kind, Result};

const DOCKER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
const OCI_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// How often the work of the diff service is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Unpack<'_> {
    /// Fills the snapshot, in this process if it can. Answers the one that was filled; `None` where another client made
    /// the layer meanwhile.
    pub(super) async fn apply(
        &self,
        layer: &Layer,
        prepared: Prepared,
    ) -> Result<Option<Prepared>> {
        let has_parent = !prepared.request.parent.is_empty();
        let server = self.containerd.introspection.server_pid();
        let content = self.content.as_deref();
        let plan = Plan::of(&layer.blob, &prepared.mounts, has_parent, content, server);
        let Some(plan) = plan.filter(|_| self.unpacker == Unpacker::Auto) else {
            self.apply_by_containerd(layer, &prepared).await?;
            return Ok(Some(prepared));
        };
        let hold = Arc::clone(&prepared.in_use).lock_owned().await;
        match plan.run(hold, self.most()).await {
            Ok(unpacked) => {
                self.count(unpacked.bytes);
                check_diff_id(layer, &unpacked.diff_id).map(|()| Some(prepared))
            }
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
                    self.apply_by_containerd(layer, again).await?;
                }
                Ok(again)
            }
            Err(error) => Err(error.context(format!("unpack layer {}", layer.blob.digest))),
        }
    }

    async fn apply_by_containerd(&self, layer: &Layer, prepared: &Prepared) -> Result<()> {
        let mut blob = layer.blob.clone();
        if blob.media_type == DOCKER_ZSTD {
            // containerd before 2.0 knows only the OCI name; the bytes are the same.
            blob.media_type = OCI_ZSTD.to_owned();
        }
        let applying = async {
            let found = self.containerd.diff.apply(&blob, &prepared.mounts).await?;
            check_diff_id(layer, &found)?;
            self.look(prepared).await
        };
        let applied = tokio::select! {
            applied = applying => applied,
            too_much = self.watch(prepared) => Err(too_much),
        };
        let bytes = applied.context(|| format!("unpack layer {}", layer.blob.digest))?;
        self.count(bytes);
        Ok(())
    }

    /// Ends where the snapshot has become larger than it may.
    async fn watch(&self, prepared: &Prepared) -> Error {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(too_much) = self.look(prepared).await {
                return too_much;
            }
        }
    }

    /// What the snapshot takes on disk; 0 where nobody knows, and where there is no limit.
    ///
    /// # Errors
    /// It is more than it may be.
    async fn look(&self, prepared: &Prepared) -> Result<u64> {
        let Some(most) = self.most() else {
            return Ok(0);
        };
        let request = &prepared.request;
        let snapshots = &self.containerd.snapshots;
        match snapshots.usage(&request.snapshotter, &request.key).await {
            Ok(usage) if usage.bytes > most.bytes => Err(most.exceeded()),
            Ok(usage) => Ok(usage.bytes),
            Err(error) => {
                tracing::debug!(%error, "what a layer takes is not known");
                Ok(0)
            }
        }
    }

    /// What the next layer may unpack to.
    fn most(&self) -> Option<Most> {
        let used = self.unpacked.load(Ordering::Relaxed);
        let (layer, image) = (self.limits.layer, self.limits.image);
        let rest = image.saturating_sub(used);
        match (layer, image) {
            (0, 0) => None,
            (_, 1..) if layer == 0 || rest < layer => Some(Most {
                bytes: rest,
                why: format!(
                    "with it the image unpacks to more than the {image} bytes that images.max_unpacked_image_bytes allows"
                ),
            }),
            _ => Some(Most {
                bytes: layer,
                why: format!(
                    "it unpacks to more than the {layer} bytes that images.max_unpacked_layer_bytes allows"
                ),
            }),
        }
    }

    fn count(&self, bytes: u64) {
        self.unpacked.fetch_add(bytes, Ordering::Relaxed);
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
