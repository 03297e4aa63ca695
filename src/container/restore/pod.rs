//! RestorePod: a sandbox of its own, and in it a container for each archive of a pod's checkpoint, created and not yet
//! run (CRI 1.37). Either all of it comes to be or nothing stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::{
    ContainerConfig, ContainerId, Context as _, Digest, Error, PodConfig, Result, SandboxId,
};
use crate::sandbox::{PodKey, RunRequest};
use crate::sys::errno::SysContext as _;

use super::super::checkpoint::{ARCHIVE, Criu, POD_DOCUMENT, read_pod_document_blocking};
use super::super::{Containers, CreateRequest};

/// Members of the directory that are looked at.
const MAX_FILES: usize = 10_000;

/// A RestorePod request.
#[derive(Clone, Debug)]
pub struct RestorePodRequest {
    /// Directory of the checkpoint.
    pub path: String,
    /// The sandbox to make.
    pub run: RunRequest,
    /// The containers to make: configuration and the same as record text.
    pub containers: Vec<(Arc<ContainerConfig>, Arc<str>)>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredPod {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The containers by name, in the request's order.
    pub containers: Vec<(String, ContainerId)>,
}

impl RestorePodRequest {
    fn fingerprint(&self) -> Digest {
        let mut text = format!("{}\n{}\n{}", self.path, self.run.handler, self.run.record);
        for (_, record) in &self.containers {
            text.push('\n');
            text.push_str(record);
        }
        Digest::sha256(text.as_bytes())
    }

    fn names(&self) -> Result<BTreeSet<&str>> {
        let mut names = BTreeSet::new();
        for (config, _) in &self.containers {
            if !names.insert(config.identity.name.as_str()) {
                return Err(Error::invalid(format!(
                    "container_configs: {:?} stands there twice",
                    config.identity.name
                )));
            }
        }
        Ok(names)
    }
}

impl Containers {
    /// Makes a pod of its checkpoint. Runs on when the caller leaves; an equal request joins it, or is handed the pod
    /// that nobody was told of.
    ///
    /// # Errors
    /// `Unimplemented` where restoring is off or CRIU does not work; `InvalidArgument` unless the containers are just
    /// those of the checkpoint; `AlreadyExists` where the pod's attempt exists; what a step failed with, and then
    /// nothing of the pod stays.
    pub async fn restore_pod(&self, request: RestorePodRequest) -> Result<RestoredPod> {
        let is_enabled = self.deps.settings().containers.enable_restore;
        let criu = Criu::look_if(is_enabled).await;
        self.restore_pod_by(criu.as_ref(), request).await
    }

    /// As [`Self::restore_pod`], with what was found of CRIU, where it was looked for.
    pub(crate) async fn restore_pod_by(
        &self,
        criu: Option<&Criu>,
        request: RestorePodRequest,
    ) -> Result<RestoredPod> {
        Criu::ensure(criu, "RestorePod", "containers.enable_restore")?;
        let names = request.names()?.into_iter().map(str::to_owned).collect();
        let dir = PathBuf::from(&request.path);
        let what = format!("look at checkpoint {}", request.path);
        let identity = request.run.config.identity.clone();
        let look = move || ensure_has_blocking(&dir, &names);
        let ceiling = self.deps.settings().operations.ceiling;
        // Before the pod exists its files are nobody's; the path's own threads hang with it.
        let paths = &self.deps.paths;
        let checked = paths.run(&identity.uid, what, ceiling, look).await;
        checked.context(|| format!("checkpoint {}", request.path))?;
        let key = PodKey(identity);
        self.forget_gone(&key);
        let fingerprint = request.fingerprint();
        let (this, whole) = (self.clone(), request.clone());
        let make = move || async move { this.make_pod(whole).await };
        let sandbox = self
            .restores
            .join(&self.deps.supervisor, "RestorePod", key, fingerprint, make)
            .await?;
        self.restored(&sandbox, &request)
    }

    /// A pod that was restored and is gone may be restored again.
    fn forget_gone(&self, key: &PodKey) {
        let landed = self.restores.landing(key);
        let now = self.deps.index.snapshot();
        if landed.is_some_and(|landed| now.sandbox(&landed.value).is_none()) {
            self.restores.forget(key);
        }
    }

    async fn make_pod(self, request: RestorePodRequest) -> Result<SandboxId> {
        let key = PodKey(request.run.config.identity.clone());
        if let Some(there) = self.sandboxes.made(&key) {
            return Err(Error::already_exists(format!(
                "{key} exists already as {there}; a checkpoint becomes a pod of its own"
            )));
        }
        let pod = Arc::clone(&request.run.config);
        let run = RunRequest {
            is_part: true,
            ..request.run
        };
        let sandbox = self.sandboxes.run(run).await?;
        let operation = self.deps.live.begin_for(
            sandbox.as_str(),
            "RestorePod",
            format!("{} {}", pod.identity.name, sandbox.short()),
        );
        let fill = self.fill(&sandbox, pod, &request.path, request.containers);
        let filled = operation.waiting("its containers", fill).await;
        let Err(failed) = filled else {
            return Ok(sandbox);
        };
        operation.failed(&failed.chain());
        operation.step("unwind");
        match self.sandboxes.remove(sandbox.as_str()).await {
            Ok(()) => Err(failed),
            Err(left) => Err(failed.context(format!(
                "sandbox {} could not be removed again ({}); remove it",
                sandbox.short(),
                left.chain()
            ))),
        }
    }

    /// Makes the containers; with the last of them the pod is whole.
    async fn fill(
        &self,
        sandbox: &SandboxId,
        pod: Arc<PodConfig>,
        dir: &str,
        containers: Vec<(Arc<ContainerConfig>, Arc<str>)>,
    ) -> Result<()> {
        for (config, record) in containers {
            let name = config.identity.name.clone();
            let create = CreateRequest {
                sandbox: sandbox.to_string(),
                config,
                record,
                pod: Arc::clone(&pod),
                archive: Some(archive_of(Path::new(dir), &name)),
            };
            let made = self.create(create).await;
            made.context(|| format!("container {name}"))?;
        }
        self.sandboxes.conclude(sandbox).await
    }

    /// The containers of a restored pod, as they are listed.
    fn restored(&self, sandbox: &SandboxId, request: &RestorePodRequest) -> Result<RestoredPod> {
        let now = self.deps.index.snapshot();
        let pod = now.pod(sandbox).ok_or_else(|| {
            Error::not_found(format!("sandbox {}: removed meanwhile", sandbox.short()))
        })?;
        let ids: BTreeMap<&str, &ContainerId> = pod
            .containers
            .values()
            .map(|view| (view.config.identity.name.as_str(), &view.id))
            .collect();
        let one = |(config, _): &(Arc<ContainerConfig>, Arc<str>)| {
            let name = &config.identity.name;
            let gone = || Error::not_found(format!("container {name}: removed meanwhile"));
            let id = *ids.get(name.as_str()).ok_or_else(gone)?;
            Ok((name.clone(), id.clone()))
        };
        Ok(RestoredPod {
            sandbox: sandbox.clone(),
            containers: request.containers.iter().map(one).collect::<Result<_>>()?,
        })
    }
}

/// The archive of a container in the directory of a pod's checkpoint.
pub(in super::super) fn archive_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{ARCHIVE}"))
}

/// Whether the directory is a pod's checkpoint of just these containers.
fn ensure_has_blocking(dir: &Path, names: &BTreeSet<String>) -> Result<()> {
    if !dir.is_absolute() {
        return Err(Error::invalid("want an absolute path"));
    }
    read_pod_document_blocking(&dir.join(POD_DOCUMENT))?;
    let what = || format!("read {}", dir.display());
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).sys(what)?.take(MAX_FILES) {
        let name = entry.sys(what)?.file_name();
        let name = name.to_str().and_then(|name| name.strip_suffix(ARCHIVE));
        found.extend(name.map(str::to_owned));
    }
    match found == *names {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "it is of containers {found:?}, and the request of {names:?}"
        ))),
    }
}
