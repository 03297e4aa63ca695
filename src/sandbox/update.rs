//! UpdatePodSandboxResources: kubelet owns the pod's cgroup, so this is remembered and shown, nothing more.

use crate::model::{Error, Resources, Result};

use super::Sandboxes;

impl Sandboxes {
    /// Remembers new sums of a pod's resources and overhead.
    ///
    /// # Errors
    /// `NotFound` without the sandbox.
    pub fn update_resources(
        &self,
        text: &str,
        resources: Option<Resources>,
        overhead: Option<Resources>,
    ) -> Result<()> {
        let id = self
            .find(text)?
            .ok_or_else(|| Error::not_found(format!("sandbox {text:?}: not found")))?;
        self.deps.index.update_sandbox(&id, |view| {
            view.updated = Some((resources, overhead));
            Ok(())
        })
    }
}
