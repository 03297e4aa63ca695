//! Unpacking of a present image into one more snapshotter: a pod may run under a handler that the image was not pulled
//! for.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Images;
use super::unpack::{BringLayer, Unpack};
use crate::containerd::{Content, LeaseId, Leases};
use crate::model::{Descriptor, Digest, Error, Result};

impl Images {
    /// Makes sure that the image `id` is unpacked in `snapshotter`. Nothing is fetched.
    ///
    /// # Errors
    /// `NotFound` without the image; `FailedPrecondition` where a layer's blob is gone: a pull brings it back.
    pub async fn unpack(&self, id: &Digest, snapshotter: &str) -> Result<()> {
        let absent = || Error::not_found(format!("image {id}: not on this node; pull it first"));
        let image = self.inner.catalog.snapshot().by_id(id).ok_or_else(absent)?;
        let entry = self
            .inner
            .catalog
            .entry(image.record())
            .ok_or_else(absent)?;
        let containerd = &self.inner.containerd;
        let leases: &Arc<dyn Leases> = &containerd.leases;
        let clock = &*self.inner.clock;
        let lease = self
            .inner
            .leases
            .take(leases, clock, &image.target.digest)
            .await?;
        let present = Present {
            content: &*containerd.content,
            leases: &**leases,
            lease: lease.id(),
        };
        let unpack = Unpack {
            containerd,
            locks: &self.inner.locks,
            supervisor: &self.inner.supervisor,
            clock,
            lease: lease.id(),
            snapshotter,
        };
        unpack.run(&entry.facts, &present, 1).await?;
        lease.release().await;
        Ok(())
    }
}

/// Blobs that must be there already.
struct Present<'a> {
    content: &'a dyn Content,
    leases: &'a dyn Leases,
    lease: &'a LeaseId,
}

impl BringLayer for Present<'_> {
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match self.content.info(&layer.digest).await {
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
