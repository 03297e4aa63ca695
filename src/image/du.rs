//! What images take on disk: for people who wonder what removing one would give back. Answered from the last
//! measurement of snapshots; makes no call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::view::ImageView;
use super::{
    Images,
    usage::{Measure, Measured},
};
use crate::containerd::SnapshotKind;
use crate::model::{Digest, Result};

/// What one image takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// Its id.
    pub id: Digest,
    /// Tags, else digests, else nothing.
    pub names: Vec<String>,
    /// Bytes of its blobs as they came.
    pub blobs: u64,
    /// Bytes of its unpacked layers, in all snapshotters.
    pub layers: u64,
    /// Bytes of those layers that no other image has: what its removal gives back once no container uses it.
    pub own: u64,
    /// Whether garbage collection leaves it alone.
    pub pinned: bool,
}

/// What all of it takes. Shared layers count once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// The images, largest gain first.
    pub images: Vec<ImageUsage>,
    /// Bytes of different blobs.
    pub blobs: u64,
    /// Bytes of unpacked layers of images.
    pub layers: u64,
    /// Bytes of unpacked layers that belong to no image here: those that containers hold, and garbage that containerd
    /// has not collected yet.
    pub orphans: u64,
    /// How many such layers.
    pub orphan_count: usize,
    /// Bytes of the writable snapshots of containers, and of layers that are being unpacked.
    pub writable: u64,
}

impl Images {
    /// What images take on disk, as of the last measurement.
    ///
    /// # Errors
    /// `Unavailable` before the first load.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let images = self.list(None)?;
        Ok(self.with_latest(|measured| reckon(&images, measured)))
    }
}

fn reckon(images: &[Arc<ImageView>], measured: &Measured) -> DiskUsage {
    let mut layers: HashMap<&str, u64> = HashMap::new();
    let mut out = DiskUsage::default();
    for ((_snapshotter, name), Measure { kind, usage, .. }) in measured {
        if *kind == SnapshotKind::Committed {
            let bytes = layers.entry(name).or_default();
            *bytes = bytes.saturating_add(usage.bytes);
        } else {
            out.writable = out.writable.saturating_add(usage.bytes);
        }
    }
    let mut users: HashMap<&str, usize> = HashMap::new();
    for image in images {
        let chain: HashSet<&str> = chain_of(image).collect();
        for name in chain {
            *users.entry(name).or_default() += 1;
        }
    }
    out.images = images
        .iter()
        .map(|image| usage_of(image, &layers, &users))
        .collect();
    out.images
        .sort_by(|a, b| b.own.cmp(&a.own).then(a.id.cmp(&b.id)));
    out.blobs = blobs_of(images);
    for (name, bytes) in &layers {
        if users.contains_key(name) {
            out.layers = out.layers.saturating_add(*bytes);
        } else {
            out.orphans = out.orphans.saturating_add(*bytes);
            out.orphan_count = out.orphan_count.saturating_add(1);
        }
    }
    out
}

fn usage_of(
    image: &ImageView,
    layers: &HashMap<&str, u64>,
    users: &HashMap<&str, usize>,
) -> ImageUsage {
    let chain: HashSet<&str> = chain_of(image).collect();
    let bytes = |name: &&str| layers.get(name).copied().unwrap_or(0);
    let is_own = |name: &&&str| users.get(**name).copied().unwrap_or(0) == 1;
    let names = if image.repo_tags.is_empty() {
        &image.repo_digests
    } else {
        &image.repo_tags
    };
    ImageUsage {
        id: image.id.clone(),
        names: names.clone(),
        blobs: image.size,
        layers: chain.iter().map(bytes).sum(),
        own: chain.iter().filter(is_own).map(bytes).sum(),
        pinned: image.pinned,
    }
}

fn chain_of(image: &ImageView) -> impl Iterator<Item = &str> {
    image.layers.iter().map(|layer| layer.chain_id.as_str())
}

/// Bytes of all blobs, a layer that several images have counted once.
fn blobs_of(images: &[Arc<ImageView>]) -> u64 {
    let mut seen: HashSet<&Digest> = HashSet::new();
    let mut total: u64 = 0;
    for image in images {
        let layers: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
        let fresh = image
            .layers
            .iter()
            .filter(|layer| seen.insert(&layer.blob.digest))
            .map(|layer| layer.blob.size)
            .sum();
        total = total
            .saturating_add(image.size.saturating_sub(layers))
            .saturating_add(fresh);
    }
    total
}
