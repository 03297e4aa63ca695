//! Unpacking an image that is here, for a snapshotter that has no snapshots of it: another handler's, or one whose
//! snapshots were removed behind our back. Nothing is fetched.

use futures::future::BoxFuture;

use super::unpack::BringLayer;
use super::view::ImageView;
use super::{Images, Inner};
use crate::containerd::{Content, LeaseId, Leases};
use crate::model::{Context, Descriptor, Error, Result};

impl Images {
    /// Unpacks `image` into `snapshotter`, as far as its snapshots are not there.
    ///
    /// # Errors
    /// `FailedPrecondition` where a blob that is needed is gone; those of containerd; `Aborted` where a layer is not
    /// what the configuration says.
    pub async fn ensure_unpacked(&self, image: &ImageView, snapshotter: &str) -> Result<()> {
        let inner = &self.inner;
        let lease = inner.lease(&image.target.digest).await?;
        let here = inner.here(lease.id());
        let plugins = inner.plugins().await;
        let unpack = inner.unpack(lease.id(), snapshotter, &plugins);
        unpack
            .run(&image.id, &image.layers, &here, 1)
            .await
            .context(|| format!("unpack image {} for {snapshotter}", image.id))?;
        lease.release().await;
        Ok(())
    }
}

impl Inner {
    /// Layers that are in the content store, put under a lease.
    pub(super) fn here<'a>(&'a self, lease: &'a LeaseId) -> Here<'a> {
        Here {
            content: &*self.containerd.content,
            leases: &*self.containerd.leases,
            lease,
        }
    }
}

/// Layers that must be in the content store already.
pub(super) struct Here<'a> {
    content: &'a dyn Content,
    leases: &'a dyn Leases,
    lease: &'a LeaseId,
}

impl BringLayer for Here<'_> {
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.content.info(&layer.digest).await {
                // To have seen a blob does not keep it: the lease must name it.
                Ok(_there) => {
                    let digest = layer.digest.as_str();
                    self.leases
                        .add_resource(self.lease, "content", digest)
                        .await
                }
                Err(error) if error.is_not_found() => Err(Error::precondition(format!(
                    "layer {}: its blob is not on this node any more; pull the image again",
                    layer.digest
                ))),
                Err(error) => Err(error),
            }
        })
    }
}
