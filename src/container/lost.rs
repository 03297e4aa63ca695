//! A container that recovery lost track of: its shim did not answer. It is UNKNOWN until the shim says more, and each
//! further answer leads out of it: the task runs after all, has ended, or is gone.

use std::sync::Arc;

use crate::containerd::{TaskInfo, TaskState};
use crate::model::state::ContainerEvent;
use crate::model::{ContainerId, Result};
use crate::sandbox::Ended;
use crate::sys::process::PidFd;

use super::{Containers, Site};

impl Containers {
    /// Asks for the task of an UNKNOWN container until an answer comes.
    pub(super) fn watch_lost(&self, id: ContainerId, site: &Arc<Site>) {
        let (this, site) = (self.clone(), Arc::clone(site));
        let stop = self.deps.supervisor.stopping().clone();
        self.deps.supervisor.watch("lost container", async move {
            stop.run_until_cancelled(this.find_again(&id, &site)).await;
        });
    }

    async fn find_again(&self, id: &ContainerId, site: &Arc<Site>) {
        while self.deps.index.snapshot().container(id).is_some() {
            tokio::select! {
                () = site.nudge.notified() => {}
                () = tokio::time::sleep(self.deps.settings().operations.reconcile_interval) => {}
            }
            let found = match self.deps.containerd.tasks.get(id.as_str(), None).await {
                Ok(TaskInfo {
                    state: TaskState::Stopped,
                    exit,
                    ..
                }) => {
                    let ended = exit.map_or(Ended::Lost, Ended::Exited);
                    self.record_end(id, site, ended).await
                }
                Ok(task) if matches!(task.state, TaskState::Running | TaskState::Paused) => {
                    self.show_found(id, site, &task).await
                }
                Err(error) if error.is_not_found() => self.record_end(id, site, Ended::Lost).await,
                Ok(_undecided) => continue,
                Err(error) => {
                    tracing::debug!(container.id = %id, %error, "the task of a lost container still does not answer");
                    continue;
                }
            };
            if let Err(error) = found {
                tracing::error!(container.id = %id, %error, "what became of a lost container could not be recorded");
            }
            return;
        }
    }

    async fn show_found(&self, id: &ContainerId, site: &Arc<Site>, task: &TaskInfo) -> Result<()> {
        let pidfd = PidFd::open(task.pid).ok();
        let Some(view) = self.deps.index.snapshot().container(id).cloned() else {
            return Ok(());
        };
        match self.start_pump(&view, &task.stdio, false).await {
            Ok(pump) => drop(site.set_pump(pump)),
            Err(error) => {
                tracing::error!(container.id = %id, %error, "the output could not be attached again")
            }
        }
        let now = self.deps.clock.now();
        self.deps
            .index
            .container_event(id, ContainerEvent::Found, |view| {
                view.pid = Some(task.pid);
                view.started_at.get_or_insert(now);
            })?;
        self.watch(id.clone(), task.pid, pidfd, site);
        Ok(())
    }
}
