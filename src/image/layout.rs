//! What an image archive says it holds: an OCI layout, or the older listing of `docker save`, for which the manifest is
//! made here. Blocking; all of it is hostile.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::{Archive, Span};
use crate::model::{Classify, Descriptor, Digest, Error, Kind, Reference, Result};
use crate::registry::manifest::{Child, Document, MAX_CONFIG, MAX_MANIFEST, decode};
use crate::registry::platform::PlatformVector;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MAX_DOCKER_LAYERS: usize = 512;
/// Bytes per read.
pub(super) const CHUNK: usize = 1 << 20;

/// Where a blob's bytes are.
#[derive(Clone)]
pub(super) enum Source {
    InArchive(Span),
    Made(Bytes),
}

/// An archive understood: what it holds and what is to become of it.
pub(super) struct Contents {
    pub(super) archive: Arc<Archive>,
    pub(super) sources: HashMap<String, Source>,
    pub(super) target: Descriptor,
    pub(super) names: Vec<String>,
}

/// Reads what the archive lists. `name` stands in place of the names in it.
///
/// # Errors
/// `InvalidArgument` for what is no image archive, `NotFound` where nothing in it is for this machine.
pub(super) fn understand(
    archive: Arc<Archive>,
    platforms: &PlatformVector,
    name: Option<String>,
) -> Result<Contents> {
    let bad = |why: &str| Error::invalid(format!("image archive: {why}"));
    let mut sources = HashMap::new();
    for (rest, span) in archive.below("blobs/") {
        if let Some((algorithm, hex)) = rest.split_once('/') {
            sources.insert(format!("{algorithm}:{hex}"), Source::InArchive(span));
        }
    }
    if let Some(span) = archive.find("index.json") {
        let body = archive.read_blocking(span, MAX_MANIFEST)?;
        let index = Descriptor {
            media_type: INDEX.to_owned(),
            digest: Digest::sha256(&body),
            size: span.len,
            annotations: BTreeMap::new(),
        };
        let Document::Index(index) = decode(&index, &body)? else {
            return Err(bad("its index.json is no index"));
        };
        let target = only_image(&index.manifests, platforms)?;
        let names = match name {
            Some(name) => vec![name],
            None => names_of(&index.manifests, &target),
        };
        return Ok(Contents {
            archive,
            sources,
            target,
            names,
        });
    }
    let Some(span) = archive.find("manifest.json") else {
        return Err(bad(
            "it has neither index.json nor manifest.json; make it with an OCI tool or docker save",
        ));
    };
    docker(archive, span, sources, name)
}

/// The image for this machine. Indexes count once: those of one archive are different images.
fn only_image(children: &[Child], platforms: &PlatformVector) -> Result<Descriptor> {
    let fitting = platforms.choose(children);
    let best = fitting
        .first()
        .ok_or_else(|| Error::not_found(format!("image archive: nothing in it for {platforms}")))?;
    let named: BTreeSet<&Digest> = fitting
        .iter()
        .filter(|child| child.platform == best.platform)
        .map(|child| &child.descriptor.digest)
        .collect();
    if named.len() > 1 {
        return Err(Error::invalid(
            "image archive: it holds several images; save them one by one",
        ));
    }
    Ok(best.descriptor.clone())
}

/// The full names that the index gives to `target`.
fn names_of(children: &[Child], target: &Descriptor) -> Vec<String> {
    let names: BTreeSet<String> = children
        .iter()
        .filter(|child| child.descriptor.digest == target.digest)
        .filter_map(|child| {
            let annotations = &child.descriptor.annotations;
            // A bare tag names no repository, so only a name with a slash or a colon counts.
            let name = annotations.get(NAME).or_else(|| {
                annotations
                    .get(REF_NAME)
                    .filter(|name| name.contains(['/', ':']))
            })?;
            name.parse::<Reference>().ok()?.tag_ref()
        })
        .collect();
    names.into_iter().collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// An archive without an index: the manifest is made here from what `manifest.json` lists.
fn docker(
    archive: Arc<Archive>,
    listing: Span,
    mut sources: HashMap<String, Source>,
    name: Option<String>,
) -> Result<Contents> {
    let bad = |why: &str| Error::invalid(format!("image archive: {why}"));
    let body = archive.read_blocking(listing, MAX_MANIFEST)?;
    let mut images: Vec<DockerImage> = serde_json::from_slice(&body)
        .classify(Kind::InvalidArgument, || {
            "image archive: manifest.json".to_owned()
        })?;
    if images.len() != 1 {
        return Err(bad("it holds several images; save them one by one"));
    }
    let image = images.pop().ok_or_else(|| bad("it holds no image"))?;
    if image.layers.len() > MAX_DOCKER_LAYERS {
        return Err(bad("more than 512 layers"));
    }
    let missing = |name: &str| bad(&format!("{name:?} is listed and not there"));
    let span = archive
        .find(&image.config)
        .ok_or_else(|| missing(&image.config))?;
    let config = archive.read_blocking(span, MAX_CONFIG)?;
    let config_digest = Digest::sha256(&config);
    let mut layers = Vec::with_capacity(image.layers.len());
    sources.insert(config_digest.to_string(), Source::Made(config.into()));
    for layer in &image.layers {
        let span = archive.find(layer).ok_or_else(|| missing(layer))?;
        let (digest, is_gzip) = hash(&archive, span)?;
        sources.insert(digest.to_string(), Source::InArchive(span));
        let media_type = if is_gzip {
            format!("{LAYER}+gzip")
        } else {
            LAYER.to_owned()
        };
        layers
            .push(serde_json::json!({"mediaType": media_type, "digest": digest, "size": span.len}));
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config_digest, "size": span.len},
        "layers": layers,
    });
    let manifest = Bytes::from(manifest.to_string());
    let target = Descriptor {
        media_type: MANIFEST.to_owned(),
        digest: Digest::sha256(&manifest),
        size: u64::try_from(manifest.len()).unwrap_or(u64::MAX),
        annotations: BTreeMap::new(),
    };
    sources.insert(target.digest.to_string(), Source::Made(manifest));
    let names = match name {
        Some(name) => vec![name],
        None => image
            .repo_tags
            .unwrap_or_default()
            .iter()
            .filter_map(|tag| tag.parse::<Reference>().ok()?.tag_ref())
            .collect(),
    };
    Ok(Contents {
        archive,
        sources,
        target,
        names,
    })
}

fn hash(archive: &Archive, span: Span) -> Result<(Digest, bool)> {
    let mut hash = Sha256::new();
    let mut from = 0_u64;
    let mut is_gzip = false;
    loop {
        let bytes = archive.read_at(span, from, CHUNK)?;
        if bytes.is_empty() {
            return Ok((Digest::from_sha256(&hash.finalize()), is_gzip));
        }
        if from == 0 {
            is_gzip = bytes.starts_with(&[0x1f, 0x8b]);
        }
        hash.update(&bytes);
        from = from.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }
}
