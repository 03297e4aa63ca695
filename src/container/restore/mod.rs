//! Containers that go on from a checkpoint: CreateContainer with the path of an archive or an image of one in the place
//! of an image (behaviour-node §1.5, "Restore").
//!
//! ```text
//! create: archive -> files for CRIU, changes of the root file system -> containerd lays them over the base image
//! start:  the OCI runtime's restore in the place of its create and start
//! ```
//!
//! A checkpoint is as hostile as any file from outside. Nothing of it reaches the spec, mounts, labels, options, log or
//! names of anything: they are made from the request alone. It gives the bytes of the processes and of the root file
//! system, and the digest of the image that it was made on, which must be here already. What CRIU does with those bytes
//! it does as root, so none of this is done unless `containers.enable_restore` is on.

mod changes;
mod criu_config;
mod lay;
mod pod;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::containerd::{CheckpointDirs, Payload};
use crate::index::ContainerView;
use crate::model::{ContainerId, Error, Pid, Result};
use crate::sandbox::{Deps, RuntimeHandler};
use crate::spec::UserMapping;
use crate::sys;

use super::images::LocalImage;
use super::{Containers, CreateRequest};
pub(super) use changes::RestoreChanges;
pub(super) use criu_config::name_in;
pub(super) use pod::archive_of;
pub use pod::{RestorePodRequest, RestoredPod};
pub(super) use source::Checkpoint;

/// Bytes of CRIU's own words that are passed on.
const WORDS: usize = 400;
/// The end of CRIU's log that is read for them.
const LOG_TAIL: u64 = 64 << 10;

/// What a container is made of.
pub(super) struct Origin {
    /// Its root file system, and what is said of it.
    pub(super) image: LocalImage,
    /// Where it goes on from; `None` for one that begins anew.
    pub(super) checkpoint: Option<Checkpoint>,
}

/// Below here lies what CRIU is given.
fn restore_dir(deps: &Deps, id: &ContainerId) -> PathBuf {
    deps.root_dir("containers", id.as_str()).join("checkpoint")
}

fn dirs(deps: &Deps, id: &ContainerId) -> CheckpointDirs {
    let dir = restore_dir(deps, id);
    CheckpointDirs {
        images: dir.join("images"),
        work: dir.join("work"),
    }
}

impl Containers {
    /// What the request names: an image, an image of a checkpoint, or the archive of one.
    ///
    /// # Errors
    /// `NotFound` where it, or the image below the checkpoint, is not on this node; `InvalidArgument` for a malformed or
    /// hostile archive; `Unimplemented` for a checkpoint where `containers.enable_restore` is off.
    pub(super) async fn origin(&self, request: &CreateRequest, pod: &str) -> Result<Origin> {
        let asked = &request.config.image;
        if let Some(archive) = &request.archive {
            self.ensure_restores(asked)?;
            let image = self.expect_image(asked)?;
            let checkpoint = self.open_archive(archive.clone(), pod).await?;
            checkpoint.ensure_made_on(&image, &*self.images)?;
            return Ok(Origin {
                image,
                checkpoint: Some(checkpoint),
            });
        }
        if asked.starts_with('/') {
            self.ensure_restores(asked)?;
            let checkpoint = self.open_archive(asked.into(), pod).await?;
            return self.on_its_base(checkpoint);
        }
        let image = self.expect_image(asked)?;
        if !image.is_checkpoint {
            return Ok(Origin {
                image,
                checkpoint: None,
            });
        }
        self.ensure_restores(asked)?;
        let layers = self.images.checkpoint(&image).await?;
        let checkpoint = self.understand(asked.clone(), layers, pod).await?;
        self.on_its_base(checkpoint)
    }

    fn ensure_restores(&self, asked: &str) -> Result<()> {
        match self.deps.settings().containers.enable_restore {
            true => Ok(()),
            false => Err(Error::unimplemented(format!(
                "{asked}: a checkpoint, and restoring them is off (containers.enable_restore)"
            ))),
        }
    }

    fn expect_image(&self, asked: &str) -> Result<LocalImage> {
        let image = self.images.find(asked)?.ok_or_else(|| {
            Error::not_found(format!("image {asked:?}: not on this node; pull it first"))
        })?;
        match image.is_artifact {
            true => Err(Error::invalid(format!(
                "image {asked:?}: it is an OCI artifact, which has files and nothing to run; it can be mounted as an image volume"
            ))),
            false => Ok(image),
        }
    }

    fn on_its_base(&self, checkpoint: Checkpoint) -> Result<Origin> {
        Ok(Origin {
            image: checkpoint.base(&*self.images)?,
            checkpoint: Some(checkpoint),
        })
    }

    /// What a start tells the shim beside the container's record: where CRIU finds what it restores. `None` for a
    /// container that begins anew.
    ///
    /// # Errors
    /// `FailedPrecondition` where its handler's shim is not runc's, which alone knows these options.
    pub(super) fn restore_options(&self, view: &ContainerView) -> Result<Option<Payload>> {
        if view.restored_from.is_none() {
            return Ok(None);
        }
        let now = self.deps.index.snapshot();
        let pod = now
            .pod(&view.sandbox)
            .ok_or_else(|| Error::not_found("its sandbox"))?;
        let handler = self.deps.handlers.get(&pod.sandbox.handler)?;
        let options = options_of(&handler)?.clone();
        Ok(Some(options.with_checkpoint(&dirs(&self.deps, &view.id))))
    }

    /// What came of a restore: with CRIU's own words where it failed, without its files where it runs.
    pub(super) async fn expect_restored(
        &self,
        view: &ContainerView,
        started: Result<Pid>,
    ) -> Result<Pid> {
        match started {
            Ok(pid) => {
                self.end_restore(view).await;
                Ok(pid)
            }
            Err(error) => {
                let words = self.criu_words(view).await;
                Err(error.context(match words {
                    Some(words) => format!("restore: {words}"),
                    None => "restore".to_owned(),
                }))
            }
        }
    }

    async fn end_restore(&self, view: &ContainerView) {
        let dir = restore_dir(&self.deps, &view.id);
        let config = criu_config::path(&self.deps, &view.id);
        let remove = move || {
            criu_config::write_blocking(&config, criu_config::RESTORED)?;
            sys::remove_tree_blocking(&dir)
        };
        if let Err(error) = sys::off_thread("remove a restored checkpoint", remove).await {
            tracing::warn!(container.id = %view.id, %error, "a restored checkpoint stays until its container is removed");
        }
    }

    async fn criu_words(&self, view: &ContainerView) -> Option<String> {
        let path = dirs(&self.deps, &view.id).work.join("restore.log");
        let read = move || sys::files::read_tail_blocking(&path, LOG_TAIL);
        let (log, _is_cut) = sys::off_thread("read CRIU's log", read).await.ok()?;
        last_error(&String::from_utf8_lossy(&log))
    }
}

/// Whether a container of this handler can go on from a checkpoint.
///
/// # Errors
/// `FailedPrecondition` for other shims than runc's, and in user namespaces of a pod's own: the checkpoint's files belong to
/// the users of another.
pub(super) fn ensure_restorable(
    handler: &RuntimeHandler,
    mapping: Option<UserMapping>,
) -> Result<()> {
    options_of(handler)?;
    match mapping {
        None => Ok(()),
        Some(_) => Err(Error::precondition(
            "a checkpoint cannot be restored in a user namespace of the pod's own; set hostUsers: true",
        )),
    }
}

/// The shim options of a handler whose shim restores.
fn options_of(handler: &RuntimeHandler) -> Result<&Payload> {
    handler.options.as_ref().ok_or_else(|| {
        Error::precondition(format!(
            "runtime {}: only containers of runc's shim can go on from a checkpoint",
            handler.settings.runtime_type
        ))
    })
}

/// CRIU's last line that tells of an error, cut, without what cannot be shown.
fn last_error(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| line.contains("Error"))?;
    let line = line.trim().chars().filter(|c| !c.is_control());
    Some(line.take(WORDS).collect())
}
