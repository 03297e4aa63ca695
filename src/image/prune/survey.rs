//! What is in containerd's stores, and who holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::Images;
use super::super::view::ImageView;
use super::{Amount, Pruned, count};
use crate::containerd::{Containerd, IngestInfo, LeaseInfo, Leased, SnapshotInfo, SnapshotKind};
use crate::model::{Digest, Result, Timestamp};

/// Where a snapshot is: snapshotter and key.
pub(super) type Place = (String, String);

/// A lease, and what it holds.
pub(super) struct Held {
    pub(super) lease: LeaseInfo,
    pub(super) resources: BTreeSet<Leased>,
}

impl Held {
    pub(super) fn has_ingest(&self, name: &str) -> bool {
        self.resources.contains(&Leased::Ingest(name.to_owned()))
    }
}

/// Everything at one time. Leases were read first: what came under one since then looks like nobody's, and is not.
pub(super) struct Survey {
    pub(super) at: Timestamp,
    pub(super) leases: Vec<Held>,
    pub(super) ingests: Vec<IngestInfo>,
    pub(super) snapshots: BTreeMap<Place, SnapshotInfo>,
    /// Size of each blob.
    pub(super) blobs: BTreeMap<String, u64>,
    /// Blobs that each image consists of.
    pub(super) images: Vec<(Arc<ImageView>, BTreeSet<String>)>,
    /// Names of images that containers' records refer to.
    named: BTreeSet<String>,
}

/// Every lease.
pub(super) async fn leases(containerd: &Containerd) -> Result<Vec<Held>> {
    let mut all = Vec::new();
    for lease in containerd.leases.list_all().await? {
        match containerd.leases.resources(&lease.id).await {
            Ok(resources) => all.push(Held {
                lease,
                resources: resources.into_iter().collect(),
            }),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

impl Survey {
    pub(super) async fn of(images: &Images) -> Result<Self> {
        let containerd = &images.inner.containerd;
        let at = images.inner.clock.now();
        let leases = leases(containerd).await?;
        let ingests = containerd.content.ingests().await?;
        let mut snapshots = BTreeMap::new();
        for snapshotter in images.snapshotters() {
            let listed = match containerd.snapshots.list(&snapshotter).await {
                Ok(listed) => listed,
                // One that a handler names and containerd lacks has none.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            for info in listed {
                snapshots.insert((snapshotter.clone(), info.name.clone()), info);
            }
        }
        let blobs = containerd.content.list().await?;
        let records = containerd.containers.list(None).await?;
        let views = images.list(None)?;
        let known: BTreeSet<&Digest> = views.iter().map(|view| &view.id).collect();
        images.inner.uses.keep(|id| known.contains(id));
        Ok(Self {
            at,
            leases,
            ingests,
            snapshots,
            images: views
                .iter()
                .map(|view| (Arc::clone(view), blobs_of(images, view)))
                .collect(),
            blobs: blobs
                .into_iter()
                .map(|blob| (blob.digest.to_string(), blob.size))
                .collect(),
            named: records.into_iter().map(|record| record.image).collect(),
        })
    }

    /// Whether a container, of whichever client, or an image volume is made of the image.
    pub(super) fn uses(&self, image: &ImageView) -> bool {
        let chain = image.chain_id.as_ref().map(Digest::as_str);
        let is_made_of = |info: &SnapshotInfo| {
            info.kind != SnapshotKind::Committed
                && chain.is_some_and(|chain| chain == info.parent)
                && !info.name.starts_with("extract-")
        };
        image.names.iter().any(|name| self.named.contains(name))
            || self.snapshots.values().any(is_made_of)
    }
}

/// The blobs that the image's records keep, as far as they are known.
fn blobs_of(images: &Images, view: &ImageView) -> BTreeSet<String> {
    let facts = view
        .names
        .iter()
        .filter_map(|name| images.inner.catalog.entry(name))
        .map(|entry| entry.facts);
    let mut blobs = BTreeSet::new();
    for facts in facts {
        let layers = facts.layers.iter().map(|layer| &layer.blob.digest);
        let documents = [&facts.id, &facts.manifest, &facts.target.digest];
        blobs.extend(layers.chain(documents).map(ToString::to_string));
    }
    blobs
}

/// Bytes by what they are in.
#[derive(Default)]
pub(super) struct Bulk {
    pub(super) ingests: BTreeMap<String, u64>,
    pub(super) blobs: BTreeMap<String, u64>,
    pub(super) layers: BTreeMap<Place, u64>,
}

impl Bulk {
    /// Everything but the snapshots that clients keep by a label of their own, as containers' are.
    pub(super) fn of(survey: &Survey) -> Self {
        let ingests = survey.ingests.iter();
        let layers = survey.snapshots.iter();
        Self {
            ingests: ingests
                .map(|ingest| (ingest.name.clone(), ingest.bytes))
                .collect(),
            blobs: survey.blobs.clone(),
            layers: layers
                .filter(|(_, info)| !info.labels.contains_key("containerd.io/gc.root"))
                .map(|(place, _)| (place.clone(), 0))
                .collect(),
        }
    }

    /// The same with the layers' sizes: those measured lately, else measured now.
    pub(super) async fn weighed(mut self, images: &Images) -> Result<Self> {
        for (place, bytes) in &mut self.layers {
            if let Some(known) = images.last_measured(place) {
                *bytes = known.bytes;
                continue;
            }
            let snapshots = &images.inner.containerd.snapshots;
            match snapshots.usage(&place.0, &place.1).await {
                Ok(usage) => *bytes = usage.bytes,
                Err(error) => {
                    tracing::debug!(snapshot = %place.1, %error, "it cannot be measured and counts as empty");
                }
            }
        }
        Ok(self)
    }

    /// What is not in `after`. An ingest that was completed is in it as a blob, and nothing was given back.
    pub(super) fn without(mut self, after: &Self) -> Self {
        self.ingests.retain(|name, _| {
            let digest = name.split_once('-').map_or("", |(_kind, digest)| digest);
            !after.ingests.contains_key(name) && !after.blobs.contains_key(digest)
        });
        self.blobs
            .retain(|digest, _| !after.blobs.contains_key(digest));
        self.layers
            .retain(|place, _| !after.layers.contains_key(place));
        self
    }

    pub(super) fn told(&self, pulls: u64, images: Vec<String>) -> Pruned {
        Pruned {
            pulls,
            ingests: amount(&self.ingests),
            blobs: amount(&self.blobs),
            layers: amount(&self.layers),
            images,
        }
    }
}

fn amount<K>(of: &BTreeMap<K, u64>) -> Amount {
    Amount {
        count: count(of.len()),
        bytes: of.values().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
    }
}
