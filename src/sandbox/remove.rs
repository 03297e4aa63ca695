//! RemovePodSandbox: a whole stop, then every container, then containerd's record and the files. The name is freed last.

use crate::model::state::SandboxEvent;
use crate::model::{Kind, Result, SandboxId};
use crate::ops::{Edge, gate};

use super::steps::Step;
use super::stop::first_failure;
use super::{PodKey, Sandboxes};

impl Sandboxes {
    /// Removes the sandbox that `text` names with all its containers. An unknown one counts as removed. Runs on when the
    /// caller leaves.
    ///
    /// # Errors
    /// Those of a stop, and what a step of the removal failed with; the sandbox stays listed then.
    pub async fn remove(&self, text: &str) -> Result<()> {
        let Some(id) = self.find(text)? else {
            return Ok(());
        };
        let this = self.clone();
        self.deps
            .supervisor
            .detached(
                "RemovePodSandbox",
                async move { this.remove_whole(&id).await },
            )
            .await
    }

    /// Removes the sandbox with all its containers.
    pub(crate) async fn remove_whole(&self, id: &SandboxId) -> Result<()> {
        let operation = self.deps.live.begin("RemovePodSandbox", id.short());
        let Some(site) = self.site(id) else {
            return Ok(());
        };
        operation.step("stop").hold(self.stop_whole(id)).await?;
        let containers = operation.step("containers");
        if let Some(residents) = self.residents.get() {
            containers.hold(residents.remove_all(id)).await?;
        }
        let _exclusive = site.lock.write().await;
        match self
            .deps
            .index
            .sandbox_event(id, SandboxEvent::RemoveAsked, |_| ())
        {
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) if error.kind() == Kind::FailedPrecondition => {
                tracing::debug!(%error, "removal goes on")
            }
            marked => marked?,
        }
        let free = operation.step("record and files");
        gate("remove_pod_sandbox", "free", Edge::Before).await;
        let left = free.hold(self.take_back(id, &Step::ALL)).await?;
        gate("remove_pod_sandbox", "free", Edge::After).await;
        first_failure(id, left)?;
        let view = self.deps.index.snapshot().sandbox(id).cloned();
        if let Some(view) = &view {
            self.tell_removed(view).await;
        }
        self.deps.index.remove_sandbox(id);
        self.forget(id);
        if let Some(view) = view {
            self.flights.forget(&PodKey(view.config.identity.clone()));
        }
        Ok(())
    }
}
