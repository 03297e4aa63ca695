//! The end of a container: learnt by the vigil, written down, shown, and only then is the task deleted.
//!
//! Output is complete in the log before EXITED is visible, and the out-of-memory counters are read before the
//! task is deleted.

use std::sync::Arc;
use std::time::Duration;

use crate::model::state::ContainerEvent;
use crate::model::{ContainerId, Pid, Result, Termination};
use crate::ops::{Edge, gate};
use crate::sandbox::{Ended, Vigil};
use crate::sys::process::PidFd;

use super::steps::Step;
use super::{Containers, Site};

/// How long the output of an ended process may take to reach its log.
const OUTPUT_LIMIT: Duration = Duration::from_secs(2);
/// Pauses between the tries to write an end down before it is shown regardless.
const WRITE_PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// How often an end that is shown already is tried to be written down.
const WRITE_LATER: Duration = Duration::from_secs(30);

impl Containers {
    /// Watches a running task's init process to its end.
    pub(super) fn watch(&self, id: ContainerId, pid: Pid, pidfd: Option<PidFd>, site: &Arc<Site>) {
        let vigil = Vigil {
            tasks: Arc::clone(&self.deps.containerd.tasks),
            id: id.to_string(),
            pid,
            pidfd,
            nudge: Arc::clone(&site.nudge),
            interval: self.deps.settings().operations.reconcile_interval,
        };
        let (this, site, stop) = (
            self.clone(),
            Arc::clone(site),
            self.deps.supervisor.stopping().clone(),
        );
        self.deps.supervisor.watch("container vigil", async move {
            if let Some(ended) = stop.run_until_cancelled(vigil.ended()).await {
                this.deps.supervisor.clone().start("container exit", async move {
                    if let Err(error) = this.record_end(&id, &site, ended).await {
                        tracing::error!(container.id = %id, %error, "the end of a container could not be recorded");
                    }
                });
            }
        });
    }

    /// Records how a task ended, shows it, and deletes the task.
    pub(super) async fn record_end(
        &self,
        id: &ContainerId,
        site: &Site,
        ended: Ended,
    ) -> Result<()> {
        let oom_killed = match ended {
            Ended::Exited(exit) => self.was_out_of_memory(id, site, exit.code).await,
            Ended::Lost => false,
        };
        if let Some(pump) = site.set_pump(None) {
            let drained = pump.finish(OUTPUT_LIMIT).await;
            site.logged.get_or_init(|| pump.stats());
            tracing::debug!(container.id = %id, ?drained, "output drained");
        }
        let termination = match ended {
            Ended::Exited(exit) => {
                Termination::exited(i32::try_from(exit.code).unwrap_or(255), exit.at)
            }
            Ended::Lost => Termination::lost(self.deps.clock.now()),
        };
        gate("container_exit", "record", Edge::Before).await;
        let written = self.write_end(id, &termination, oom_killed).await;
        gate("container_exit", "record", Edge::After).await;
        tracing::info!(container.id = %id, code = termination.code, oom_killed, "the container ended");
        self.deps
            .index
            .container_event(id, ContainerEvent::Exited, |view| {
                view.pid = None;
                view.ended.get_or_insert_with(|| termination.clone());
                view.oom_killed |= oom_killed;
            })?;
        self.tell_ended(id, site).await;
        if !written {
            self.write_end_later(id.clone(), termination, oom_killed);
            return Ok(());
        }
        self.explain(id, site, &termination, oom_killed).await;
        // A removal may be waiting for exactly this end; whoever comes second finds nothing left to take back.
        let _transition = site.lock.lock().await;
        let left = self.take_back(id, &[Step::Io, Step::Task]).await?;
        if !left.is_empty() {
            tracing::warn!(container.id = %id, ?left, "what an ended container leaves behind would not go yet");
        }
        Ok(())
    }

    /// Adds to an end that is shown already why it came. The task, and with it the container's group, is still there.
    async fn explain(&self, id: &ContainerId, site: &Site, ended: &Termination, oom_killed: bool) {
        let Some(view) = self.deps.index.snapshot().container(id).cloned() else {
            return;
        };
        let diagnosis = self.diagnose_end(&view, site, ended, oom_killed).await;
        if diagnosis.is_empty() {
            return;
        }
        let in_message = self.deps.settings().containers.exit_diagnosis_in_message;
        let shown = self.deps.index.update_container(id, |view| {
            let Some(ended) = &mut view.ended else {
                return Ok(None);
            };
            if in_message {
                ended.message.clone_from(&diagnosis);
            }
            ended.diagnosis = diagnosis;
            Ok(Some(ended.clone()))
        });
        match shown {
            Ok(Some(ended)) => self.deps.facts.explained(id, &ended),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(container.id = %id, %error, "the end of a container that is gone was explained");
            }
        }
    }

    /// Writes an end down before it is shown. A full disk must not keep a container RUNNING, since stopping containers
    /// is how a node gets its space back: after a few tries the end is shown, and the task, which tells of it too, stays
    /// until the end is written.
    async fn write_end(&self, id: &ContainerId, ended: &Termination, oom_killed: bool) -> bool {
        for pause in WRITE_PAUSES {
            match self.deps.facts.ended(id, ended, oom_killed).await {
                Ok(()) => return true,
                Err(error) => {
                    tracing::error!(container.id = %id, %error, "the end of a container could not be written down; trying again")
                }
            }
            tokio::time::sleep(pause).await;
        }
        false
    }

    /// Goes on trying to write an end that is shown already, then deletes the task. A removal meanwhile does both.
    fn write_end_later(&self, id: ContainerId, ended: Termination, oom_killed: bool) {
        let (this, stop) = (self.clone(), self.deps.supervisor.stopping().clone());
        self.deps.supervisor.watch("write a container's end", async move {
            while let Some(site) = this.site(&id) {
                if stop.run_until_cancelled(tokio::time::sleep(WRITE_LATER)).await.is_none() {
                    return;
                }
                let _transition = site.lock.lock().await;
                if this.deps.index.snapshot().container(&id).is_none()
                    || !this.write_end(&id, &ended, oom_killed).await
                {
                    continue;
                }
                let left = this.take_back(&id, &[Step::Io, Step::Task]).await;
                tracing::info!(container.id = %id, ?left, "the end of a container is written down at last");
                return;
            }
        });
    }

    /// Notes an out-of-memory kill, whenever containerd tells of it, perhaps before or after the end.
    pub fn note_out_of_memory(&self, id: &str) {
        let Ok(id) = id.parse::<ContainerId>() else {
            return;
        };
        if self.site(&id).is_none() {
            return;
        }
        self.deps.facts.oom(&id);
        let noted = self.deps.index.update_container(&id, |view| {
            view.oom_killed = true;
            Ok(())
        });
        if let Err(error) = noted {
            tracing::debug!(container.id = %id, %error, "an out-of-memory kill of a container that is gone");
        }
    }
}
