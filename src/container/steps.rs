//! The steps of making and starting a container, and how each is taken back.

use serde::{Deserialize, Serialize};

use crate::model::{ContainerId, Context, Digest, Error, Result, SandboxId, Signal, Timestamp};
use crate::ops::{Edge, StillThere, gate, unwind};
use crate::sandbox::group::remove_left;
use crate::sandbox::steps::tolerate_missing;
use crate::sys;

use super::Containers;

/// How long a task may take to end after SIGKILL when a start is taken back.
const TASK_END: std::time::Duration = std::time::Duration::from_secs(10);

/// One step, in the order in which they are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The writable snapshot, and the volumes that the image declares.
    Snapshot,
    /// What a checkpoint holds is laid out; only of containers that go on from one.
    Restore,
    /// The images that are mounted as volumes; only of containers that have some.
    Images,
    /// containerd's record.
    Record,
    /// FIFOs and the log pump.
    Io,
    /// The task: created and started.
    Task,
    /// A checkpoint that is being taken: the task may be frozen.
    Checkpoint,
}

impl Step {
    /// Every step in order.
    pub const ALL: [Self; 7] = [
        Self::Snapshot,
        Self::Restore,
        Self::Images,
        Self::Record,
        Self::Io,
        Self::Task,
        Self::Checkpoint,
    ];

    /// Its name in records, gates, operations and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Images => "images",
            Self::Record => "record",
            Self::Io => "io",
            Self::Task => "task",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// What is remembered of a container until the next reboot: the steps to take back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its sandbox.
    pub sandbox: String,
    /// Digest of the request.
    pub fingerprint: Digest,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Snapshotter of its root file system.
    pub snapshotter: String,
    /// Steps begun and not taken back.
    pub steps: Vec<Step>,
    /// The creation was finished.
    pub complete: bool,
}

impl Containers {
    /// Adds `step` to the record of `id`.
    pub(super) async fn begin(&self, id: &ContainerId, step: Step) -> Result<()> {
        let missing = || {
            Error::internal(format!(
                "container {}: its steps are not recorded",
                id.short()
            ))
        };
        let mut record = self.records.get(id.as_str()).await?.ok_or_else(missing)?;
        if !record.steps.contains(&step) {
            record.steps.push(step);
        }
        self.records.put(id.as_str(), &record).await
    }

    /// Takes back those of `which` that are recorded, newest first, and rewrites the record. Answers what would not go.
    pub(super) async fn take_back(
        &self,
        id: &ContainerId,
        which: &[Step],
    ) -> Result<Vec<StillThere<Step>>> {
        let Some(mut record) = self.records.get(id.as_str()).await? else {
            self.stuck.note(id.as_str(), []);
            return Ok(Vec::new());
        };
        let begun: Vec<Step> = record
            .steps
            .iter()
            .copied()
            .filter(|step| which.contains(step))
            .collect();
        let limit = self.deps.settings().operations.undo_deadline;
        let (snapshotter, sandbox) = (
            record.snapshotter.clone(),
            record.sandbox.parse::<SandboxId>().ok(),
        );
        let left = unwind(&begun, limit, |step| {
            self.undo(id, sandbox.clone(), snapshotter.clone(), step)
        })
        .await;
        record
            .steps
            .retain(|step| !which.contains(step) || left.iter().any(|still| still.step == *step));
        self.stuck
            .note(id.as_str(), left.iter().map(|still| still.step.name()));
        match record.steps.is_empty() {
            true => self.records.remove(id.as_str()).await?,
            false => self.records.put(id.as_str(), &record).await?,
        }
        Ok(left)
    }

    async fn undo(
        &self,
        id: &ContainerId,
        _sandbox: Option<SandboxId>,
        snapshotter: String,
        step: Step,
    ) -> Result<()> {
        gate("undo_container", step.name(), Edge::Before).await;
        let containerd = &self.deps.containerd;
        let undone = match step {
            Step::Snapshot => {
                let removed = containerd.snapshots.remove(&snapshotter, id.as_str()).await;
                tolerate_missing(removed).and(self.remove_volumes(id).await)
            }
            Step::Restore => self.end_lay_out(id).await,
            Step::Images => self.unmount_images(id, &snapshotter).await,
            Step::Record => tolerate_missing(containerd.containers.delete(id.as_str()).await),
            Step::Io => self.remove_io(id).await,
            Step::Task => self.end_task(id).await,
            Step::Checkpoint => self.end_checkpoint(id, &snapshotter).await,
        };
        gate("undo_container", step.name(), Edge::After).await;
        undone.context(|| format!("container {}: undo {}", id.short(), step.name()))
    }

    async fn remove_io(&self, id: &ContainerId) -> Result<()> {
        if let Some(site) = self.site(id) {
            drop(site.set_pump(None));
        }
        let dir = self.deps.state_dir("containers", id.as_str());
        sys::off_thread("remove the container's FIFOs", move || {
            sys::remove_tree_blocking(&dir)
        })
        .await
    }

    async fn remove_volumes(&self, id: &ContainerId) -> Result<()> {
        let dir = self.volumes_dir(id);
        sys::off_thread("remove the container's volumes", move || {
            sys::remove_tree_blocking(&dir)
        })
        .await
    }

    /// Kills what runs of the task, waits for its end and deletes it.
    async fn end_task(&self, id: &ContainerId) -> Result<()> {
        let tasks = &self.deps.containerd.tasks;
        match tasks.delete(id.as_str(), None).await {
            Ok(_exit) => return Ok(()),
            Err(error) if error.is_not_found() => {
                return remove_left(&self.deps, id.as_str()).await;
            }
            Err(_still_runs) => {}
        }
        tolerate_missing(tasks.kill(id.as_str(), None, Signal::KILL, true).await)?;
        match tokio::time::timeout(TASK_END, tasks.wait(id.as_str(), None)).await {
            Ok(Ok(_exit)) => {}
            Ok(Err(error)) if error.is_not_found() => {}
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {
                return Err(Error::timed_out("the task to end after SIGKILL", TASK_END));
            }
        }
        tolerate_missing(tasks.delete(id.as_str(), None).await.map(drop))
    }
}
