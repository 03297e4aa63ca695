//! containerd's Snapshots service.

use std::sync::Arc;

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient as Stub;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Info, Kind as WireKind, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
    ViewSnapshotRequest,
};
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::channel::{MESSAGE_LIMIT, Step, Wire, present, unsigned};
use super::traced::Traced;
use super::{convert, limits};
use crate::containerd::{
    RootfsMount, SnapshotInfo, SnapshotKind, SnapshotRequest, Snapshots, Usage,
};
use crate::model::{Error, Result};

/// The service over the wire.
pub(super) struct RemoteSnapshots(pub(super) Arc<Wire>);

impl RemoteSnapshots {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }
}

impl Snapshots for RemoteSnapshots {
    fn prepare<'a>(
        &'a self,
        request: &'a SnapshotRequest,
    ) -> BoxFuture<'a, Result<Vec<RootfsMount>>> {
        Box::pin(async move {
            let message = PrepareSnapshotRequest {
                snapshotter: request.snapshotter.clone(),
                key: request.key.clone(),
                parent: request.parent.clone(),
                labels: convert::wire_labels(&request.labels),
            };
            let message = self.0.leased(message, request.lease.as_ref())?;
            let mut stub = self.stub();
            let step = Step("prepare snapshot", &request.key);
            let reply = self
                .0
                .call(step, limits::SNAPSHOT, stub.prepare(message))
                .await?;
            Ok(convert::mounts(reply.mounts))
        })
    }

    fn view<'a>(&'a self, request: &'a SnapshotRequest) -> BoxFuture<'a, Result<Vec<RootfsMount>>> {
        Box::pin(async move {
            let message = ViewSnapshotRequest {
                snapshotter: request.snapshotter.clone(),
                key: request.key.clone(),
                parent: request.parent.clone(),
                labels: convert::wire_labels(&request.labels),
            };
            let message = self.0.leased(message, request.lease.as_ref())?;
            let mut stub = self.stub();
            let step = Step("view snapshot", &request.key);
            let reply = self
                .0
                .call(step, limits::SNAPSHOT, stub.view(message))
                .await?;
            Ok(convert::mounts(reply.mounts))
        })
    }

    fn mounts<'a>(
        &'a self,
        snapshotter: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Vec<RootfsMount>>> {
        Box::pin(async move {
            let request = self.0.request(MountsRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            });
            let mut stub = self.stub();
            let step = Step("get mounts of snapshot", key);
            let reply = self
                .0
                .call(step, limits::METADATA, stub.mounts(request))
                .await?;
            Ok(convert::mounts(reply.mounts))
        })
    }

    fn commit<'a>(
        &'a self,
        name: &'a str,
        request: &'a SnapshotRequest,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let message = CommitSnapshotRequest {
                snapshotter: request.snapshotter.clone(),
                name: name.to_owned(),
                key: request.key.clone(),
                labels: convert::wire_labels(&request.labels),
            };
            let message = self.0.leased(message, request.lease.as_ref())?;
            let mut stub = self.stub();
            let step = Step("commit snapshot", name);
            self.0
                .call(step, limits::SNAPSHOT, stub.commit(message))
                .await
        })
    }

    fn remove<'a>(&'a self, snapshotter: &'a str, key: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let request = self.0.request(RemoveSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            });
            let mut stub = self.stub();
            let step = Step("remove snapshot", key);
            self.0
                .call(step, limits::SNAPSHOT, stub.remove(request))
                .await
        })
    }

    fn stat<'a>(
        &'a self,
        snapshotter: &'a str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<SnapshotInfo>> {
        Box::pin(async move {
            let request = self.0.request(StatSnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            });
            let mut stub = self.stub();
            let step = Step("stat snapshot", key);
            let reply = self
                .0
                .call(step, limits::METADATA, stub.stat(request))
                .await?;
            snapshot_info(present(reply.info, step)?)
        })
    }

    fn usage<'a>(&'a self, snapshotter: &'a str, key: &'a str) -> BoxFuture<'a, Result<Usage>> {
        Box::pin(async move {
            let request = self.0.request(UsageRequest {
                snapshotter: snapshotter.to_owned(),
                key: key.to_owned(),
            });
            let mut stub = self.stub();
            let step = Step("measure snapshot", key);
            let reply = self
                .0
                .call(step, limits::SNAPSHOT, stub.usage(request))
                .await?;
            Ok(Usage {
                bytes: unsigned(reply.size, step)?,
                inodes: unsigned(reply.inodes, step)?,
            })
        })
    }

    fn list<'a>(&'a self, snapshotter: &'a str) -> BoxFuture<'a, Result<Vec<SnapshotInfo>>> {
        Box::pin(async move {
            let step = Step("list snapshots of", snapshotter);
            let request = self.0.request(ListSnapshotsRequest {
                snapshotter: snapshotter.to_owned(),
                filters: Vec::new(),
            });
            let mut stub = self.stub();
            let mut stream = self.0.call(step, limits::LIST, stub.list(request)).await?;
            let mut all = Vec::new();
            loop {
                let batch = timeout(limits::METADATA, stream.message())
                    .await
                    .map_err(|_elapsed| self.0.late(step, limits::METADATA))?
                    .map_err(|status| self.0.failure(step, &status))?;
                let Some(batch) = batch else { return Ok(all) };
                for info in batch.info {
                    all.push(snapshot_info(info)?);
                }
            }
        })
    }
}

fn snapshot_info(info: Info) -> Result<SnapshotInfo> {
    let kind = match info.kind() {
        WireKind::Active => SnapshotKind::Active,
        WireKind::View => SnapshotKind::View,
        WireKind::Committed => SnapshotKind::Committed,
        WireKind::Unknown => {
            return Err(Error::internal(format!(
                "snapshot {}: containerd does not say what kind it is",
                info.name
            )));
        }
    };
    Ok(SnapshotInfo {
        name: info.name,
        parent: info.parent,
        kind,
        labels: convert::labels(info.labels),
    })
}
