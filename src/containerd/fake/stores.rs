//! The seam's traits of snapshots, blobs and unpacking over the world.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::handle::Handle;
use crate::containerd::{
    Content, ContentInfo, ContentWriter, Diff, IngestInfo, LeaseId, RootfsMount, SnapshotInfo,
    SnapshotKind, SnapshotRequest, Snapshots, Usage, WriteRequest, WriteStart,
};
use crate::model::{Descriptor, Digest, Error, Result};

impl Snapshots for Handle {
    fn prepare<'a>(
        &'a self,
        request: &'a SnapshotRequest,
    ) -> BoxFuture<'a, Result<Vec<RootfsMount>>> {
        Box::pin(self.call("snapshots.prepare", &request.key, |state| {
            state.make_snapshot(request, SnapshotKind::Active)
        }))
    }

    fn view<'a>(&'a self, request: &'a SnapshotRequest) -> BoxFuture<'a, Result<Vec<RootfsMount>>> {
        Box::pin(self.call("snapshots.view", &request.key, |state| {
            state.make_snapshot(request, SnapshotKind::View)
        }))
    }

    fn mounts<'a>(
        &'a self,
        snapshotter: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Vec<RootfsMount>>> {
        Box::pin(self.call("snapshots.mounts", key, move |state| {
            state.mounts(snapshotter, key)
        }))
    }

    fn commit<'a>(
        &'a self,
        name: &'a str,
        request: &'a SnapshotRequest,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("snapshots.commit", name, move |state| {
            state.commit_snapshot(name, request)
        }))
    }

    fn remove<'a>(&'a self, snapshotter: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("snapshots.remove", key, move |state| {
            state.remove_snapshot(snapshotter, key)
        }))
    }

    fn stat<'a>(
        &'a self,
        snapshotter: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<SnapshotInfo>> {
        Box::pin(self.call("snapshots.stat", key, move |state| {
            state.stat_snapshot(snapshotter, key)
        }))
    }

    fn usage<'a>(&'a self, snapshotter: &'a str, key: &'a str) -> BoxFuture<'a, Result<Usage>> {
        Box::pin(self.call("snapshots.usage", key, move |state| {
            let filled = state
                .snapshot(snapshotter, key)
                .map(|_| state.applied(snapshotter, key))?;
            let bytes = if filled.is_some() { 8192 } else { 4096 };
            Ok(Usage {
                bytes,
                inodes: bytes / 4096,
            })
        }))
    }

    fn list<'a>(&'a self, snapshotter: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotInfo>>> {
        Box::pin(self.call("snapshots.list", snapshotter, move |state| {
            Ok(state.list_snapshots(snapshotter))
        }))
    }
}

impl Content for Handle {
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<ContentInfo>> {
        Box::pin(self.call("content.info", digest.as_str(), |state| {
            state.content_info(digest)
        }))
    }

    fn read<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(self.call("content.read", digest.as_str(), move |state| {
            state.read_blob(digest, limit)
        }))
    }

    fn read_part<'a>(
        &'a self,
        digest: &'a Digest,
        offset: u64,
        length: u64,
    ) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(
            self.call("content.read_part", digest.as_str(), move |state| {
                let whole = state.read_blob(digest, u64::MAX)?;
                let (from, length) = (usize::try_from(offset), usize::try_from(length));
                let part = from.ok().zip(length.ok()).and_then(|(from, length)| {
                    let to = from.checked_add(length)?;
                    whole.get(from..to).map(<[u8]>::to_vec)
                });
                part.ok_or_else(|| Error::internal(format!("{digest} ends before that")))
            }),
        )
    }

    fn open<'a>(&'a self, request: &'a WriteRequest) -> BoxFuture<'a, Result<WriteStart>> {
        Box::pin(async move {
            // The lock is the writer's from the moment it is taken: a lost reply frees it.
            let mut writer = None;
            self.call("content.open", &request.ingest, |state| {
                writer = state.open_ingest(request)?.map(|offset| Writer {
                    handle: self.clone(),
                    request: request.clone(),
                    offset,
                });
                Ok(())
            })
            .await?;
            Ok(match writer {
                Some(writer) => WriteStart::Open(Box::new(writer)),
                None => WriteStart::Present,
            })
        })
    }

    fn label<'a>(
        &'a self,
        digest: &'a Digest,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("content.label", digest.as_str(), move |state| {
            state.label_blob(digest, &labels)
        }))
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ContentInfo>>> {
        Box::pin(self.call("content.list", "", |state| {
            let all = state.blobs.keys();
            all.map(|digest| state.content_info(digest)).collect()
        }))
    }

    fn ingests(&self) -> BoxFuture<'_, Result<Vec<IngestInfo>>> {
        Box::pin(self.call("content.ingests", "", |state| Ok(state.list_ingests())))
    }

    fn abort<'a>(&'a self, ingest: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.call("content.abort", ingest, |state| {
            state.ingests.remove(ingest);
            Ok(())
        }))
    }
}

/// An open ingest; its drop unlocks it.
struct Writer {
    handle: Handle,
    request: WriteRequest,
    offset: u64,
}

impl ContentWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, data: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let name = &self.request.ingest;
            let append = self
                .handle
                .call("content.write", name, |state| state.append(name, &data));
            self.offset = append.await?;
            Ok(())
        })
    }

    fn truncate(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let name = &self.request.ingest;
            self.handle
                .call("content.truncate", name, |state| state.truncate(name))
                .await?;
            self.offset = 0;
            Ok(())
        })
    }

    fn commit(&mut self, labels: BTreeMap<String, String>) -> BoxFuture<'_, Result<()>> {
        let request = &self.request;
        Box::pin(
            self.handle
                .call("content.commit", &request.ingest, move |state| {
                    state.commit_ingest(request, labels)
                }),
        )
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.handle.world.lock().unlock(&self.request.ingest);
    }
}

impl Diff for Handle {
    fn apply<'a>(
        &'a self,
        layer: &'a Descriptor,
        mounts: &'a [RootfsMount],
    ) -> BoxFuture<'a, Result<Digest>> {
        Box::pin(self.call("diff.apply", layer.digest.as_str(), |state| {
            state.apply(layer, mounts)
        }))
    }

    fn compare<'a>(
        &'a self,
        _lower: &'a [RootfsMount],
        upper: &'a [RootfsMount],
        lease: &'a LeaseId,
    ) -> BoxFuture<'a, Result<Descriptor>> {
        Box::pin(self.call("diff.compare", &lease.0, |state| {
            state.compare(upper, lease)
        }))
    }
}
