//! CheckpointContainer: a running container is written down to an archive and lives on (KEP-2008, forensic container
//! checkpointing).
//!
//! ```text
//! freeze -> CRIU through the OCI runtime -> containerd packs the changed files -> thaw -> archive
//! ```
//!
//! Only what must be of one moment happens while the container is frozen. A stop of the container ends a checkpoint of
//! it at once, and whatever ends one, the container is thawed: the step is recorded before it is begun.

mod archive;
mod capture;
mod criu;
mod documents;
mod pod;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::index::ContainerView;
use crate::model::{ContainerId, Context as _, Error, Result};
use crate::ops::{Edge, Operation, gate};
use crate::sandbox::Deps;
use crate::sys::errno::SysContext as _;
use crate::sys::new_file::Place;

use super::steps::Step;
use super::{Containers, Site};
use archive::Member;
use capture::Captured;

pub(super) use capture::is_left;
pub use criu::Criu;
pub use pod::PodCheckpointRequest;
pub(super) use pod::{ARCHIVE, POD_DOCUMENT, read_pod_document_blocking};

/// How long the place of the archive may take to be looked at.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// A CheckpointContainer request.
#[derive(Clone, Debug)]
pub struct CheckpointRequest {
    /// Container as the caller names it.
    pub container: String,
    /// Path of the archive: absolute, with nothing there yet, in a directory that is root's alone.
    pub location: String,
    /// How long it may take; the ceiling of operations where `None`.
    pub timeout: Option<Duration>,
    /// The container's status as it is shown, for `status.dump`.
    pub status: String,
}

fn work_dir(deps: &Deps, id: &ContainerId) -> PathBuf {
    deps.root_dir("checkpoints", id.as_str())
}

impl Containers {
    /// Writes a running container down. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `NotFound`; `Unimplemented` without CRIU or where `containers.enable_criu` is off; `FailedPrecondition` unless it
    /// runs; `InvalidArgument` or `AlreadyExists` for the place; `ResourceExhausted` on a full disk; `DeadlineExceeded`;
    /// `Cancelled` where the container is stopped meanwhile; what CRIU said.
    pub async fn checkpoint(&self, request: CheckpointRequest) -> Result<()> {
        let criu = Criu::look_if(self.deps.settings().containers.enable_criu).await;
        self.checkpoint_by(criu.as_ref(), request).await
    }

    /// As [`Self::checkpoint`], with what was found of CRIU, where it was looked for.
    pub(crate) async fn checkpoint_by(
        &self,
        criu: Option<&Criu>,
        request: CheckpointRequest,
    ) -> Result<()> {
        let (view, site) = self.expect(&request.container)?;
        Criu::ensure(criu, "CheckpointContainer", "containers.enable_criu")?;
        let place = Place::of(&request.location)?;
        let this = self.clone();
        let work = async move { this.checkpoint_whole(&view, &site, &place, request).await };
        self.deps
            .supervisor
            .detached("CheckpointContainer", work)
            .await
    }

    async fn checkpoint_whole(
        &self,
        view: &Arc<ContainerView>,
        site: &Site,
        place: &Place,
        request: CheckpointRequest,
    ) -> Result<()> {
        let id = &view.id;
        let name = &view.config.identity.name;
        let pod = view.sandbox.as_str();
        let object = format!("{name} {}", id.short());
        let operation = self.deps.live.begin_for(pod, "CheckpointContainer", object);
        let ceiling = self.deps.settings().operations.ceiling;
        let limit = request.timeout.unwrap_or(ceiling);
        let deadline = tokio::time::Instant::now() + limit;
        let late = || Error::timed_out("CheckpointContainer", limit);
        let turn = operation.waiting("a checkpoint in progress", site.checkpoint.lock());
        let _turn = tokio::time::timeout_at(deadline, turn)
            .await
            .map_err(|_elapsed| late())?;
        let steps = self.deps.supervisor.survive(
            "CheckpointContainer",
            self.write_down(view, place, &request.status, &operation),
        );
        let done = tokio::select! {
            done = tokio::time::timeout_at(deadline, steps) => {
                done.unwrap_or_else(|_elapsed| Err(late()))
            }
            () = site.stop.is_asked() => Err(Error::cancelled("the container is being stopped")),
        };
        operation.step("clean up");
        self.end_left_checkpoint(id).await;
        done.context(|| format!("container {name}: checkpoint"))
    }

    async fn write_down(
        &self,
        view: &ContainerView,
        place: &Place,
        status: &str,
        operation: &Operation,
    ) -> Result<()> {
        let now = self.deps.index.snapshot().container(&view.id).cloned();
        let view = now
            .filter(|now| now.is_running())
            .ok_or_else(|| Error::precondition("it does not run"))?;
        operation.step("look at the location");
        let (looked, what) = (place.clone(), format!("look at {}", place.path().display()));
        let look = move || looked.check_blocking();
        let pod = view.sandbox.as_str();
        self.deps.paths.run(pod, what, LOOK_LIMIT, look).await?;
        let views = [view];
        let captured = self.write_down_frozen(&views, operation).await?;
        operation.step("archive");
        operation.patiently();
        for (view, captured) in views.iter().zip(captured) {
            let size = self.archive(view, place, status, captured).await?;
            gate("checkpoint_container", "archive", Edge::After).await;
            tracing::info!(container.id = %view.id, path = %place.path().display(), size, "container written down");
        }
        Ok(())
    }

    /// Has a thread of the pod's write the archive.
    async fn archive(
        &self,
        view: &ContainerView,
        place: &Place,
        status: &str,
        captured: Captured,
    ) -> Result<u64> {
        let now = self.deps.clock.now();
        let mut members = vec![
            Member::Text("config.dump", documents::config(view, now)?),
            Member::Text("spec.dump", view.spec.as_bytes().to_vec()),
            Member::Text("status.dump", status.as_bytes().to_vec()),
            Member::Text("status", documents::state(view)?),
        ];
        if let Some(binds) = documents::binds(view)? {
            members.push(Member::Text("bind.mounts", binds));
        }
        if !view.log_path.is_empty() {
            let path = PathBuf::from(&view.log_path);
            members.push(Member::FileIfThere("container.log", path));
        }
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        let (target, what) = (place.clone(), format!("write {}", place.path().display()));
        let write = move || {
            let Captured { dirs, changes } = captured;
            members.push(Member::File("rootfs-diff.tar".to_owned(), changes));
            members.extend(files(&dirs.images, "checkpoint/")?);
            members.extend(files(&dirs.work, "")?);
            archive::write_blocking(&target, &members, &gone)
        };
        let ceiling = self.deps.settings().operations.ceiling;
        let pod = view.sandbox.as_str();
        self.deps.paths.run(pod, what, ceiling, write).await
    }

    /// Takes back what a checkpoint made, and thaws the container if it is frozen; what would not go is tried again by
    /// [`Self::retry_checkpoint`].
    pub(super) async fn end_left_checkpoint(&self, id: &ContainerId) {
        let left = self.take_back(id, &[Step::Checkpoint]).await;
        if !matches!(&left, Ok(left) if left.is_empty()) {
            tracing::error!(container.id = %id, ?left, "a checkpoint could not be ended cleanly, and the container may be frozen; the janitor tries again");
        }
    }

    /// Ends a checkpoint that nobody takes any more and that could not be ended cleanly before.
    pub async fn retry_checkpoint(&self, id: &ContainerId) {
        let Some(site) = self.site(id) else {
            return;
        };
        if let Ok(_turn) = site.checkpoint.try_lock() {
            self.end_left_checkpoint(id).await;
        }
    }
}

/// The plain files of a directory, in the order of their names.
fn files(dir: &Path, prefix: &str) -> Result<Vec<Member>> {
    let what = || format!("read {}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).sys(what)? {
        let entry = entry.sys(what)?;
        if entry.file_type().sys(what)?.is_file() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            files.push((name, entry.path()));
        }
    }
    files.sort();
    let member = |(name, path)| Member::File(name, path);
    Ok(files.into_iter().map(member).collect())
}
