//! Images as volumes: a read-only view of each image's snapshot, or of one directory in it, mounted below the container's
//! own directory.
//!
//! Each container has views of its own, though containers of a pod often name the same image: a view is a name for layers
//! that are there already and costs no copy, and so each goes with the one container that has it. Nothing is counted,
//! nothing outlives its last user, and what a crash leaves belongs to one step of one container.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::containerd::SnapshotRequest;
use crate::model::container::Mount;
use crate::model::{ContainerConfig, ContainerId, Context, Error, Result};
use crate::sandbox::steps::tolerate_missing;
use crate::sys;
use crate::sys::image_tree::{MountIds, Shown};
use crate::sys::rootfs::Layers;

use super::images::LocalImage;
use super::{Containers, snapshots};

/// The kubelet counts failures by this beginning of the message.
pub(super) const FAILED: &str = "ImageVolumeMountFailed";
/// How long putting the layers of one image together may take.
const LIMIT: Duration = Duration::from_secs(30);

fn asked(config: &ContainerConfig) -> impl Iterator<Item = (&Mount, &String)> {
    let mounts = config.mounts.iter();
    mounts.filter_map(|mount| Some((mount, mount.image.as_ref()?)))
}

/// Whether a mount of `config` shows an image.
pub(super) fn has_any(config: &ContainerConfig) -> bool {
    asked(config).next().is_some()
}

impl Containers {
    /// The images that mounts of `config` show, in their order.
    ///
    /// # Errors
    /// `NotFound` where one is not on this node.
    pub(super) fn volume_images(&self, config: &ContainerConfig) -> Result<Vec<LocalImage>> {
        let find = |(mount, text): (&Mount, &String)| {
            let missing = || {
                Error::not_found(format!(
                    "{FAILED}: image {text:?} of the mount at {}: not on this node; pull it first",
                    mount.container_path
                ))
            };
            let found = self.images.find(text).context(|| FAILED.to_owned());
            found?.ok_or_else(missing)
        };
        asked(config).map(find).collect()
    }

    fn image_mounts_dir(&self, id: &ContainerId) -> PathBuf {
        self.volumes_dir(id).join("images")
    }

    /// Mounts `images` for the mounts of `config` that show them, their files all labelled `label`, as those of the root
    /// file system are; answers where, in their order.
    ///
    /// # Errors
    /// `NotFound` or `InvalidArgument` where the image has no such directory; `Unimplemented` where the snapshotter, or
    /// the kernel for mapped ids, cannot; those of containerd.
    pub(super) async fn mount_images(
        &self,
        id: &ContainerId,
        (pod, label): (&str, Option<&str>),
        config: &ContainerConfig,
        images: &[LocalImage],
        snapshotter: &str,
    ) -> Result<Vec<PathBuf>> {
        let mut targets = Vec::with_capacity(images.len());
        for (at, ((mount, _), image)) in asked(config).zip(images).enumerate() {
            let target = self.image_mounts_dir(id).join(at.to_string());
            let made = target.clone();
            // The directory says later that there is a snapshot to remove, so it comes first.
            sys::off_thread("make a directory for an image", move || {
                let mut dirs: Vec<&Path> = made.ancestors().take(3).collect();
                dirs.reverse();
                dirs.into_iter()
                    .try_for_each(|dir| sys::files::make_dir_blocking(dir, 0o711))
            })
            .await?;
            let request = SnapshotRequest {
                snapshotter: snapshotter.to_owned(),
                key: snapshots::of_image_volume(id, at),
                parent: image.chain_id.clone(),
                labels: snapshots::labels(self.deps.clock.now()),
                lease: None,
            };
            let place = || format!("image {} at {}", image.id, mount.container_path);
            self.mount_image((pod, label), mount, image, &request, target.clone())
                .await
                .context(place)?;
            targets.push(target);
        }
        Ok(targets)
    }

    async fn mount_image(
        &self,
        (pod, label): (&str, Option<&str>),
        mount: &Mount,
        image: &LocalImage,
        request: &SnapshotRequest,
        target: PathBuf,
    ) -> Result<()> {
        let snapshots = &self.deps.containerd.snapshots;
        let mounts = match snapshots.view(request).await {
            Err(error) if error.is_not_found() => {
                self.images.unpack(image, &request.snapshotter).await?;
                snapshots.view(request).await?
            }
            made => made?,
        };
        let unfit = || {
            Error::unimplemented(format!(
                "snapshotter {} gives no directories to mount; image volumes work with overlayfs and native",
                request.snapshotter
            ))
        };
        let layers = mounts
            .last()
            .and_then(|mount| Layers::of_mount(&mount.kind, &mount.source, &mount.options))
            .ok_or_else(unfit)?;
        let sub_path = PathBuf::from(&mount.image_sub_path);
        let ids = (!mount.uid_mappings.is_empty()).then(|| MountIds {
            uids: mount.uid_mappings.clone(),
            gids: mount.gid_mappings.clone(),
        });
        let shown = Shown {
            ids,
            label: label.map(str::to_owned),
        };
        let work = move || sys::image_tree::mount_blocking(&layers, &sub_path, &shown, &target);
        let what = format!("mount image {}", image.id);
        self.deps.paths.run(pod, what, LIMIT, work).await
    }

    /// Unmounts the images of a container and removes their snapshots. What there is, the directories say.
    pub(super) async fn unmount_images(&self, id: &ContainerId, snapshotter: &str) -> Result<()> {
        let dir = self.image_mounts_dir(id);
        let base = dir.clone();
        let count = sys::off_thread("unmount the container's images", move || {
            sys::mounts::unmount_all_below_blocking(&base)?;
            Ok(std::fs::read_dir(&base).map_or(0, Iterator::count))
        })
        .await?;
        for at in 0..count {
            let key = snapshots::of_image_volume(id, at);
            let removed = self.deps.containerd.snapshots.remove(snapshotter, &key);
            tolerate_missing(removed.await)?;
        }
        sys::off_thread(
            "remove the directories of a container's images",
            move || sys::remove_tree_blocking(&dir),
        )
        .await
    }
}
