//! CheckpointPod: containers of one pod, written down as of one moment into a directory of the caller's (CRI 1.37).
//!
//! ```text
//! <output>/<container>.tar   one archive a container, as CheckpointContainer makes it
//! <output>/pod.json          last: with it the checkpoint is whole
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::index::ContainerView;
use crate::model::{Classify as _, ContainerId, Context as _, Error, Kind, Result, SandboxId};
use crate::ops::Operation;
use crate::sys;
use crate::sys::errno::SysContext as _;
use crate::sys::new_file::{NewFile, Place};

use super::super::restore::archive_of;
use super::super::{Containers, Site};
use super::{Criu, LOOK_LIMIT};

/// How the names of archives end.
pub(in super::super) const ARCHIVE: &str = ".tar";
/// What tells that a directory is a pod's checkpoint.
pub(in super::super) const POD_DOCUMENT: &str = "pod.json";
const VERSION: u32 = 1;
/// The largest such document.
const MAX_DOCUMENT: u64 = 8 << 20;

/// A CheckpointPod request.
#[derive(Clone, Debug)]
pub struct PodCheckpointRequest {
    /// Sandbox as the caller names it.
    pub sandbox: String,
    /// An empty directory that is root's alone.
    pub output: String,
    /// The containers, whole ids, and the status of each as it is shown.
    pub containers: Vec<(ContainerId, String)>,
    /// How long it may take.
    pub timeout: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// For people: nothing of it is read again.
    #[serde(default)]
    pod: String,
    #[serde(default)]
    containers: Vec<String>,
}

/// One container of the pod: what is shown, what exists beside it, where its archive goes.
struct Subject {
    view: Arc<ContainerView>,
    site: Arc<Site>,
    place: Place,
    status: String,
}

impl Containers {
    /// Writes containers of one pod down, all of one moment. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `Unimplemented` without CRIU or where `containers.enable_criu` is off; `NotFound`; `FailedPrecondition` unless all
    /// run; `InvalidArgument` for other containers than the pod's, for one named twice and for the directory;
    /// `AlreadyExists` unless that is empty; `ResourceExhausted` on a full disk; `DeadlineExceeded`; `Cancelled` where one
    /// is stopped meanwhile; what CRIU said. Nothing stays in the directory then.
    pub async fn checkpoint_pod(&self, request: PodCheckpointRequest) -> Result<()> {
        let criu = Criu::look_if(self.deps.settings().containers.enable_criu).await;
        self.checkpoint_pod_by(criu.as_ref(), request).await
    }

    /// As [`Self::checkpoint_pod`], with what was found of CRIU, where it was looked for.
    pub(crate) async fn checkpoint_pod_by(
        &self,
        criu: Option<&Criu>,
        request: PodCheckpointRequest,
    ) -> Result<()> {
        Criu::ensure(criu, "CheckpointPod", "containers.enable_criu")?;
        let (sandbox, subjects) = self.subjects(&request)?;
        let this = self.clone();
        let request = PodCheckpointRequest {
            sandbox: sandbox.to_string(),
            ..request
        };
        let work = async move { this.checkpoint_together(subjects, request).await };
        self.deps.supervisor.detached("CheckpointPod", work).await
    }

    fn subjects(&self, request: &PodCheckpointRequest) -> Result<(SandboxId, Vec<Subject>)> {
        let now = self.deps.index.snapshot();
        let missing = || Error::not_found(format!("sandbox {:?}: not found", request.sandbox));
        let sandbox = now.find_sandbox(&request.sandbox)?.ok_or_else(missing)?;
        let sandbox = sandbox.sandbox.id.clone();
        if request.containers.is_empty() {
            return Err(Error::invalid("container_ids: empty"));
        }
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut subjects = Vec::new();
        for (id, status) in &request.containers {
            let (view, site) = self.expect(id.as_str())?;
            let name = view.config.identity.name.clone();
            if view.sandbox != sandbox {
                return Err(Error::invalid(format!(
                    "container {}: not of sandbox {}",
                    id.short(),
                    sandbox.short()
                )));
            }
            if name.contains('/') || !ids.insert(id.clone()) || !names.insert(name.clone()) {
                return Err(Error::invalid(format!(
                    "container {name} {}: asked for twice, or its name is none of a file",
                    id.short()
                )));
            }
            let path = archive_of(Path::new(&request.output), &name);
            subjects.push(Subject {
                place: Place::of(&path.display().to_string())?,
                view,
                site,
                status: status.clone(),
            });
        }
        // In one order, whatever the request's, so that two checkpoints never wait for each other.
        subjects.sort_by(|one, other| one.view.id.cmp(&other.view.id));
        Ok((sandbox, subjects))
    }

    async fn checkpoint_together(
        &self,
        subjects: Vec<Subject>,
        request: PodCheckpointRequest,
    ) -> Result<()> {
        let live = &self.deps.live;
        let pod = request.sandbox.as_str();
        let operation = live.begin_for(pod, "CheckpointPod", pod);
        let limit = request.timeout;
        let deadline = Instant::now() + limit;
        let late = || Error::timed_out("CheckpointPod", limit);
        let mut turns = Vec::new();
        for subject in &subjects {
            let turn =
                operation.waiting("a checkpoint in progress", subject.site.checkpoint.lock());
            let turn = tokio::time::timeout_at(deadline, turn).await;
            turns.push(turn.map_err(|_elapsed| late())?);
        }
        let output = PathBuf::from(&request.output);
        let places: Vec<Place> = subjects.iter().map(|s| s.place.clone()).collect();
        let dir = output.clone();
        let what = format!("look at {}", request.output);
        let paths = &self.deps.paths;
        let look = move || {
            places.iter().try_for_each(Place::check_blocking)?;
            ensure_empty_blocking(&dir)
        };
        paths.run(&request.sandbox, what, LOOK_LIMIT, look).await?;
        let work = self.write_down_together(&subjects, &request, &operation);
        let steps = self.deps.supervisor.survive("CheckpointPod", work);
        let stops = subjects
            .iter()
            .map(|subject| Box::pin(subject.site.stop.is_asked()));
        let done = tokio::select! {
            done = tokio::time::timeout_at(deadline, steps) => {
                done.unwrap_or_else(|_elapsed| Err(late()))
            }
            _stopped = futures::future::select_all(stops) => {
                Err(Error::cancelled("a container is being stopped"))
            }
        };
        operation.step("clean up");
        for subject in &subjects {
            self.end_left_checkpoint(&subject.view.id).await;
        }
        if done.is_err() {
            let files: Vec<PathBuf> = subjects.iter().map(|s| s.place.path()).collect();
            let remove = move || remove_blocking(&files, &output.join(POD_DOCUMENT));
            if let Err(error) = sys::off_thread("remove a failed checkpoint", remove).await {
                tracing::warn!(%error, path = request.output, "a part of a failed checkpoint stays");
            }
        }
        done.context(|| format!("sandbox {}: checkpoint", request.sandbox))
    }

    async fn write_down_together(
        &self,
        subjects: &[Subject],
        request: &PodCheckpointRequest,
        operation: &Operation,
    ) -> Result<()> {
        let now = self.deps.index.snapshot();
        let mut views = Vec::new();
        for subject in subjects {
            let view = now.container(&subject.view.id).cloned();
            let running = view.filter(|view| view.is_running()).ok_or_else(|| {
                let name = &subject.view.config.identity.name;
                Error::precondition(format!("container {name} does not run"))
            })?;
            views.push(running);
        }
        let captured = self.write_down_frozen(&views, operation).await?;
        operation.step("archive");
        for ((subject, view), captured) in subjects.iter().zip(&views).zip(captured) {
            self.archive(view, &subject.place, &subject.status, captured)
                .await?;
        }
        let document = Document {
            version: VERSION,
            pod: request.sandbox.clone(),
            containers: views
                .iter()
                .map(|view| view.config.identity.name.clone())
                .collect(),
        };
        let path = Path::new(&request.output).join(POD_DOCUMENT);
        let place = Place::of(&path.display().to_string())?;
        let what = format!("write {}", path.display());
        let write = move || write_document_blocking(&place, &document);
        let ceiling = self.deps.settings().operations.ceiling;
        let paths = &self.deps.paths;
        paths.run(&request.sandbox, what, ceiling, write).await
    }
}

fn write_document_blocking(place: &Place, document: &Document) -> Result<()> {
    let what = || format!("write {}", place.path().display());
    let new = NewFile::begin_blocking(place)?;
    serde_json::to_writer_pretty(&new.file, document).classify(Kind::Internal, what)?;
    new.keep_blocking().map(drop)
}

/// Whether the document says that a directory is a pod's checkpoint of a kind that is understood.
pub(in super::super) fn read_pod_document_blocking(path: &Path) -> Result<()> {
    let bytes = sys::files::read_capped_blocking(path, MAX_DOCUMENT)?;
    let document: Document = serde_json::from_slice(&bytes)
        .classify(Kind::InvalidArgument, || POD_DOCUMENT.to_owned())?;
    match document.version {
        VERSION => Ok(()),
        other => Err(Error::invalid(format!(
            "{POD_DOCUMENT}: version {other}, want {VERSION}"
        ))),
    }
}

fn ensure_empty_blocking(dir: &Path) -> Result<()> {
    let what = || format!("read {}", dir.display());
    match std::fs::read_dir(dir).sys(what)?.next() {
        None => Ok(()),
        Some(_) => Err(Error::already_exists(format!(
            "output_path {}: want an empty directory",
            dir.display()
        ))),
    }
}

fn remove_blocking(files: &[PathBuf], document: &Path) -> Result<()> {
    let all = files.iter().map(PathBuf::as_path).chain([document]);
    let removed: Vec<Result<()>> = all.map(sys::files::remove_file_blocking).collect();
    removed.into_iter().collect()
}
