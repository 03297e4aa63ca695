//! Rules of snapshots and blobs.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use flate2::write::GzEncoder;

use super::State;
use super::records::check_labels;
use crate::containerd::{
    ContentInfo, IngestInfo, LeaseId, RootfsMount, SnapshotInfo, SnapshotKind, SnapshotRequest,
    WriteRequest,
};
use crate::model::{Descriptor, Digest, Error, Result, Timestamp};

/// Label that names what a snapshot is to become: where that exists, the work is done already.
const TARGET: &str = "containerd.io/snapshot.ref";

/// A snapshot.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) parent: String,
    pub(super) kind: SnapshotKind,
    pub(super) labels: BTreeMap<String, String>,
    /// Digest of the layer that was applied, if any.
    applied: Option<Digest>,
}

/// A blob.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    bytes: Vec<u8>,
    pub(super) labels: BTreeMap<String, String>,
}

/// A write in progress.
#[derive(Clone, Debug)]
pub(super) struct Ingest {
    data: Vec<u8>,
    locked: bool,
    /// `None` for that of a client without one.
    pub(super) lease: Option<LeaseId>,
    updated_at: Timestamp,
}

impl State {
    pub(super) fn snapshot(&self, snapshotter: &str, key: &str) -> Result<&Snapshot> {
        self.snapshots
            .get(&(snapshotter.to_owned(), key.to_owned()))
            .ok_or_else(|| Error::not_found(format!("snapshot {key:?}")))
    }

    pub(super) fn make_snapshot(
        &mut self,
        request: &SnapshotRequest,
        kind: SnapshotKind,
    ) -> Result<Vec<RootfsMount>> {
        self.check_lease(request.lease.as_ref())?;
        check_labels(&request.labels)?;
        let SnapshotRequest {
            snapshotter,
            key,
            parent,
            ..
        } = request;
        let target = request
            .labels
            .get(TARGET)
            .filter(|name| self.snapshot(snapshotter, name).is_ok());
        let taken = target
            .cloned()
            .or_else(|| self.snapshot(snapshotter, key).is_ok().then(|| key.clone()));
        if let Some(taken) = taken {
            self.lease_snapshot(request.lease.as_ref(), snapshotter, &taken);
            return Err(Error::already_exists(format!("snapshot {taken:?}")));
        }
        if !parent.is_empty() && self.snapshot(snapshotter, parent)?.kind != SnapshotKind::Committed
        {
            return Err(Error::invalid(format!(
                "parent {parent:?} is not committed"
            )));
        }
        let snapshot = Snapshot {
            parent: parent.clone(),
            kind,
            labels: request.labels.clone(),
            applied: None,
        };
        self.snapshots
            .insert((snapshotter.clone(), key.clone()), snapshot);
        self.lease_snapshot(request.lease.as_ref(), snapshotter, key);
        self.mounts(snapshotter, key)
    }

    pub(super) fn mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<RootfsMount>> {
        if self.snapshot(snapshotter, key)?.kind == SnapshotKind::Committed {
            return Err(Error::precondition(format!(
                "snapshot {key:?} is committed and has no mounts"
            )));
        }
        let mount = match &self.rootfs {
            Some(directory) => RootfsMount {
                kind: "bind".into(),
                source: directory.display().to_string(),
                target: String::new(),
                options: vec!["rbind".into(), "rw".into()],
            },
            None => RootfsMount {
                kind: "overlay".into(),
                source: "overlay".into(),
                target: String::new(),
                options: vec![format!("upperdir=/fake/{snapshotter}/{key}")],
            },
        };
        Ok(vec![mount])
    }

    pub(super) fn commit_snapshot(&mut self, name: &str, request: &SnapshotRequest) -> Result<()> {
        self.check_lease(request.lease.as_ref())?;
        let SnapshotRequest {
            snapshotter, key, ..
        } = request;
        if self.snapshot(snapshotter, name).is_ok() {
            self.lease_snapshot(request.lease.as_ref(), snapshotter, name);
            return Err(Error::already_exists(format!("snapshot {name:?}")));
        }
        let active = self.snapshot(snapshotter, key)?.clone();
        if active.kind != SnapshotKind::Active {
            return Err(Error::precondition(format!(
                "snapshot {key:?} is not active"
            )));
        }
        self.snapshots.remove(&(snapshotter.clone(), key.clone()));
        let committed = Snapshot {
            kind: SnapshotKind::Committed,
            labels: request.labels.clone(), // those of the active snapshot are dropped
            ..active
        };
        self.snapshots
            .insert((snapshotter.clone(), name.to_owned()), committed);
        self.lease_snapshot(request.lease.as_ref(), snapshotter, name);
        Ok(())
    }

    pub(super) fn remove_snapshot(&mut self, snapshotter: &str, key: &str) -> Result<()> {
        self.snapshot(snapshotter, key)?;
        let child = self
            .snapshots
            .iter()
            .find(|((owner, _), snapshot)| owner == snapshotter && snapshot.parent == key);
        if let Some(((_, child), _)) = child {
            return Err(Error::precondition(format!(
                "snapshot {key:?} has the child {child:?}"
            )));
        }
        self.snapshots
            .remove(&(snapshotter.to_owned(), key.to_owned()));
        Ok(())
    }

    pub(super) fn stat_snapshot(&self, snapshotter: &str, key: &str) -> Result<SnapshotInfo> {
        Ok(info(key, self.snapshot(snapshotter, key)?))
    }

    pub(super) fn list_snapshots(&self, snapshotter: &str) -> Vec<SnapshotInfo> {
        self.snapshots
            .iter()
            .filter(|((owner, _), _)| owner == snapshotter)
            .map(|((_, key), snapshot)| info(key, snapshot))
            .collect()
    }

    pub(super) fn apply(&mut self, layer: &Descriptor, mounts: &[RootfsMount]) -> Result<Digest> {
        let bytes = &self.blob(&layer.digest)?.bytes;
        let diff_id = if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut tar = Vec::new();
            let mut gzip = flate2::read::MultiGzDecoder::new(bytes.as_slice());
            gzip.read_to_end(&mut tar)
                .map_err(|e| Error::internal("decompress layer").caused_by(e))?;
            Digest::sha256(&tar)
        } else {
            layer.digest.clone()
        };
        let upper = mounts
            .iter()
            .flat_map(|mount| &mount.options)
            .find_map(|option| {
                let (snapshotter, key) = option.strip_prefix("upperdir=/fake/")?.split_once('/')?;
                Some((snapshotter.to_owned(), key.to_owned()))
            });
        match upper.map(|place| self.snapshots.get_mut(&place)) {
            Some(Some(snapshot)) => snapshot.applied = Some(diff_id.clone()),
            Some(None) => return Err(Error::not_found("the snapshot that is mounted there")),
            None if self.rootfs.is_some() => {}
            None => return Err(Error::invalid("apply: want the mounts of a snapshot")),
        }
        Ok(diff_id)
    }

    /// Packs the options of the mounts in the place of what they show.
    pub(super) fn compare(&mut self, upper: &[RootfsMount], lease: &LeaseId) -> Result<Descriptor> {
        self.check_lease(Some(lease))?;
        let failed = |error| Error::internal("pack changes").caused_by(error);
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for option in upper.iter().flat_map(|mount| &mount.options) {
            gzip.write_all(option.as_bytes()).map_err(failed)?;
        }
        let packed = gzip.finish().map_err(failed)?;
        let digest = self.put_blob(&packed);
        self.lease_content(lease, &digest);
        Ok(Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            size: packed.len() as u64,
            digest,
            annotations: BTreeMap::new(),
        })
    }

    /// What was unpacked into a snapshot.
    pub(super) fn applied(&self, snapshotter: &str, key: &str) -> Option<Digest> {
        self.snapshot(snapshotter, key).ok()?.applied.clone()
    }

    fn blob(&self, digest: &Digest) -> Result<&Blob> {
        self.blobs
            .get(digest)
            .ok_or_else(|| Error::not_found(format!("content {digest}")))
    }

    pub(super) fn put_blob(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let blob = Blob {
            bytes: bytes.to_vec(),
            labels: BTreeMap::new(),
        };
        self.blobs.entry(digest.clone()).or_insert(blob);
        digest
    }

    pub(super) fn content_info(&self, digest: &Digest) -> Result<ContentInfo> {
        let blob = self.blob(digest)?;
        Ok(ContentInfo {
            digest: digest.clone(),
            size: blob.bytes.len() as u64,
            labels: blob.labels.clone(),
        })
    }

    pub(super) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let blob = self.blob(digest)?;
        if blob.bytes.len() as u64 > limit {
            return Err(Error::exhausted(format!(
                "{digest} is larger than {limit} bytes"
            )));
        }
        Ok(blob.bytes.clone())
    }

    pub(super) fn label_blob(
        &mut self,
        digest: &Digest,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        check_labels(labels)?;
        let blob = self.blobs.get_mut(digest);
        let blob = blob.ok_or_else(|| Error::not_found(format!("content {digest}")))?;
        blob.labels.extend(labels.clone());
        Ok(())
    }

    /// Opens and locks an ingest: where to go on, or `None` where the blob is there.
    pub(super) fn open_ingest(&mut self, request: &WriteRequest) -> Result<Option<u64>> {
        self.check_lease(Some(&request.lease))?;
        if self.blobs.contains_key(&request.expected) {
            self.lease_content(&request.lease, &request.expected);
            return Ok(None);
        }
        let updated_at = self.now;
        let ingest = self
            .ingests
            .entry(request.ingest.clone())
            .or_insert_with(|| Ingest {
                data: Vec::new(),
                locked: false,
                lease: Some(request.lease.clone()),
                updated_at,
            });
        if ingest.locked {
            return Err(Error::unavailable(format!("ref {} locked", request.ingest)));
        }
        ingest.locked = true;
        Ok(Some(ingest.data.len() as u64))
    }

    /// What another client wrote without a lease.
    pub(super) fn put_ingest(&mut self, name: &str, data: &[u8]) {
        let ingest = Ingest {
            data: data.to_vec(),
            locked: false,
            lease: None,
            updated_at: self.now,
        };
        self.ingests.insert(name.to_owned(), ingest);
    }

    pub(super) fn list_ingests(&self) -> Vec<IngestInfo> {
        let all = self.ingests.iter();
        all.map(|(name, ingest)| IngestInfo {
            name: name.clone(),
            bytes: ingest.data.len() as u64,
            updated_at: ingest.updated_at,
        })
        .collect()
    }

    fn ingest(&mut self, name: &str) -> Result<&mut Ingest> {
        let ingest = self.ingests.get_mut(name);
        ingest.ok_or_else(|| Error::not_found(format!("ingest {name:?}")))
    }

    pub(super) fn append(&mut self, name: &str, data: &[u8]) -> Result<u64> {
        let now = self.now;
        let ingest = self.ingest(name)?;
        ingest.data.extend_from_slice(data);
        ingest.updated_at = now;
        Ok(ingest.data.len() as u64)
    }

    pub(super) fn truncate(&mut self, name: &str) -> Result<()> {
        self.ingest(name)?.data.clear();
        Ok(())
    }

    pub(super) fn commit_ingest(
        &mut self,
        request: &WriteRequest,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        check_labels(&labels)?;
        let data = self.ingest(&request.ingest)?.data.clone();
        let ok = data.len() as u64 == request.size && Digest::sha256(&data) == request.expected;
        self.ingests.remove(&request.ingest);
        if !ok {
            return Err(Error::precondition(format!(
                "{}: size or digest differ",
                request.ingest
            )));
        }
        let digest = self.put_blob(&data);
        self.lease_content(&request.lease, &digest);
        self.label_blob(&digest, &labels)
    }

    pub(super) fn unlock(&mut self, name: &str) {
        if let Some(ingest) = self.ingests.get_mut(name) {
            ingest.locked = false;
        }
    }
}

fn info(key: &str, snapshot: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        name: key.to_owned(),
        parent: snapshot.parent.clone(),
        kind: snapshot.kind,
        labels: snapshot.labels.clone(),
    }
}
