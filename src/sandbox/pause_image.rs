//! The image that an operator has pause containers run, in place of the embedded program: looked for here, pulled where it
//! is not, and given a snapshot for each sandbox.

use futures::future::BoxFuture;

use crate::containerd::{RootfsMount, SnapshotRequest};
use crate::model::container::ContainerSecurity;
use crate::model::{Context, Error, ImageDefaults, Result};
use crate::spec::{self, Accounts, ProcessUser, SelinuxLabels};
use crate::sys;
use crate::sys::rootfs::Layers;

use super::run::Making;
use super::steps::Step;
use super::{pause_root, snapshots};

/// An image as the making of a pause container sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPauseImage {
    /// Digest of its configuration.
    pub id: String,
    /// Its name in containerd.
    pub name: String,
    /// Chain ID of its top layer.
    pub chain_id: String,
    /// What its configuration says of processes.
    pub defaults: ImageDefaults,
}

/// Where pause images come from. `image` implements it through `server`.
pub trait PauseImages: Send + Sync {
    /// The image `reference`; pulled for the runtime handler, with the node's own credentials, where it is not here.
    ///
    /// # Errors
    /// Those of a pull.
    fn have<'a>(
        &'a self,
        reference: &'a str,
        handler: &'a str,
    ) -> BoxFuture<'a, Result<LocalPauseImage>>;
    /// Unpacks the image with this id for `snapshotter`, where its top snapshot is not there.
    fn unpack<'a>(&'a self, id: &'a str, snapshotter: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// What a pause task starts from.
pub(super) struct Program {
    /// Its root.
    pub(super) rootfs: Vec<RootfsMount>,
    /// The user that its image names.
    pub(super) user: Option<ProcessUser>,
}

impl Making<'_> {
    /// The configured image; `None` where it is the embedded program.
    pub(super) async fn pause_image(&self) -> Result<Option<LocalPauseImage>> {
        let settings = self.home.deps.settings();
        let Some(reference) = settings.sandbox.pause_image.as_deref() else {
            return Ok(None);
        };
        let nowhere = || Error::internal("nobody has images for pause containers");
        let images = self.home.images.get().ok_or_else(nowhere)?;
        self.operation.step("pause image");
        let image = images.have(reference, &self.request.handler).await;
        image
            .map(Some)
            .context(|| format!("sandbox.pause_image {reference}"))
    }

    /// The snapshotter of this sandbox.
    pub(super) fn snapshotter(&self) -> String {
        self.handler.settings.snapshotter.clone()
    }

    /// What the pause task starts from: the embedded program, or a snapshot of `image` of the sandbox's own.
    pub(super) async fn program(
        &self,
        image: Option<&LocalPauseImage>,
        labels: Option<&SelinuxLabels>,
    ) -> Result<Program> {
        let Some(image) = image else {
            let root = pause_root::lay_out(&self.home.deps).await?;
            let mount = RootfsMount {
                kind: "bind".into(),
                source: root.display().to_string(),
                target: String::new(),
                options: vec!["rbind".into(), "ro".into()],
            };
            return Ok(Program {
                rootfs: vec![mount],
                user: None,
            });
        };
        self.steps.lock().await.snapshotter = Some(self.snapshotter());
        let mut rootfs = self.step(Step::Snapshot, self.prepare(image)).await?;
        let user = image_user(image, &rootfs).await?;
        let context = labels.map(|labels| sys::selinux::context_option(&labels.mount));
        // A bind mount has its source's superblock, and with it the labels there.
        for mount in rootfs.iter_mut().filter(|mount| mount.kind != "bind") {
            mount.options.extend(context.clone());
        }
        Ok(Program { rootfs, user })
    }

    async fn prepare(&self, image: &LocalPauseImage) -> Result<Vec<RootfsMount>> {
        let mapping = spec::user_mapping(&self.request.config.security.namespaces)?;
        let mut labels = snapshots::labels(self.created_at);
        labels.extend(mapping.into_iter().flat_map(snapshots::mapping_labels));
        let request = SnapshotRequest {
            snapshotter: self.snapshotter(),
            key: self.id.to_string(),
            parent: image.chain_id.clone(),
            labels,
            lease: None,
        };
        let store = &self.home.deps.containerd.snapshots;
        match (store.prepare(&request).await, self.home.images.get()) {
            (Err(error), Some(images)) if error.is_not_found() => {
                images.unpack(&image.id, &request.snapshotter).await?;
                store.prepare(&request).await
            }
            (prepared, _) => prepared,
        }
    }
}

/// The user that the image names, as its own root knows it; `None` where it names none.
async fn image_user(
    image: &LocalPauseImage,
    rootfs: &[RootfsMount],
) -> Result<Option<ProcessUser>> {
    if image.defaults.user.is_empty() {
        return Ok(None);
    }
    let layers = rootfs
        .last()
        .and_then(|mount| Layers::of_mount(&mount.kind, &mount.source, &mount.options));
    let read = match layers {
        Some(layers) => {
            let work = move || {
                layers.read_blocking(&["etc/passwd", "etc/group"], spec::MAX_ACCOUNT_FILE_BYTES)
            };
            sys::off_thread("read the pause image's users", work).await?
        }
        None => Vec::new(),
    };
    let text = |at: usize| {
        String::from_utf8_lossy(read.get(at).and_then(Option::as_deref).unwrap_or_default())
    };
    let (passwd, group) = (text(0), text(1));
    let accounts = Accounts {
        passwd: &passwd,
        group: &group,
    };
    let nobody_asks = ContainerSecurity::default();
    spec::resolve_user(&nobody_asks, &image.defaults.user, accounts)
        .map(Some)
        .context(|| format!("user of the pause image {}", image.name))
}
