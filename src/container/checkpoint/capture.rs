//! The moment itself: the containers are frozen, CRIU writes their processes down, containerd packs what they wrote, and
//! they go on. What that leaves behind on the way is one step, [`Step::Checkpoint`], however far it came.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::containerd::{CheckpointDirs, LeaseId, SnapshotRequest, TaskState, write_blob};
use crate::index::ContainerView;
use crate::model::{ContainerId, Context as _, Descriptor, Result};
use crate::ops::{Edge, Operation, gate};
use crate::sandbox::Deps;
use crate::sandbox::steps::tolerate_missing;
use crate::sys;
use crate::sys::errno::SysContext as _;

use super::super::Containers;
use super::super::steps::Step;
use super::work_dir;

/// What the calls wait on.
const SHIM: &str = "containerd and the shim";

/// What was written down.
pub(super) struct Captured {
    pub(super) dirs: CheckpointDirs,
    /// The packed changes to the root file system.
    pub(super) changes: PathBuf,
}

/// A container about to be written down.
struct Capture<'a> {
    view: &'a ContainerView,
    dirs: CheckpointDirs,
    lease: LeaseId,
}

fn lease_of(id: &ContainerId) -> LeaseId {
    LeaseId(format!("podwright-checkpoint-{id}"))
}

/// The view of what the container began with.
fn base_of(id: &ContainerId) -> String {
    format!("{id}-checkpoint")
}

impl Containers {
    /// Freezes the containers, writes them down and thaws them. None is written down before all are frozen, and none
    /// goes on before all are written down, so that they are of one moment.
    pub(super) async fn write_down_frozen(
        &self,
        views: &[Arc<ContainerView>],
        operation: &Operation,
    ) -> Result<Vec<Captured>> {
        operation.step("prepare");
        let mut captures = Vec::new();
        for view in views {
            captures.push(self.prepare_capture(view).await?);
        }
        let containerd = &self.deps.containerd;
        operation.step("pause");
        for capture in &captures {
            let pause = containerd.tasks.pause(capture.view.id.as_str());
            operation.waiting(SHIM, pause).await?;
        }
        gate("checkpoint_container", "pause", Edge::After).await;
        operation.patiently();
        let mut changes = Vec::new();
        for capture in &captures {
            changes.push(self.dump(capture, operation).await?);
        }
        operation.step("resume");
        for capture in &captures {
            containerd.tasks.resume(capture.view.id.as_str()).await?;
        }
        gate("checkpoint_container", "resume", Edge::After).await;
        operation.step("fetch changes");
        let mut captured = Vec::new();
        for (capture, changes) in captures.into_iter().zip(changes) {
            let place = work_dir(&self.deps, &capture.view.id).join("changes");
            self.fetch(&changes, place.clone()).await?;
            captured.push(Captured {
                dirs: capture.dirs,
                changes: place,
            });
        }
        Ok(captured)
    }

    async fn prepare_capture<'a>(&self, view: &'a ContainerView) -> Result<Capture<'a>> {
        let id = &view.id;
        let dirs = make_dirs(work_dir(&self.deps, id)).await?;
        self.begin(id, Step::Checkpoint).await?;
        gate("checkpoint_container", "pause", Edge::Before).await;
        let lease = lease_of(id);
        self.make_lease(&lease).await?;
        Ok(Capture { view, dirs, lease })
    }

    /// Writes a frozen container down; answers the packed changes to its root file system.
    async fn dump(&self, capture: &Capture<'_>, operation: &Operation) -> Result<Descriptor> {
        let Capture { view, dirs, lease } = capture;
        operation.step("criu");
        let dump = self
            .deps
            .containerd
            .tasks
            .checkpoint(view.id.as_str(), dirs);
        operation.waiting("criu", dump).await?;
        gate("checkpoint_container", "criu", Edge::After).await;
        operation.step("changes");
        self.pack_changes(view, lease).await
    }

    /// Brings a blob into a file.
    async fn fetch(&self, blob: &Descriptor, path: PathBuf) -> Result<()> {
        let file = sys::off_thread("make a file for the changes of a checkpoint", move || {
            let mut open = OpenOptions::new();
            let file = open.append(true).create(true).mode(0o600).open(&path);
            file.sys(|| format!("make {}", path.display()))
        });
        let content = &*self.deps.containerd.content;
        write_blob(content, blob, file.await?).await?;
        Ok(())
    }

    async fn pack_changes(&self, view: &ContainerView, lease: &LeaseId) -> Result<Descriptor> {
        let containerd = &self.deps.containerd;
        let snapshots = &containerd.snapshots;
        let key = view.snapshot_key();
        let upper = snapshots.mounts(&view.snapshotter, key).await?;
        let base = snapshots.stat(&view.snapshotter, key).await?;
        let request = SnapshotRequest {
            snapshotter: view.snapshotter.clone(),
            key: base_of(&view.id),
            parent: base.parent,
            labels: BTreeMap::new(),
            lease: Some(lease.clone()),
        };
        let lower = snapshots.view(&request).await?;
        let packed = containerd.diff.compare(&lower, &upper, lease).await;
        packed.context(|| "pack what the container wrote".to_owned())
    }

    /// Thaws the container, whether or not it is frozen, and removes what the capture made.
    pub(in super::super) async fn end_checkpoint(
        &self,
        id: &ContainerId,
        snapshotter: &str,
    ) -> Result<()> {
        let containerd = &self.deps.containerd;
        let thawed = match containerd.tasks.get(id.as_str(), None).await {
            Ok(task) if task.state == TaskState::Paused => {
                tolerate_missing(containerd.tasks.resume(id.as_str()).await)
            }
            asked => tolerate_missing(asked.map(drop)),
        };
        let base = base_of(id);
        let removed = tolerate_missing(containerd.snapshots.remove(snapshotter, &base).await);
        let released = containerd.leases.delete(&lease_of(id), false).await;
        thawed.and(removed).and(released)?;
        // Last, since the next process knows by it that something is left.
        let dir = work_dir(&self.deps, id);
        sys::off_thread("remove the files of a checkpoint", move || {
            sys::remove_tree_blocking(&dir)
        })
        .await
    }
}

async fn make_dirs(dir: PathBuf) -> Result<CheckpointDirs> {
    sys::off_thread("make directories for a checkpoint", move || {
        let dirs = CheckpointDirs {
            images: dir.join("images"),
            work: dir.join("work"),
        };
        sys::remove_tree_blocking(&dir)?;
        for dir in [&dir, &dirs.images, &dirs.work] {
            sys::files::make_dir_blocking(dir, 0o700)?;
        }
        Ok(dirs)
    })
    .await
}

/// Whether a capture of the container left something that its step must take back.
pub(in super::super) fn is_left(deps: &Deps, id: &ContainerId) -> bool {
    work_dir(deps, id).exists()
}
