//! UpdatePodSandboxResources: kubelet owns the pod's cgroup, so this is recorded and shown, nothing more.

use crate::containerd::RecordField;
use crate::model::{Context, Error, Result, SandboxId};

use super::Sandboxes;
use super::record::{PodSums, RESOURCES};

impl Sandboxes {
    /// Records new sums of a pod's resources and overhead, so that they outlive us, and shows them.
    ///
    /// # Errors
    /// `NotFound` without the sandbox; those of containerd, which holds the record: nothing has changed then.
    pub async fn update_resources(&self, text: &str, sums: PodSums) -> Result<()> {
        let missing = || Error::not_found(format!("sandbox {text:?}: not found"));
        let id = self.find(text)?.ok_or_else(missing)?;
        let site = self.site(&id).ok_or_else(missing)?;
        // Held over the writing too: of two updates the later one is to stand in both places.
        let _turn = site.record.lock().await;
        self.write_sums(&id, &sums)
            .await
            .context(|| format!("sandbox {}: record its resources", id.short()))?;
        self.deps.index.update_sandbox(&id, |view| {
            view.updated = Some((sums.resources, sums.overhead));
            Ok(())
        })
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
