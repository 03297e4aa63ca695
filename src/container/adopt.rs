//! Taking over what exists: recovery reads records, facts and tasks, decides, and hands each container over here.

use std::path::PathBuf;

use crate::containerd::Stdio;
use crate::index::ContainerView;
use crate::model::state::ContainerState;
use crate::model::{ContainerId, Digest, Result, SandboxId, Termination};
use crate::sys;
use crate::sys::process::PidFd;

use super::steps::{Step, StepRecord};
use super::{ContainerKey, Containers, checkpoint, image_volumes, io};

/// A container that recovery found.
#[derive(Debug)]
pub struct AdoptedContainer {
    /// What to show.
    pub view: ContainerView,
    /// Digest of the request that made it, so that a retry of that request is handed this container.
    pub fingerprint: Digest,
    /// Standard streams of its task, where it has one.
    pub stdio: Option<Stdio>,
    /// How it ended, where that is news that must be written down first.
    pub news: Option<Termination>,
}

impl Containers {
    /// Lists a container that exists. A running one has its output pump attached again before anything else, since it
    /// blocks on a full FIFO without one, and its process watched.
    ///
    /// # Errors
    /// `Internal` where its steps or its end cannot be written down.
    pub async fn adopt(&self, adopted: AdoptedContainer) -> Result<()> {
        let AdoptedContainer {
            mut view,
            fingerprint,
            stdio,
            news,
        } = adopted;
        view.project = self.found_project(view.project).await;
        let has_task = stdio.is_some();
        let steps = self.steps_of(&view, has_task);
        let is_checkpointed = steps.contains(&Step::Checkpoint);
        let record = StepRecord {
            sandbox: view.sandbox.to_string(),
            fingerprint: fingerprint.clone(),
            created_at: view.created_at,
            snapshotter: view.snapshotter.clone(),
            steps,
            complete: true,
        };
        self.records.put(view.id.as_str(), &record).await?;
        let site = self.place(&view.id);
        if is_checkpointed {
            self.end_left_checkpoint(&view.id).await;
        }
        if let Some(stdio) = stdio
            .as_ref()
            .filter(|stdio| stdio.stdout.as_ref().is_some_and(|path| path.exists()))
        {
            match self.start_pump(&view, stdio, false).await {
                Ok(pump) => drop(site.set_pump(pump)),
                Err(error) => {
                    tracing::error!(container.id = %view.id, %error, "the output could not be attached again")
                }
            }
        }
        if has_task {
            self.attend(&view.spec, &site).await;
        }
        if let Some(news) = &news {
            if let Some(pump) = site.set_pump(None) {
                pump.finish(std::time::Duration::from_secs(2)).await;
            }
            self.deps
                .facts
                .ended(&view.id, news, view.oom_killed)
                .await?;
        }
        self.note_start(&view);
        self.deps.stamps.observe(view.created_at);
        self.sandboxes.adopt_level(view.id.as_str(), &view.spec);
        let key = ContainerKey {
            sandbox: view.sandbox.clone(),
            identity: view.config.identity.clone(),
        };
        self.flights.restore(key, fingerprint, view.id.clone());
        self.restore_start(&view);
        if view.state == ContainerState::Exited {
            // No plugin of this process heard of it.
            drop(site.told_end.set(()));
        }
        let (id, state, pid) = (view.id.clone(), view.state, view.pid);
        self.deps.index.insert_container(view)?;
        match (state, pid) {
            (ContainerState::Running, Some(pid)) => {
                self.watch(id.clone(), pid, PidFd::open(pid).ok(), &site)
            }
            (ContainerState::Unknown, _) => self.watch_lost(id.clone(), &site),
            (ContainerState::Exited, _) if has_task => {
                let left = self.take_back(&id, &[Step::Io, Step::Task]).await?;
                if !left.is_empty() {
                    tracing::warn!(container.id = %id, ?left, "what an ended container leaves behind would not go yet");
                }
            }
            _ => {}
        }
        self.sweep_execs(&id).await
    }

    /// What was begun for a container, as far as it shows.
    fn steps_of(&self, view: &ContainerView, has_task: bool) -> Vec<Step> {
        let mut steps = vec![Step::Snapshot];
        if view.restored_from.is_some() {
            steps.push(Step::Restore);
        }
        if image_volumes::has_any(&view.config) {
            steps.push(Step::Images);
        }
        steps.push(Step::Record);
        let may_run = has_task || view.state == ContainerState::Unknown;
        if may_run || io::task_dir(&self.deps, &view.id).exists() {
            steps.extend([Step::Io, Step::Task]);
        }
        if checkpoint::is_left(&self.deps, &view.id) {
            steps.push(Step::Checkpoint);
        }
        steps
    }

    /// Writes down when a container began of which that is not known: the process before this one ended between its
    /// start and the note of it.
    fn note_start(&self, view: &ContainerView) {
        if let (Some(pid), Some(began)) = (view.pid, view.started_at)
            && self.deps.facts.of(&view.id).started_at.is_none()
        {
            self.deps.facts.started(&view.id, pid, began);
        }
    }

    /// Records a container of ours whose sandbox is gone as one to be taken back whole.
    ///
    /// # Errors
    /// `Internal` where that cannot be written.
    pub async fn own(
        &self,
        id: &ContainerId,
        sandbox: &SandboxId,
        snapshotter: &str,
        fingerprint: &Digest,
    ) -> Result<()> {
        let record = StepRecord {
            sandbox: sandbox.to_string(),
            fingerprint: fingerprint.clone(),
            created_at: self.deps.clock.now(),
            snapshotter: snapshotter.to_owned(),
            steps: Step::ALL.to_vec(),
            complete: false,
        };
        self.records.put(id.as_str(), &record).await
    }

    /// Removes the FIFOs of execs that ended with the last process of ours.
    async fn sweep_execs(&self, id: &ContainerId) -> Result<()> {
        let dir: PathBuf = self.deps.state_dir("containers", id.as_str()).join("exec");
        sys::off_thread("remove the FIFOs of former execs", move || {
            sys::remove_tree_blocking(&dir)
        })
        .await
    }
}
