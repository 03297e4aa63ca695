//! The steps of making a sandbox: how each is done stands in `run.rs`, how each is taken back stands here.
//!
//! A step is recorded before it is done, so an undo tolerates that nothing happened; it is idempotent, so a crash in the
//! middle costs nothing; and what would not go stays recorded for the janitor.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Context, Digest, Error, Result, SandboxId, Signal, Timestamp};
use crate::network::{Attachment, Intent};
use crate::ops::{Edge, StillThere, gate, unwind};
use crate::sys;

use super::{Sandboxes, files, group, userns};

/// How long the pause task may take to end after SIGKILL.
const PAUSE_END: Duration = Duration::from_secs(10);

/// One step of making a sandbox, in the order in which they are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Directories, and the files that containers see as hosts, hostname and resolv.conf.
    Files,
    /// The pod's `/dev/shm`.
    Shm,
    /// The pinned user namespace, of pods that have one and a network of their own.
    Userns,
    /// The pinned network namespace.
    Netns,
    /// CNI ADD.
    Network,
    /// The writable snapshot of the pause image, where one is configured.
    Snapshot,
    /// containerd's record of the pause container.
    Record,
    /// The pause task: created and started.
    Task,
}

impl Step {
    /// Every step in order.
    pub const ALL: [Self; 8] = [
        Self::Files,
        Self::Shm,
        Self::Userns,
        Self::Netns,
        Self::Network,
        Self::Snapshot,
        Self::Record,
        Self::Task,
    ];

    /// Its name in records, gates, operations and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Shm => "shm",
            Self::Userns => "userns",
            Self::Netns => "netns",
            Self::Network => "network",
            Self::Snapshot => "snapshot",
            Self::Record => "record",
            Self::Task => "task",
        }
    }
}

/// What is remembered of a sandbox until the next reboot: the steps to take back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Name tuple of the pod, for people who read the file.
    pub name: String,
    /// Digest of the request.
    pub fingerprint: Digest,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Pinned network namespace.
    pub netns: Option<PathBuf>,
    /// Whose the pause image's snapshot is.
    #[serde(default)]
    pub snapshotter: Option<String>,
    /// Steps begun and not taken back.
    pub steps: Vec<Step>,
    /// All steps were done and the sandbox was published.
    pub complete: bool,
}

/// A network attachment, kept through reboots until CNI DEL succeeded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// The boot in which ADD ran.
    pub boot_id: String,
    /// What ADD was, or would have been, asked for.
    pub intent: Intent,
    /// What it answered; `None` while it runs, or where it failed.
    pub attachment: Option<Attachment>,
}

impl Sandboxes {
    /// Takes back those of `which` that are recorded, newest first, and rewrites the record. Answers what would not go.
    pub(super) async fn take_back(
        &self,
        id: &SandboxId,
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
        let (netns, snapshotter) = (&record.netns, record.snapshotter.as_deref());
        let undo = |step| self.undo(id, netns.clone(), snapshotter, step);
        let left = unwind(&begun, limit, undo).await;
        let stays =
            |step: &Step| !which.contains(step) || left.iter().any(|still| still.step == *step);
        record.steps.retain(stays);
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
        id: &SandboxId,
        netns: Option<PathBuf>,
        snapshotter: Option<&str>,
        step: Step,
    ) -> Result<()> {
        gate("undo_sandbox", step.name(), Edge::Before).await;
        let undone = match step {
            Step::Files => files::remove(self.deps.clone(), id.clone()).await,
            Step::Shm => files::unmount_shm(self.deps.clone(), id.clone()).await,
            Step::Userns => userns::unpin(self.deps.clone(), id.clone()).await,
            Step::Netns => match netns {
                Some(path) => {
                    sys::off_thread("remove a network namespace", move || {
                        sys::netns::remove_blocking(&path)
                    })
                    .await
                }
                None => Ok(()),
            },
            Step::Network => self.detach(id).await,
            Step::Snapshot => match snapshotter {
                Some(snapshotter) => {
                    let snapshots = &self.deps.containerd.snapshots;
                    tolerate_missing(snapshots.remove(snapshotter, id.as_str()).await)
                }
                None => Ok(()),
            },
            Step::Record => {
                tolerate_missing(self.deps.containerd.containers.delete(id.as_str()).await)
            }
            Step::Task => self.end_pause(id).await,
        };
        gate("undo_sandbox", step.name(), Edge::After).await;
        undone.context(|| format!("sandbox {}: undo {}", id.short(), step.name()))
    }

    /// CNI DEL by the recorded intent; nothing where none is recorded.
    pub(super) async fn detach(&self, id: &SandboxId) -> Result<()> {
        let Some(record) = self.attachments.get(id.as_str()).await? else {
            return Ok(());
        };
        self.deps
            .network
            .del(&record.intent, record.attachment.as_ref())
            .await?;
        self.attachments.remove(id.as_str()).await
    }

    /// Kills the pause process, waits for its end and deletes its task.
    async fn end_pause(&self, id: &SandboxId) -> Result<()> {
        let tasks = &self.deps.containerd.tasks;
        match tasks.delete(id.as_str(), None).await {
            Ok(_exit) => return Ok(()),
            Err(error) if error.is_not_found() => {
                return group::remove_left(&self.deps, id.as_str()).await;
            }
            Err(_still_runs) => {}
        }
        tolerate_missing(tasks.kill(id.as_str(), None, Signal::KILL, true).await)?;
        let ended = tokio::time::timeout(PAUSE_END, tasks.wait(id.as_str(), None)).await;
        match ended {
            Ok(Ok(_exit)) => {}
            Ok(Err(error)) if error.is_not_found() => {}
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {
                return Err(Error::timed_out(
                    "the pause process to end after SIGKILL",
                    PAUSE_END,
                ));
            }
        }
        tolerate_missing(tasks.delete(id.as_str(), None).await.map(drop))
    }
}

/// What is gone already needs no removal.
pub(crate) fn tolerate_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
