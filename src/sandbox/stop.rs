//! StopPodSandbox: containers in parallel, then { pause kill, wait, delete } ∥ { CNI DEL }, then the namespaces.
//!
//! The pod is marked stopping first, so that new containers are refused and creations in flight give up. Teardown frees
//! only what no live process uses: where a container would not die, the call says so and the pod keeps the rest.

use std::time::Duration;

use crate::model::state::SandboxEvent;
use crate::model::{Error, Kind, Result, SandboxId};
use crate::nri::Event;
use crate::ops::{Edge, StillThere, gate};

use super::steps::Step;
use super::{Sandboxes, Site};

/// How long creations in flight may take to give up before the teardown goes on without them.
const CREATIONS_END: Duration = Duration::from_secs(10);

impl Sandboxes {
    /// Stops the sandbox that `text` names. An unknown one counts as stopped; a stopped one has whatever is left of it
    /// tried again. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty or ambiguous id; `DeadlineExceeded` where a process would not die; what a step
    /// failed with.
    pub async fn stop(&self, text: &str) -> Result<()> {
        let Some(id) = self.find(text)? else {
            return Ok(());
        };
        let this = self.clone();
        self.deps
            .supervisor
            .detached("StopPodSandbox", async move { this.stop_whole(&id).await })
            .await
    }

    /// The sandbox that `text` names.
    pub(super) fn find(&self, text: &str) -> Result<Option<SandboxId>> {
        Ok(self
            .deps
            .index
            .snapshot()
            .find_sandbox(text)?
            .map(|pod| pod.sandbox.id.clone()))
    }

    pub(super) async fn stop_whole(&self, id: &SandboxId) -> Result<()> {
        let operation = self.deps.live.begin("StopPodSandbox", id.short());
        let Some(site) = self.site(id) else {
            return Ok(());
        };
        match self
            .deps
            .index
            .sandbox_event(id, SandboxEvent::StopAsked, |_| ())
        {
            Err(error) if error.is_not_found() => return Ok(()),
            // A removal is on its way and does all of this.
            Err(error) if error.kind() == Kind::FailedPrecondition => {}
            marked => marked?,
        }
        site.stopping.cancel();
        // Impatient although containers may have long to end: here none has, since its grace ends now, whoever gave it.
        let containers = operation.step("containers");
        gate("stop_pod_sandbox", "containers", Edge::Before).await;
        if let Some(residents) = self.residents.get() {
            let ends = containers.hold(residents.stop_all(id));
            operation
                .waiting("the ends of its containers", ends)
                .await?;
        }
        gate("stop_pod_sandbox", "containers", Edge::After).await;
        operation.step("wait for creations");
        let _exclusive = tokio::time::timeout(CREATIONS_END, site.lock.write()).await;
        let teardown = operation.step("pause and network");
        gate("stop_pod_sandbox", "teardown", Edge::Before).await;
        let left = teardown.hold(self.tear_down(id, &site)).await?;
        gate("stop_pod_sandbox", "teardown", Edge::After).await;
        let stuck: Vec<String> = left
            .iter()
            .map(|still| format!("{}: {}", still.step.name(), still.error))
            .collect();
        let ended = self
            .deps
            .index
            .sandbox_event(id, SandboxEvent::Stopped, |view| {
                view.pause_pid = None;
                view.ips.clear();
                if left.is_empty() {
                    view.netns = None;
                }
                view.stuck.clone_from(&stuck);
            });
        match ended {
            Err(error) if !matches!(error.kind(), Kind::NotFound | Kind::FailedPrecondition) => {
                return Err(error);
            }
            _ => {}
        }
        first_failure(id, left)
    }

    /// Takes back the running parts: the pause task beside the network, then what both stood on.
    async fn tear_down(&self, id: &SandboxId, site: &Site) -> Result<Vec<StillThere<Step>>> {
        let limit = self.deps.settings().operations.undo_deadline;
        let network = async {
            match tokio::time::timeout(
                limit.max(self.deps.settings().cni.del_deadline),
                self.detach(id),
            )
            .await
            {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_elapsed) => Some(Error::timed_out("CNI DEL", limit)),
            }
        };
        let pause = async {
            let left = self.take_back(id, &[Step::Task]).await;
            if matches!(&left, Ok(left) if left.is_empty()) {
                self.tell_stopped(id, site).await;
            }
            left
        };
        let (pause, network) = if self.deps.nri.hears(Event::StopPodSandbox) {
            // Plugins hear of the stop while the network is still there.
            (pause.await, network.await)
        } else {
            tokio::join!(pause, network)
        };
        let mut left = pause?;
        match network {
            // The recorded step stays, so that removal, janitor and doctor see it.
            Some(error) => left.push(StillThere {
                step: Step::Network,
                error,
            }),
            // Nothing is attached any more: this only crosses the step off.
            None => left.extend(self.take_back(id, &[Step::Network]).await?),
        }
        if left.is_empty() {
            left.extend(
                self.take_back(id, &[Step::Netns, Step::Userns, Step::Shm])
                    .await?,
            );
        }
        self.stuck
            .note(id.as_str(), left.iter().map(|still| still.step.name()));
        Ok(left)
    }
}

/// Turns what would not go into the call's error.
pub(super) fn first_failure(id: &SandboxId, left: Vec<StillThere<Step>>) -> Result<()> {
    match left.into_iter().next() {
        None => Ok(()),
        Some(still) => Err(still.error.context(format!(
            "sandbox {}: {} would not go; the call may be repeated, and the janitor retries it",
            id.short(),
            still.step.name()
        ))),
    }
}
