//! From a target to the one image in it that this machine runs: index, manifest, configuration.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::artifact;
use super::config_blob::ImageConfig;
use crate::containerd::Content;
use crate::model::{Descriptor, Digest, Error, Result};
use crate::registry::manifest::{
    self, Document, MAX_CONFIG, MAX_DEPTH, MAX_MANIFEST, Manifest, MediaKind, media_kind,
};
use crate::registry::platform::PlatformVector;

const OLD_CONFIG: &str = "application/octet-stream";

/// What the tools that make images of checkpoints say of them: CRI-O's way, and that of containerd 2.1 to 2.3.
const CHECKPOINT: [&str; 2] = [
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "org.criu.checkpoint.container.name",
];

/// One layer: the blob and what it unpacks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The compressed blob.
    pub blob: Descriptor,
    /// Digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Name of the snapshot that it completes.
    pub chain_id: Digest,
    /// Its path, where it is no layer but a file of an artifact; empty for one without a name.
    pub file: Option<String>,
}

/// Everything that a target's documents tell about the image.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Digest of the configuration: the image's id. Artifacts share empty ones, so theirs is the manifest's.
    pub(super) id: Digest,
    /// Digest of the configuration.
    pub(super) config_digest: Digest,
    /// Index or manifest.
    pub(super) target: Descriptor,
    /// The manifest that was chosen; the target's own digest where that is no index.
    pub(super) manifest: Digest,
    pub(super) config: ImageConfig,
    pub(super) config_json: Bytes,
    pub(super) layers: Vec<Layer>,
    /// It says of itself that it is a container's checkpoint.
    pub(super) is_checkpoint: bool,
    /// Target, manifest, configuration and layers together, present or not.
    pub(super) size: u64,
}

/// Where documents come from: the content store alone, or the registry by way of it.
pub(super) trait Documents: Send + Sync {
    /// The whole document, at most `limit` bytes. `is_manifest` says whether its children are to be kept with it.
    fn document<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        limit: u64,
    ) -> BoxFuture<'a, Result<Bytes>>;
}

/// Documents that are in the content store already.
pub(super) struct Stored<'a>(pub(super) &'a dyn Content);

impl Documents for Stored<'_> {
    fn document<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        limit: u64,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move { Ok(self.0.read(&descriptor.digest, limit).await?.into()) })
    }
}

impl Facts {
    /// Reads the documents of `target`, choosing by platform.
    ///
    /// # Errors
    /// Those of `documents`, and `InvalidArgument` or `NotFound` where there is no image for this machine in it.
    pub(super) async fn read(
        documents: &dyn Documents,
        target: &Descriptor,
        platforms: &PlatformVector,
    ) -> Result<Self> {
        let chosen = choose(documents, target, platforms).await?;
        let config_blob = &chosen.manifest.config;
        let is_config = media_kind(&config_blob.media_type) == MediaKind::Config
            || config_blob.media_type == OLD_CONFIG;
        if !is_config {
            let layers = artifact::layers(&target.digest, &chosen.manifest)?;
            // What is in it is the artifact's business; it goes wherever the artifact goes.
            documents.document(config_blob, MAX_CONFIG).await?;
            return Ok(chosen.told(target, ImageConfig::default(), Bytes::new(), layers));
        }
        let config_json = documents.document(config_blob, MAX_CONFIG).await?;
        let config = ImageConfig::parse(&config_blob.digest, &config_json)?;
        if chosen.check_platform && platforms.rank(&config.platform).is_none() {
            return Err(no_match(target, platforms));
        }
        let layers = layers(&chosen.manifest, &config)?;
        Ok(chosen.told(target, config, config_json, layers))
    }

    /// The name of the snapshot that containers start from; `None` for an image without layers.
    pub(super) fn chain_id(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }
}

struct Chosen {
    descriptor: Descriptor,
    manifest: Manifest,
    /// The index did not say what it runs on.
    check_platform: bool,
    is_checkpoint: bool,
}

impl Chosen {
    fn told(
        self,
        target: &Descriptor,
        config: ImageConfig,
        config_json: Bytes,
        layers: Vec<Layer>,
    ) -> Facts {
        let config_blob = &self.manifest.config;
        let mut size = config_blob.size;
        for part in std::iter::once(&self.descriptor).chain(&self.manifest.layers) {
            size = size.saturating_add(part.size);
        }
        if self.descriptor.digest != target.digest {
            size = size.saturating_add(target.size);
        }
        let id = if artifact::is_one(&layers) {
            &self.descriptor.digest
        } else {
            &config_blob.digest
        };
        Facts {
            id: id.clone(),
            config_digest: config_blob.digest.clone(),
            target: target.clone(),
            manifest: self.descriptor.digest,
            config,
            config_json,
            layers,
            is_checkpoint: self.is_checkpoint,
            size,
        }
    }
}

async fn choose(
    documents: &dyn Documents,
    target: &Descriptor,
    platforms: &PlatformVector,
) -> Result<Chosen> {
    let mut descriptor = target.clone();
    let mut check_platform = false;
    let mut is_checkpoint = false;
    let mut note = |annotations: &BTreeMap<String, String>| {
        is_checkpoint |= CHECKPOINT.iter().any(|key| annotations.contains_key(*key));
        is_checkpoint
    };
    for _depth in 0..MAX_DEPTH {
        let body = documents.document(&descriptor, MAX_MANIFEST).await?;
        match manifest::decode(&descriptor, &body)? {
            Document::Manifest(manifest) => {
                return Ok(Chosen {
                    descriptor,
                    is_checkpoint: note(&manifest.annotations),
                    manifest,
                    check_platform,
                });
            }
            Document::Index(index) => {
                note(&index.annotations);
                let best = platforms.choose(&index.manifests);
                let best = best.first().ok_or_else(|| no_match(target, platforms))?;
                check_platform = best.platform.is_none();
                descriptor = best.descriptor.clone();
            }
        }
    }
    Err(Error::invalid(format!(
        "{}: indexes nested deeper than {MAX_DEPTH}",
        target.digest
    )))
}

fn no_match(target: &Descriptor, platforms: &PlatformVector) -> Error {
    Error::not_found(format!(
        "{}: no match for platform in manifest; this machine runs {platforms}",
        target.digest
    ))
}

fn layers(manifest: &Manifest, config: &ImageConfig) -> Result<Vec<Layer>> {
    if manifest.layers.len() != config.diff_ids.len() {
        return Err(Error::invalid(format!(
            "image {}: {} layers but {} diff ids",
            manifest.config.digest,
            manifest.layers.len(),
            config.diff_ids.len()
        )));
    }
    let parts = manifest.layers.iter().zip(&config.diff_ids);
    parts
        .zip(config.chain_ids())
        .map(|((blob, diff_id), chain_id)| {
            if media_kind(&blob.media_type) != MediaKind::Layer {
                return Err(Error::invalid(format!(
                    "image {}: layer {} is of a type that cannot be unpacked",
                    manifest.config.digest, blob.digest
                )));
            }
            if blob.media_type.ends_with("+encrypted") {
                return Err(Error::unimplemented(format!(
                    "image {}: layer {} is encrypted; encrypted images are not supported",
                    manifest.config.digest, blob.digest
                )));
            }
            Ok(Layer {
                blob: blob.clone(),
                diff_id: diff_id.clone(),
                chain_id,
                file: None,
            })
        })
        .collect()
}
