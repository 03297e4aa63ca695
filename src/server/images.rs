//! The image room as its users see it: messages for the CRI, local images for containers, news for events.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use serde_json::value::RawValue;

use crate::admin::{Archive, Archives, Imported, Mirrors, Pieces, PullOrder, Pulls, Stock};
use crate::container::{LocalImage, LocalImages};
use crate::cri;
use crate::events::ImageNews;
use crate::image::{
    DiskUsage, FsUsage, ImageUser, ImageView, Images, ImportRequest, PruneRequest, Pruned,
    PullReport, PullRequest,
};
use crate::model::{Classify, Context, Error, Kind, Result};
use crate::ops::Supervisor;
use crate::registry::{AuthFields, Credentials, HostReport};
use crate::sandbox::{LocalPauseImage, PauseImages};
use crate::wire::cri as pb;

/// Waits between attempts to read what containerd told of: the first, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The image room behind every trait that asks for it. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct ImageDesk {
    images: Images,
    supervisor: Supervisor,
}

impl ImageDesk {
    pub(super) fn new(images: Images, supervisor: Supervisor) -> Self {
        Self { images, supervisor }
    }

    async fn unpack_local(&self, id: &str, snapshotter: &str) -> Result<()> {
        match self.images.resolve_local(id)? {
            Some(view) => self.images.ensure_unpacked(&view, snapshotter).await,
            None => Err(removed_meanwhile(id)),
        }
    }
}

fn removed_meanwhile(id: &str) -> Error {
    Error::not_found(format!("image {id}: removed meanwhile"))
}

fn image(view: &ImageView) -> pb::Image {
    let (uid, username) = match &view.user {
        ImageUser::Unset => (None, String::new()),
        ImageUser::Uid(uid) => (Some(pb::Int64Value { value: *uid }), String::new()),
        ImageUser::Name(name) => (None, name.clone()),
    };
    pb::Image {
        id: view.id.to_string(),
        repo_tags: view.repo_tags.clone(),
        repo_digests: view.repo_digests.clone(),
        size: view.size,
        uid,
        username,
        spec: None,
        pinned: view.pinned,
    }
}

/// The snapshot that containers start from, as text; empty for an image without layers.
fn chain_of(view: &ImageView) -> String {
    let chain = view.chain_id.as_ref();
    chain.map(ToString::to_string).unwrap_or_default()
}

fn verbose(view: &ImageView) -> Result<BTreeMap<String, String>> {
    let spec: &RawValue = serde_json::from_slice(&view.config_json).unwrap_or(RawValue::NULL);
    let info = serde_json::to_string(&json!({ "chainID": chain_of(view), "imageSpec": spec }));
    let info = info.classify(Kind::Internal, || "encode verbose info".to_owned())?;
    Ok(BTreeMap::from([("info".to_owned(), info)]))
}

fn usage(usage: FsUsage) -> pb::FilesystemUsage {
    pb::FilesystemUsage {
        timestamp: usage.timestamp.0,
        fs_id: Some(pb::FilesystemIdentifier {
            mountpoint: usage.mountpoint.display().to_string(),
        }),
        used_bytes: Some(pb::UInt64Value {
            value: usage.used_bytes,
        }),
        inodes_used: Some(pb::UInt64Value {
            value: usage.inodes_used,
        }),
    }
}

fn credentials(auth: pb::AuthConfig) -> Result<Credentials> {
    Credentials::parse(&AuthFields {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    })
}

impl cri::Images for ImageDesk {
    fn list(&self, reference: &str) -> Result<Vec<pb::Image>> {
        Ok(self
            .images
            .list(Some(reference))?
            .iter()
            .map(|view| image(view))
            .collect())
    }

    fn status<'a>(
        &'a self,
        reference: &'a str,
        wants_info: bool,
    ) -> BoxFuture<'a, Result<pb::ImageStatusResponse>> {
        Box::pin(async move {
            let found = self.images.resolve_local(reference)?;
            let info = match &found {
                Some(view) if wants_info => verbose(view)?,
                _ => BTreeMap::new(),
            };
            Ok(pb::ImageStatusResponse {
                image: found.as_deref().map(image),
                info,
            })
        })
    }

    fn pull(&self, request: pb::PullImageRequest) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            let spec = request.image.unwrap_or_default();
            let credentials = request.auth.map(credentials).transpose()?;
            let request = PullRequest {
                reference: spec.image,
                credentials,
                runtime_handler: spec.runtime_handler,
            };
            Ok(self.images.pull(request).await?.to_string())
        })
    }

    fn remove<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<()>> {
        // A removal that began goes on when its caller leaves: the image is off the lists already.
        let (images, reference) = (self.images.clone(), reference.to_owned());
        Box::pin(self.supervisor.detached(
            "RemoveImage",
            async move { images.remove(&reference).await },
        ))
    }

    fn fs_info(&self) -> Result<pb::ImageFsInfoResponse> {
        let all: Vec<pb::FilesystemUsage> = self.images.fs_info().into_iter().map(usage).collect();
        // One file system for both, unless the node splits them: then the first is the default snapshotter's.
        let containers = all.first().cloned().into_iter().collect();
        Ok(pb::ImageFsInfoResponse {
            image_filesystems: all,
            container_filesystems: containers,
        })
    }
}

impl LocalImages for ImageDesk {
    fn find(&self, text: &str) -> Result<Option<LocalImage>> {
        let found = self.images.resolve_local(text)?;
        Ok(found.map(|view| {
            self.images.note_use(&view.id);
            LocalImage {
                id: view.id.to_string(),
                reference: view.reference().to_owned(),
                tag: view.repo_tags.first().cloned(),
                record: view.display_name().to_owned(),
                chain_id: chain_of(&view),
                is_artifact: view.is_artifact(),
                is_checkpoint: view.is_checkpoint,
                defaults: view.config.defaults.clone(),
            }
        }))
    }

    fn unpack<'a>(
        &'a self,
        image: &'a LocalImage,
        snapshotter: &'a str,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.unpack_local(&image.id, snapshotter))
    }

    fn checkpoint<'a>(
        &'a self,
        image: &'a LocalImage,
    ) -> BoxFuture<'a, Result<Vec<crate::image::Archive>>> {
        Box::pin(async move {
            match self.images.resolve_local(&image.id)? {
                Some(view) => self.images.checkpoint(&view).await,
                None => Err(removed_meanwhile(&image.id)),
            }
        })
    }
}

impl PauseImages for ImageDesk {
    fn have<'a>(
        &'a self,
        reference: &'a str,
        handler: &'a str,
    ) -> BoxFuture<'a, Result<LocalPauseImage>> {
        Box::pin(async move {
            match self.images.resolve_local(reference)? {
                None => {
                    let request = PullRequest {
                        reference: reference.to_owned(),
                        credentials: None,
                        runtime_handler: handler.to_owned(),
                    };
                    self.images.pull(request).await?;
                }
                // It came before it was chosen.
                Some(view) if !view.pinned => {
                    for name in view.repo_tags.iter().chain(&view.repo_digests) {
                        self.images.refresh(name).await?;
                    }
                }
                Some(_) => {}
            }
            let view = self
                .images
                .resolve_local(reference)?
                .ok_or_else(|| Error::not_found(format!("image {reference}: removed meanwhile")))?;
            if view.is_artifact() {
                return Err(Error::precondition(format!(
                    "image {reference}: it is an OCI artifact and cannot be run"
                )));
            }
            Ok(LocalPauseImage {
                id: view.id.to_string(),
                name: view.display_name().to_owned(),
                chain_id: chain_of(&view),
                defaults: view.config.defaults.clone(),
            })
        })
    }

    fn unpack<'a>(&'a self, id: &'a str, snapshotter: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.unpack_local(id, snapshotter))
    }
}

impl Archives for ImageDesk {
    fn export<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Pieces>> {
        Box::pin(self.images.export(reference))
    }

    fn import(&self, archive: Archive) -> BoxFuture<'_, Result<Imported>> {
        Box::pin(async move {
            let request = ImportRequest {
                reference: archive.reference,
                bytes: archive.bytes,
            };
            let made = self.images.import(request).await?;
            Ok(Imported {
                references: made.references,
                image_id: made.image_id,
                bytes: made.bytes,
            })
        })
    }
}

impl Mirrors for ImageDesk {
    fn mirrors(&self) -> Vec<HostReport> {
        self.images.mirrors()
    }
}

fn ordered(order: &PullOrder) -> Result<PullRequest> {
    let shows = !order.username.is_empty();
    let credentials = shows.then(|| {
        Credentials::parse(&AuthFields {
            username: order.username.clone(),
            password: order.password.clone(),
            ..AuthFields::default()
        })
    });
    Ok(PullRequest {
        reference: order.reference.clone(),
        credentials: credentials.transpose()?,
        runtime_handler: order.runtime_handler.clone(),
    })
}

impl Pulls for ImageDesk {
    fn pulls(&self) -> Vec<PullReport> {
        self.images.pulls()
    }

    fn progress(&self, order: &PullOrder) -> Option<PullReport> {
        self.images.progress_of(&ordered(order).ok()?)
    }

    fn pull(&self, order: PullOrder) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move { Ok(self.images.pull(ordered(&order)?).await?.to_string()) })
    }
}

impl Stock for ImageDesk {
    fn disk_usage(&self) -> Result<DiskUsage> {
        self.images.disk_usage()
    }

    fn prune(&self, request: PruneRequest) -> BoxFuture<'_, Result<Pruned>> {
        let images = self.images.clone();
        let work = async move { images.prune(request).await };
        Box::pin(self.supervisor.detached("PruneImages", work))
    }
}

impl ImageNews for ImageDesk {
    fn changed(&self, name: &str) {
        let (images, name) = (self.images.clone(), name.to_owned());
        self.again_and_again("refresh image", move || {
            let (images, name) = (images.clone(), name.clone());
            async move {
                let refreshed = images.refresh(&name).await;
                refreshed.context(|| format!("read the changed image record {name}"))
            }
        });
    }

    fn missed(&self) {
        let images = self.images.clone();
        self.again_and_again("reload images", move || {
            let images = images.clone();
            async move {
                images
                    .load()
                    .await
                    .context(|| "read the images again".to_owned())
            }
        });
    }
}

impl ImageDesk {
    /// Does `work` until it succeeds or fails for good: what the catalog misses, nobody tells it twice.
    fn again_and_again<F: Future<Output = Result<()>> + Send>(
        &self,
        name: &'static str,
        work: impl Fn() -> F + Send + 'static,
    ) {
        let stopping = self.supervisor.stopping().clone();
        self.supervisor.watch(name, async move {
            let mut wait = FIRST_WAIT;
            loop {
                match work().await {
                    Ok(()) => return,
                    Err(error) if !is_passing(error.kind()) => {
                        tracing::warn!(%error, "an image's record cannot be read");
                        return;
                    }
                    Err(error) => tracing::debug!(%error, ?wait, "it is tried again"),
                }
                let waited = stopping.run_until_cancelled(tokio::time::sleep(wait));
                if waited.await.is_none() {
                    return;
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        });
    }
}

/// Whether the same request may succeed later.
fn is_passing(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Unavailable | Kind::DeadlineExceeded | Kind::Cancelled | Kind::Aborted
    )
}
