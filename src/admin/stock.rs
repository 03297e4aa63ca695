//! What images take on disk, and what of it nobody needs.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::image::{self, DiskUsage, PruneRequest, Pruned};
use crate::model::Result;
use crate::wire::admin::{
    Amount, ImageUsage, PruneImagesRequest, PruneImagesResponse, ShowDiskUsageResponse,
};

/// Knows what is here, and gives back what nobody needs.
pub trait Stock: Send + Sync {
    /// What images take on disk.
    ///
    /// # Errors
    /// `Unavailable` before images are known.
    fn disk_usage(&self) -> Result<DiskUsage>;

    /// Gives back what nobody needs. Dropping the future leaves it at work.
    fn prune(&self, request: PruneRequest) -> BoxFuture<'_, Result<Pruned>>;
}

pub(super) fn disk_usage(usage: DiskUsage) -> ShowDiskUsageResponse {
    let images = usage.images.into_iter().map(|image| ImageUsage {
        id: image.id.to_string(),
        names: image.names,
        blobs: image.blobs,
        layers: image.layers,
        own: image.own,
        pinned: image.pinned,
    });
    ShowDiskUsageResponse {
        images: images.collect(),
        blobs: usage.blobs,
        layers: usage.layers,
        orphans: usage.orphans,
        orphan_count: u64::try_from(usage.orphan_count).unwrap_or(u64::MAX),
        writable: usage.writable,
    }
}

pub(super) fn asked(request: &PruneImagesRequest) -> PruneRequest {
    PruneRequest {
        dry_run: request.dry_run,
        unused: request.unused,
        older_than: request.older_than_s.map(Duration::from_secs),
    }
}

pub(super) fn pruned(pruned: Pruned) -> PruneImagesResponse {
    let amount = |amount: image::Amount| {
        Some(Amount {
            count: amount.count,
            bytes: amount.bytes,
        })
    };
    PruneImagesResponse {
        pulls: pruned.pulls,
        ingests: amount(pruned.ingests),
        blobs: amount(pruned.blobs),
        layers: amount(pruned.layers),
        images: pruned.images,
    }
}
