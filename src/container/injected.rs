//! What files of the node put into a finished spec: CDI devices, which the container asks for, and OCI hooks, which the
//! operator has run for containers that fit.

use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;

use crate::devices::{HookFacts, requested};
use crate::model::classes::{AskedClasses, Classes};
use crate::model::{ContainerConfig, PodConfig, Result, SandboxId};
use crate::spec;

use super::Containers;

/// How long the files, and the device nodes that they name, may take to be read.
const LIMIT: Duration = Duration::from_secs(30);

impl Containers {
    /// Adds devices, then hooks. Reads files only where devices are asked for or hooks configured, on threads of the pod's
    /// own: a file may name a path that hangs.
    pub(super) async fn inject(
        &self,
        spec: &mut Spec,
        config: &ContainerConfig,
        pod: &PodConfig,
        sandbox: &SandboxId,
    ) -> Result<()> {
        let names = requested(&config.cdi_devices, &config.annotations)?;
        self.add_devices(spec, names, sandbox).await?;
        if self.deps.device_files.has_hooks() {
            let files = Arc::clone(&self.deps.device_files);
            let facts = hook_facts(spec, config, pod);
            let work = move || Ok(files.hooks_blocking(&facts));
            let what = "read the OCI hook files".to_owned();
            let edits = self.deps.paths.run(sandbox.as_str(), what, LIMIT, work);
            spec::apply_edits(spec, &edits.await?);
        }
        Ok(())
    }

    /// Adds the CDI devices `names`.
    pub(super) async fn add_devices(
        &self,
        spec: &mut Spec,
        names: Vec<String>,
        sandbox: &SandboxId,
    ) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let files = Arc::clone(&self.deps.device_files);
        let what = format!("look up CDI devices {}", names.join(", "));
        let work = move || files.devices_blocking(&names);
        let edits = self.deps.paths.run(sandbox.as_str(), what, LIMIT, work);
        spec::apply_edits(spec, &edits.await?);
        Ok(())
    }

    /// What the classes of service mean that annotations name. Reads files only where they name one.
    pub(super) async fn classes(
        &self,
        config: &ContainerConfig,
        pod: &PodConfig,
    ) -> Result<Classes> {
        self.look_up_classes(spec::asked_classes(config, pod)).await
    }

    /// What the classes of service `asked` mean on this node.
    pub(super) async fn look_up_classes(&self, asked: AskedClasses) -> Result<Classes> {
        if asked == AskedClasses::default() {
            return Ok(Classes::default());
        }
        let files = Arc::clone(&self.deps.device_files);
        let work = move || files.classes_blocking(&asked);
        let what = "look up classes of service".to_owned();
        self.deps.paths.run("node", what, LIMIT, work).await
    }
}

/// Annotations of container and pod, the pod's winning, as CRI-O has them.
fn hook_facts(spec: &Spec, config: &ContainerConfig, pod: &PodConfig) -> HookFacts {
    let mut annotations = config.annotations.clone();
    annotations.extend(pod.annotations.clone());
    let arguments = spec
        .process()
        .as_ref()
        .and_then(|process| process.args().as_ref());
    HookFacts {
        annotations,
        command: arguments
            .and_then(|all| all.first())
            .cloned()
            .unwrap_or_default(),
        has_bind_mounts: config.mounts.iter().any(|mount| mount.image.is_none()),
    }
}
