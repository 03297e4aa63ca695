//! How an exit is learnt: a pidfd opened between create and start, or containerd's event, or the periodic look; each
//! leads to one bounded Tasks.Get. An exit is a fact, absence is not: it needs the task's own answer, or NotFound and a
//! dead process.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::containerd::{Exit, TaskInfo, TaskState, Tasks};
use crate::model::state::SandboxEvent;
use crate::model::{Pid, SandboxId};
use crate::sys::process::{PidFd, ProcessIdentity};

use super::{Sandboxes, Site};

/// A shim reaps its child a moment after the kernel tells us of the end; how often to ask meanwhile.
const FIRST_RETRY: Duration = Duration::from_millis(4);
/// Longest pause between two questions.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// How a watched process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The task says how.
    Exited(Exit),
    /// The task is gone and so is the process: nobody knows how.
    Lost,
}

/// The watch over one task's init process.
pub struct Vigil {
    /// Whom to ask.
    pub tasks: Arc<dyn Tasks>,
    /// The container.
    pub id: String,
    /// Its init process.
    pub pid: Pid,
    /// The process itself, so that its end is told by the kernel; `None` for handlers whose pid is none of ours.
    pub pidfd: Option<PidFd>,
    /// Wakes the vigil early.
    pub nudge: Arc<Notify>,
    /// How often to look without being woken.
    pub interval: Duration,
}

impl Vigil {
    /// Waits until the process has ended, however long that takes. Dropping the future ends the watch.
    pub async fn ended(self) -> Ended {
        let stamp = ProcessIdentity::of_blocking(self.pid).ok();
        let mut pidfd = self.pidfd.as_ref();
        loop {
            let told = match pidfd {
                Some(process) => tokio::select! {
                    exited = process.exited() => exited.is_ok(),
                    () = self.nudge.notified() => false,
                    () = tokio::time::sleep(self.interval) => false,
                },
                None => {
                    tokio::select! {
                        () = self.nudge.notified() => {}
                        () = tokio::time::sleep(self.interval) => {}
                    }
                    false
                }
            };
            if told {
                pidfd = None;
            }
            if let Some(ended) = self.ask(told, stamp.as_ref()).await {
                return ended;
            }
        }
    }

    /// One look at the task; where the kernel told of the end, repeated until the shim knows of it too.
    async fn ask(&self, told: bool, stamp: Option<&ProcessIdentity>) -> Option<Ended> {
        let mut pause = FIRST_RETRY;
        loop {
            match self.tasks.get(&self.id, None).await {
                Ok(TaskInfo {
                    state: TaskState::Stopped,
                    exit: Some(exit),
                    ..
                }) => return Some(Ended::Exited(exit)),
                Err(error) if error.is_not_found() && (told || is_dead(stamp)) => {
                    return Some(Ended::Lost);
                }
                Ok(_runs) if !told => return None,
                Err(_away) if !told => return None,
                _ => {}
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.nudge.notified() => {}
            }
            pause = (pause * 2).min(LONGEST_RETRY);
        }
    }
}

/// Whether the process that the watch began with is gone. Unknown counts as alive.
fn is_dead(stamp: Option<&ProcessIdentity>) -> bool {
    stamp.is_none_or(|stamp| matches!(stamp.is_alive_blocking(), Ok(false)))
}

impl Sandboxes {
    /// Publishes the end of the pause process when it comes. The task stays until the stop deletes it.
    pub(super) fn watch_pause(&self, id: SandboxId, pid: Pid, pidfd: Option<PidFd>, site: &Site) {
        let vigil = Vigil {
            tasks: Arc::clone(&self.deps.containerd.tasks),
            id: id.to_string(),
            pid,
            pidfd,
            nudge: Arc::clone(&site.nudge),
            interval: self.deps.settings().operations.reconcile_interval,
        };
        let (index, stop) = (
            Arc::clone(&self.deps.index),
            self.deps.supervisor.stopping().clone(),
        );
        self.deps.supervisor.watch("pause vigil", async move {
            let Some(ended) = stop.run_until_cancelled(vigil.ended()).await else { return };
            tracing::info!(sandbox.id = %id, ?ended, "the pause process ended");
            let published = index.sandbox_event(&id, SandboxEvent::Exited, |view| view.pause_pid = None);
            if let Err(error) = published {
                tracing::debug!(sandbox.id = %id, %error, "the end of a pause process changed nothing");
            }
        });
    }
}
