//! UpdatePodSandboxResources: kubelet owns the pod's cgroup, so this is recorded and shown, nothing more; unless an NRI
//! plugin objects.

use crate::containerd::RecordField;
use crate::model::{Context, Error, Result, SandboxId};
use crate::nri::Event;

use super::Sandboxes;
use super::plugins::pod_facts;
use super::record::{PodSums, RESOURCES};

impl Sandboxes {
    /// Asks the plugins, and records new sums of a pod's resources and overhead, so that they outlive us, and shows them.
    /// Runs on when the caller leaves.
    ///
    /// # Errors
    /// `NotFound` without the sandbox; `FailedPrecondition` where a plugin refuses; those of containerd, which holds the
    /// record: nothing has changed then.
    pub async fn update_resources(&self, text: &str, sums: PodSums) -> Result<()> {
        let missing = || Error::not_found(format!("sandbox {text:?}: not found"));
        let id = self.find(text)?.ok_or_else(missing)?;
        let site = self.site(&id).ok_or_else(missing)?;
        let this = self.clone();
        let work = async move {
            // Held over the writing too: of two updates the later one is to stand in both places.
            let _turn = site.record.lock().await;
            this.update_whole(&id, sums).await
        };
        self.deps
            .supervisor
            .detached("UpdatePodSandboxResources", work)
            .await
    }

    async fn update_whole(&self, id: &SandboxId, sums: PodSums) -> Result<()> {
        let nri = &self.deps.nri;
        let now = || self.deps.index.snapshot().sandbox(id).cloned();
        {
            let until_published = nri.enter();
            if nri.hears(Event::UpdatePodSandbox)
                && let Some(view) = now()
            {
                let (resources, overhead) = (sums.resources.as_ref(), sums.overhead.as_ref());
                let facts = pod_facts(&view);
                nri.update_pod(&until_published, &facts, resources, overhead)
                    .await?;
            }
            self.write_sums(id, &sums)
                .await
                .context(|| format!("sandbox {}: record its resources", id.short()))?;
            self.deps.index.update_sandbox(id, |view| {
                view.updated = Some((sums.resources, sums.overhead));
                Ok(())
            })?;
        }
        if nri.hears(Event::PostUpdatePodSandbox)
            && let Some(view) = now()
        {
            let facts = pod_facts(&view);
            nri.tell(Event::PostUpdatePodSandbox, &facts, None).await;
        }
        Ok(())
    }

    async fn write_sums(&self, id: &SandboxId, sums: &PodSums) -> Result<()> {
        // The whole map is written at once, so what else stands there is read first.
        let containers = &self.deps.containerd.containers;
        let mut stored = containers.get(id.as_str()).await?;
        stored
            .extensions
            .insert(RESOURCES.to_owned(), sums.payload()?);
        containers.update(&stored, &[RecordField::Extensions]).await
    }
}
