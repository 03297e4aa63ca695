//! Leases, and what containerd's garbage collector keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use crate::containerd::{LeaseId, LeaseInfo, Leased};
use crate::model::{Digest, Error, Result, Timestamp};

/// Label that keeps a snapshot or blob whoever refers to it.
const ROOT: &str = "containerd.io/gc.root";
/// Prefix of labels by which one blob keeps others.
const CONTENT_REF: &str = "containerd.io/gc.ref.content";
/// Prefix of labels by which a blob keeps a snapshot; the snapshotter follows.
const SNAPSHOT_REF: &str = "containerd.io/gc.ref.snapshot.";

/// A lease.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    labels: BTreeMap<String, String>,
    created_at: Timestamp,
    expire: Option<Timestamp>,
    content: BTreeSet<Digest>,
    snapshots: BTreeSet<(String, String)>,
}

impl State {
    pub(super) fn check_lease(&self, lease: Option<&LeaseId>) -> Result<()> {
        match lease {
            Some(id) if !self.leases.contains_key(id) => {
                Err(Error::not_found(format!("lease {:?}", id.0)))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn create_lease(
        &mut self,
        id: &LeaseId,
        expire: Option<Timestamp>,
        labels: BTreeMap<String, String>,
    ) {
        let created_at = self.now;
        self.leases.entry(id.clone()).or_insert(Lease {
            labels,
            created_at,
            expire,
            ..Lease::default()
        });
    }

    pub(super) fn delete_lease(&mut self, id: &LeaseId) {
        if self.leases.remove(id).is_some() {
            self.collect();
        }
    }

    pub(super) fn list_leases(&self, label: (&str, &str)) -> Vec<LeaseId> {
        self.leases
            .iter()
            .filter(|(_, lease)| {
                lease
                    .labels
                    .get(label.0)
                    .is_some_and(|value| value == label.1)
            })
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(super) fn all_leases(&self) -> Vec<LeaseInfo> {
        let all = self.leases.iter();
        all.map(|(id, lease)| LeaseInfo {
            id: id.clone(),
            created_at: lease.created_at,
        })
        .collect()
    }

    pub(super) fn leased(&self, id: &LeaseId) -> Result<Vec<Leased>> {
        self.check_lease(Some(id))?;
        let lease = self.leases.get(id).into_iter();
        let content = lease.clone().flat_map(|lease| &lease.content);
        let content = content.map(|digest| Leased::Content(digest.to_string()));
        let snapshots = lease.flat_map(|lease| lease.snapshots.iter().cloned());
        let snapshots = snapshots.map(|(snapshotter, key)| Leased::Snapshot(snapshotter, key));
        let ingests = self.ingests.iter();
        let ingests = ingests
            .filter(|(_, ingest)| ingest.lease.as_ref() == Some(id))
            .map(|(name, _)| Leased::Ingest(name.clone()));
        Ok(content.chain(snapshots).chain(ingests).collect())
    }

    pub(super) fn add_resource(&mut self, id: &LeaseId, kind: &str, resource: &str) -> Result<()> {
        self.check_lease(Some(id))?;
        if kind == "content" {
            self.lease_content(id, &resource.parse()?);
            return Ok(());
        }
        let snapshotter = kind
            .strip_prefix("snapshots/")
            .ok_or_else(|| Error::unimplemented(format!("lease resource type {kind:?}")))?;
        self.lease_snapshot(Some(id), snapshotter, resource);
        Ok(())
    }

    pub(super) fn lease_content(&mut self, id: &LeaseId, digest: &Digest) {
        if let Some(lease) = self.leases.get_mut(id) {
            lease.content.insert(digest.clone());
        }
    }

    pub(super) fn lease_snapshot(&mut self, id: Option<&LeaseId>, snapshotter: &str, key: &str) {
        if let Some(lease) = id.and_then(|id| self.leases.get_mut(id)) {
            lease
                .snapshots
                .insert((snapshotter.to_owned(), key.to_owned()));
        }
    }

    /// Removes expired leases, then every blob, snapshot and ingest that nothing keeps.
    pub(super) fn collect(&mut self) {
        let now = self.now;
        self.leases
            .retain(|_, lease| lease.expire.is_none_or(|expire| expire > now));
        let leases = &self.leases;
        self.ingests.retain(|_, ingest| match &ingest.lease {
            Some(lease) => leases.contains_key(lease),
            None => true,
        });
        let content = self.kept_content();
        let snapshots = self.kept_snapshots(&content);
        self.blobs.retain(|digest, _| content.contains(digest));
        self.snapshots.retain(|place, _| snapshots.contains(place));
    }

    fn kept_content(&self) -> BTreeSet<Digest> {
        let leased = self.leases.values().flat_map(|lease| lease.content.iter());
        let rooted = self
            .blobs
            .iter()
            .filter(|(_, blob)| blob.labels.contains_key(ROOT));
        let mut open: Vec<Digest> = self
            .images
            .values()
            .map(|image| &image.target.digest)
            .chain(leased)
            .chain(rooted.map(|(digest, _)| digest))
            .cloned()
            .collect();
        let mut kept = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if let Some(blob) = self.blobs.get(&digest) {
                let referred = blob
                    .labels
                    .iter()
                    .filter(|(key, _)| key.starts_with(CONTENT_REF));
                open.extend(
                    referred
                        .filter_map(|(_, value)| value.parse().ok())
                        .filter(|next| !kept.contains(next)),
                );
            }
            kept.insert(digest);
        }
        kept
    }

    fn kept_snapshots(&self, content: &BTreeSet<Digest>) -> BTreeSet<(String, String)> {
        let leased = self
            .leases
            .values()
            .flat_map(|lease| lease.snapshots.iter().cloned());
        let rooted = self
            .snapshots
            .iter()
            .filter(|(_, snapshot)| snapshot.labels.contains_key(ROOT))
            .map(|(place, _)| place.clone());
        let recorded = self
            .containers
            .values()
            .map(|record| (record.snapshotter.clone(), record.snapshot_key.clone()));
        let unpacked = self
            .blobs
            .iter()
            .filter(|(digest, _)| content.contains(digest))
            .flat_map(|(_, blob)| &blob.labels)
            .filter_map(|(key, value)| {
                Some((key.strip_prefix(SNAPSHOT_REF)?.to_owned(), value.clone()))
            });
        let mut open: Vec<_> = leased
            .chain(rooted)
            .chain(recorded)
            .chain(unpacked)
            .collect();
        let mut kept = BTreeSet::new();
        while let Some(place) = open.pop() {
            if let Some(snapshot) = self.snapshots.get(&place) {
                open.push((place.0.clone(), snapshot.parent.clone()));
                kept.insert(place);
            }
        }
        kept
    }
}
