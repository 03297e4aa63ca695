//! The SELinux labels of a pod, on nodes that have them.

use oci_spec::runtime::Spec;

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
        let host = self.deps.host.load();
        let Some(contexts) = &host.selinux else {
            return Ok(None);
        };
        let options = config.security.selinux.as_ref();
        let level = match options.map(|options| options.level.as_str()) {
            None | Some("") => {
                let categories = self.deps.settings().containers.selinux_categories;
                self.levels.draw(id.as_str(), categories.get())?
            }
            Some(asked) => asked.to_owned(),
        };
        let labels = selinux::labels(contexts, options, &level, in_vm(handler))?;
        self.levels.hold(id.as_str(), &level);
        Ok(Some(labels))
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
        let host = self.deps.host.load();
        let Some(contexts) = &host.selinux else {
            return Ok(None);
        };
        let (id, config) = pod;
        // A pod from before SELinux was switched on has none.
        if self.levels.of(id.as_str()).is_none() {
            self.label_pod(id, config, handler)?;
        }
        let level = self.levels.of(id.as_str()).unwrap_or_default();
        let options = options.or(config.security.selinux.as_ref());
        let labels = selinux::labels(contexts, options, &level, in_vm(handler))?;
        if let Some(own) = options
            .map(|options| options.level.as_str())
            .filter(|own| !own.is_empty())
        {
            self.levels.hold(container, own);
        }
        Ok(Some(labels))
    }

    /// Takes over the level of what a former process of ours made, from its OCI spec.
    pub fn adopt_level(&self, owner: &str, spec: &str) {
        if !spec.contains("\"mountLabel\"") {
            return;
        }
        let spec = serde_json::from_str::<Spec>(spec).ok();
        let label = spec.as_ref().and_then(selinux::mount_label);
        if let Some(level) = label.and_then(selinux::level_of) {
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
