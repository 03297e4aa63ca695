//! Which leases end and which ingests go, decided from a survey; and what will be gone then.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::lease;
use super::super::view::ImageView;
use super::STRAY;
use super::survey::{Bulk, Held, Place, Survey};
use crate::containerd::{LeaseId, Leased, SnapshotKind};

/// What is garbage.
pub(super) struct Plan {
    /// Leases of pulls that nobody works on.
    pub(super) pulls: Vec<LeaseId>,
    /// Ingests that no lease holds.
    pub(super) strays: Vec<String>,
    /// Half-made layers that no lease holds: containerd's next collection takes them.
    pub(super) orphans: Vec<Place>,
}

impl Plan {
    /// The plan for leases of ours that are older than `older_than` and that this process does not work under.
    pub(super) fn new(
        survey: &Survey,
        older_than: Duration,
        is_busy: impl Fn(&LeaseId) -> bool,
    ) -> Self {
        let is_over = |held: &&Held| {
            let lease = &held.lease;
            lease::is_ours(&lease.id)
                && survey.at.since(lease.created_at) >= older_than
                && !is_busy(&lease.id)
        };
        let is_leased = |resource: Leased| {
            let mut leases = survey.leases.iter();
            leases.any(|held| held.resources.contains(&resource))
        };
        let strays = survey.ingests.iter().filter(|ingest| {
            survey.at.since(ingest.updated_at) >= STRAY
                && !is_leased(Leased::Ingest(ingest.name.clone()))
        });
        let orphans = survey
            .snapshots
            .iter()
            .filter(|((snapshotter, key), info)| {
                info.kind == SnapshotKind::Active
                    && key.starts_with("extract-")
                    && !info.labels.contains_key("containerd.io/gc.root")
                    && !is_leased(Leased::Snapshot(snapshotter.clone(), key.clone()))
            });
        let pulls = survey.leases.iter().filter(is_over);
        Self {
            pulls: pulls.map(|held| held.lease.id.clone()).collect(),
            strays: strays.map(|ingest| ingest.name.clone()).collect(),
            orphans: orphans.map(|(place, _)| place.clone()).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pulls.is_empty() && self.strays.is_empty() && self.orphans.is_empty()
    }

    /// What containerd will not keep once this is done and `removed` are no images any more.
    pub(super) fn expected(&self, survey: &Survey, removed: &[ImageView]) -> Bulk {
        let ends = |held: &&Held| self.pulls.contains(&held.lease.id);
        let ending = survey.leases.iter().filter(ends);
        let mut free: BTreeSet<Leased> = ending
            .flat_map(|held| held.resources.iter().cloned())
            .collect();
        free.extend(self.strays.iter().cloned().map(Leased::Ingest));
        let orphans = self.orphans.iter().cloned();
        free.extend(orphans.map(|(snapshotter, key)| Leased::Snapshot(snapshotter, key)));
        let is_removed = |image: &ImageView| removed.iter().any(|one| one.id == image.id);
        for (image, blobs) in &survey.images {
            if is_removed(image) {
                free.extend(blobs.iter().cloned().map(Leased::Content));
                free.extend(layers(survey, image));
            }
        }
        for held in survey.leases.iter().filter(|held| !ends(held)) {
            free.retain(|resource| !held.resources.contains(resource));
        }
        for (image, blobs) in &survey.images {
            if !is_removed(image) {
                for resource in blobs
                    .iter()
                    .cloned()
                    .map(Leased::Content)
                    .chain(layers(survey, image))
                {
                    free.remove(&resource);
                }
            }
        }
        keep_parents(survey, &mut free);
        bulk(survey, free)
    }
}

/// The snapshots of an image's layers, wherever they are.
fn layers<'a>(survey: &'a Survey, image: &'a ImageView) -> impl Iterator<Item = Leased> + 'a {
    let is_of = |key: &str| {
        image
            .layers
            .iter()
            .any(|layer| layer.chain_id.as_str() == key)
    };
    let places = survey.snapshots.keys().filter(move |(_, key)| is_of(key));
    places.map(|(snapshotter, key)| Leased::Snapshot(snapshotter.clone(), key.clone()))
}

/// A snapshot that stays keeps those below it.
fn keep_parents(survey: &Survey, free: &mut BTreeSet<Leased>) {
    let staying: Vec<Place> = survey
        .snapshots
        .keys()
        .filter(|place| !free.contains(&Leased::Snapshot(place.0.clone(), place.1.clone())))
        .cloned()
        .collect();
    for (snapshotter, key) in staying {
        let mut at = Some(key);
        while let Some(key) = at {
            let place = (snapshotter.clone(), key);
            at = survey
                .snapshots
                .get(&place)
                .map(|info| info.parent.clone())
                .filter(|parent| !parent.is_empty());
            free.remove(&Leased::Snapshot(place.0, place.1));
        }
    }
}

fn bulk(survey: &Survey, free: BTreeSet<Leased>) -> Bulk {
    let mut out = Bulk::default();
    for resource in free {
        match resource {
            Leased::Content(digest) => {
                if let Some(size) = survey.blobs.get(&digest) {
                    out.blobs.insert(digest, *size);
                }
            }
            Leased::Ingest(name) => {
                let found = survey.ingests.iter().find(|ingest| ingest.name == name);
                if let Some(found) = found {
                    out.ingests.insert(name, found.bytes);
                }
            }
            Leased::Snapshot(snapshotter, key) => {
                let place = (snapshotter, key);
                if survey.snapshots.contains_key(&place) {
                    out.layers.insert(place, 0);
                }
            }
            Leased::Other(..) => {}
        }
    }
    out
}
