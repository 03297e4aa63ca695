//! What containers need of images: the local one that a request names, ready to be run.

use futures::future::BoxFuture;

use crate::image::Archive;
use crate::index::ContainerImage;
use crate::model::{ImageDefaults, Result};

/// An image as a container's creation sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalImage {
    /// Digest of its configuration: the id that PullImage answered.
    pub id: String,
    /// Its first repo digest, else the id.
    pub reference: String,
    /// Its first tag; `None` where it has none.
    pub tag: Option<String>,
    /// Its name in containerd, a tag where it has one: what containerd's record of the container and the spec say.
    pub record: String,
    /// Chain ID of its top layer; empty for an image without layers.
    pub chain_id: String,
    /// It is an artifact: files for a volume, nothing that runs.
    pub is_artifact: bool,
    /// It is the checkpoint of a container, to be restored.
    pub is_checkpoint: bool,
    /// What its configuration says of processes.
    pub defaults: ImageDefaults,
}

impl From<&LocalImage> for ContainerImage {
    fn from(image: &LocalImage) -> Self {
        Self {
            id: image.id.clone(),
            reference: image.reference.clone(),
            name: image.tag.clone().unwrap_or_else(|| image.id.clone()),
        }
    }
}

/// The images that are here. `image` implements it through `server`.
pub trait LocalImages: Send + Sync {
    /// The image that `text` names: id, unique id prefix, tag or digest. Never pulls, asks nobody.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed or ambiguous reference.
    fn find(&self, text: &str) -> Result<Option<LocalImage>>;
    /// What a checkpoint's image holds, bottom first.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed or hostile layer; `FailedPrecondition` where one is not here any more.
    fn checkpoint<'a>(&'a self, image: &'a LocalImage) -> BoxFuture<'a, Result<Vec<Archive>>>;
    /// Unpacks it for `snapshotter`, where its top snapshot is not there.
    fn unpack<'a>(
        &'a self,
        image: &'a LocalImage,
        snapshotter: &'a str,
    ) -> BoxFuture<'a, Result<()>>;
}
