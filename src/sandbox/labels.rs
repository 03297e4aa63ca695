//! The SELinux labels of a pod, on nodes that have them.

use crate::model::security::SelinuxOptions;
use crate::model::{PodConfig, Result, SandboxId};
use crate::spec::{SelinuxLabels, selinux};

use super::{RuntimeHandler, Sandboxes};

/// Shims of virtual machines begin so.
const VM_SHIM: &str = "io.containerd.kata";

impl Sandboxes {
    /// The labels of the pod `id`, which has its level from now on; `None` without SELinux.
    ///
    /// # Errors
    /// `InvalidArgument` on options that are none; where no level is left.
    pub(super) fn label_pod(
        &self,
        id: &SandboxId,
        config: &PodConfig,
        handler: &RuntimeHandler,
    ) -> Result<Option<SelinuxLabels>> {
        self.labels((id, config), config.security.selinux.as_ref(), handler)
    }

    /// The labels of a container in the pod `id`: the pod's, or what the container asks for, at the pod's level unless it
    /// asks for another. `None` without SELinux.
    ///
    /// # Errors
    /// `InvalidArgument` on options that are none.
    pub fn label_container(
        &self,
        pod: (&SandboxId, &PodConfig),
        container: &str,
        options: Option<&SelinuxOptions>,
        handler: &RuntimeHandler,
    ) -> Result<Option<SelinuxLabels>> {
        let options = options.or(pod.1.security.selinux.as_ref());
        let labels = self.labels(pod, options, handler)?;
        let own = options.map(|options| options.level.as_str());
        if let Some(own) = own.filter(|own| labels.is_some() && !own.is_empty()) {
            self.levels.hold(container, own);
        }
        Ok(labels)
    }

    fn labels(
        &self,
        pod: (&SandboxId, &PodConfig),
        options: Option<&SelinuxOptions>,
        handler: &RuntimeHandler,
    ) -> Result<Option<SelinuxLabels>> {
        let host = self.deps.host.load();
        let Some(contexts) = &host.selinux else {
            return Ok(None);
        };
        let level = self.level_of_pod(pod.0, pod.1)?;
        selinux::labels(contexts, options, &level, in_vm(handler)).map(Some)
    }

    /// The level that the pod has; that it asks for, or a fresh one, where it has none yet: it is new, or from before
    /// SELinux was switched on.
    fn level_of_pod(&self, id: &SandboxId, config: &PodConfig) -> Result<String> {
        if let Some(level) = self.levels.of(id.as_str()) {
            return Ok(level);
        }
        let options = config.security.selinux.as_ref();
        let asked = options.map(|options| options.level.clone());
        if let Some(asked) = asked.filter(|asked| !asked.is_empty()) {
            self.levels.hold(id.as_str(), &asked);
            return Ok(asked);
        }
        let categories = self.deps.settings().containers.selinux_categories;
        self.levels.draw(id.as_str(), categories.get())
    }

    /// Takes over the level of what a former process of ours made, from its OCI spec.
    pub fn adopt_level(&self, owner: &str, spec: &str) {
        let label = selinux::mount_label(spec);
        if let Some(level) = label.as_deref().and_then(selinux::level_of) {
            self.levels.hold(owner, level);
        }
    }

    /// Nothing of `owner` is left that its level would keep from others.
    pub fn release_level(&self, owner: &str) {
        self.levels.release(owner);
    }
}

fn in_vm(handler: &RuntimeHandler) -> bool {
    handler.settings.runtime_type.starts_with(VM_SHIM)
}
