//! The changes to a root file system, laid over the container's snapshot by containerd.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::containerd::{LeaseId, RootfsMount, WriteRequest, WriteStart};
use crate::model::{ContainerId, Context as _, Descriptor, Digest, Error, Result};
use crate::ops::Operation;
use crate::sys::errno::SysContext as _;
use crate::sys::off_thread;

use super::super::Containers;
use super::source::Checkpoint;
use super::{criu_config, dirs, lay, restore_dir};

/// Bytes of a layer written at once.
const PART: usize = 4 << 20;
const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Whom and over what a checkpoint is laid.
pub(in super::super) struct RestoreChanges<'a> {
    pub(in super::super) id: &'a ContainerId,
    /// Its sandbox, on whose threads the files are read.
    pub(in super::super) pod: &'a str,
    /// The snapshot.
    pub(in super::super) mounts: &'a [RootfsMount],
    pub(in super::super) operation: &'a Operation,
}

fn lease_of(id: &ContainerId) -> LeaseId {
    LeaseId(format!("podwright-restore-{id}"))
}

impl Containers {
    /// Lays out what the checkpoint holds: files for CRIU, changes over the snapshot.
    pub(in super::super) async fn lay_out(
        &self,
        checkpoint: Checkpoint,
        over: RestoreChanges<'_>,
    ) -> Result<()> {
        let RestoreChanges {
            id,
            pod,
            mounts,
            operation,
        } = over;
        let (dir, targets) = (restore_dir(&self.deps, id), dirs(&self.deps, id));
        let settings = self.deps.settings();
        let limit = settings.images.max_layer_bytes;
        let from = checkpoint.from.clone();
        let what = format!("lay out checkpoint {from}");
        let config = criu_config::path(&self.deps, id);
        let lay = move || {
            let layers = lay::lay_out_blocking(&checkpoint, &dir, &targets, limit)?;
            criu_config::write_blocking(&config, criu_config::RESTORE)?;
            Ok(layers)
        };
        operation.patiently();
        let ceiling = settings.operations.ceiling;
        let layers = self.deps.paths.run(pod, what, ceiling, lay).await;
        let layers = layers.context(|| format!("checkpoint {from}"))?;
        if layers.is_empty() {
            return Ok(());
        }
        let containerd = &self.deps.containerd;
        let lease = lease_of(id);
        self.make_lease(&lease).await?;
        for layer in layers {
            let layer = self.keep(id, &lease, layer).await?;
            let applied = containerd.diff.apply(&layer, mounts).await;
            applied.context(|| format!("checkpoint {from}: change the root file system"))?;
        }
        containerd.leases.delete(&lease, false).await
    }

    /// Takes back what [`Self::lay_out`] made in containerd; its files go with the container's directory.
    pub(in super::super) async fn end_lay_out(&self, id: &ContainerId) -> Result<()> {
        let leases = &self.deps.containerd.leases;
        leases.delete(&lease_of(id), false).await
    }

    /// Brings a layer into the content store, where containerd takes it from.
    async fn keep(&self, id: &ContainerId, lease: &LeaseId, layer: File) -> Result<Descriptor> {
        let layer = Arc::new(layer);
        let file = Arc::clone(&layer);
        let hash = move || hash_blocking(&file);
        let (expected, size) = off_thread("hash a layer", hash).await?;
        let request = WriteRequest {
            ingest: format!("podwright-restore-{id}-{expected}"),
            size,
            expected: expected.clone(),
            lease: lease.clone(),
        };
        let content = &self.deps.containerd.content;
        if let WriteStart::Open(mut writer) = content.open(&request).await? {
            if writer.offset() > 0 {
                writer.truncate().await?;
            }
            let mut at = 0;
            while at < size {
                let file = Arc::clone(&layer);
                let read = move || part_blocking(&file, at);
                let part = off_thread("read a layer", read).await?;
                if part.is_empty() {
                    return Err(Error::internal("a layer became shorter"));
                }
                at = at.saturating_add(part.len() as u64);
                writer.write(part).await?;
            }
            writer.commit(BTreeMap::new()).await?;
        }
        Ok(Descriptor {
            media_type: PLAIN_LAYER.to_owned(),
            digest: expected,
            size,
            annotations: BTreeMap::new(),
        })
    }
}

fn part_blocking(file: &File, at: u64) -> Result<Bytes> {
    let mut part = vec![0; PART];
    let read = file
        .read_at(&mut part, at)
        .sys(|| "read a layer".to_owned())?;
    part.truncate(read);
    Ok(part.into())
}

fn hash_blocking(file: &File) -> Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut at = 0;
    loop {
        let part = part_blocking(file, at)?;
        if part.is_empty() {
            break;
        }
        hash.update(&part);
        at = at.saturating_add(part.len() as u64);
    }
    Ok((Digest::from_sha256(&hash.finalize()), at))
}
