//! Unpacking an image that is here, for a snapshotter that has no snapshots of it: another handler's, or one whose
//! snapshots were removed behind our back.

use futures::future::BoxFuture;

use super::Images;
use super::unpack::{BringLayer, Unpack};
use super::view::ImageView;
use crate::containerd::Content;
use crate::model::{Context, Descriptor, Result};

/// Layers must be in the content store already.
struct Here<'a>(&'a dyn Content);

impl BringLayer for Here<'_> {
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let found = self.0.info(&layer.digest).await;
            found
                .map(drop)
                .context(|| "the layer's blob is not on this node; pull the image again".to_owned())
        })
    }
}

impl Images {
    /// Unpacks `image` into `snapshotter`, as far as its snapshots are not there.
    ///
    /// # Errors
    /// `NotFound` where a blob that is needed is gone; those of containerd; `Aborted` where a layer is not what the
    /// configuration says.
    pub async fn ensure_unpacked(&self, image: &ImageView, snapshotter: &str) -> Result<()> {
        let inner = &self.inner;
        let facts = self.read_stored(&image.target).await?;
        let lease = inner
            .leases
            .take(
                &inner.containerd.leases,
                &*inner.clock,
                &image.target.digest,
            )
            .await?;
        let unpack = Unpack {
            containerd: &inner.containerd,
            locks: &inner.locks,
            supervisor: &inner.supervisor,
            clock: &*inner.clock,
            lease: lease.id(),
            snapshotter,
        };
        unpack
            .run(&facts, &Here(&*inner.containerd.content), 1)
            .await?;
        lease.release().await;
        Ok(())
    }
}
