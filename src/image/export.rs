//! ExportImage: a local image as an OCI archive that Docker reads too. The bytes are made as they are sent: whatever
//! the image's size, one piece of it is in memory.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use serde_json::{Value, json};

use super::Images;
use super::facts::Facts;
use crate::containerd::Content;
use crate::model::{Classify as _, Digest, Error, Kind, Result};
use crate::registry::manifest::MAX_MANIFEST;

/// Bytes of a blob in one piece.
const PIECE: u64 = 1 << 20;
/// A tar archive's unit.
const BLOCK: u64 = 512;
/// What an archive ends with.
const END: [u8; 1024] = [0; 1024];
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the archive still consists of.
enum Part {
    Bytes(Bytes),
    /// A blob from `offset` to `size`, and the padding behind it.
    Blob {
        digest: Digest,
        offset: u64,
        size: u64,
    },
}

impl Images {
    /// The image that `text` names, as an archive, in order. Dropping the stream ends the export. Of an index, what is
    /// for this machine.
    ///
    /// # Errors
    /// `NotFound` for an unknown image; `FailedPrecondition` where a blob of it is not here. The stream itself fails
    /// where the image is removed meanwhile.
    pub async fn export(&self, text: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let view = self
            .resolve_local(text)?
            .ok_or_else(|| Error::not_found(format!("image {text}: not on this node")))?;
        let facts = self
            .inner
            .catalog
            .facts_of(&view.target.digest)
            .ok_or_else(|| Error::not_found(format!("image {text}: removed meanwhile")))?;
        let names = match view.repo_tags.iter().find(|tag| tag.as_str() == text) {
            Some(tag) => vec![tag.clone()],
            None => view.repo_tags.clone(),
        };
        let content = Arc::clone(&self.inner.containerd.content);
        let parts = parts(&*content, &facts, &names).await?;
        let operation = self.inner.live.begin("ExportImage", text);
        let pieces = futures::stream::try_unfold(parts, move |mut parts| {
            let (content, operation) = (Arc::clone(&content), operation.clone());
            async move {
                operation.step("send");
                operation.patiently();
                let piece = next(&*content, &mut parts).await?;
                Ok(piece.map(|piece| (piece, parts)))
            }
        });
        Ok(pieces.boxed())
    }
}

async fn parts(content: &dyn Content, facts: &Facts, names: &[String]) -> Result<VecDeque<Part>> {
    let manifest = content.read(&facts.manifest, MAX_MANIFEST).await?;
    let size = u64::try_from(manifest.len()).unwrap_or(u64::MAX);
    let config = content.info(&facts.config_digest).await;
    let config = config.map_err(|error| missing(&facts.config_digest, error))?;
    let config = (config.digest, config.size);
    let mut blobs = vec![(facts.manifest.clone(), size), config];
    for layer in &facts.layers {
        blobs.push((layer.blob.digest.clone(), layer.blob.size));
    }
    let mut seen = HashSet::new();
    blobs.retain(|(digest, _size)| seen.insert(digest.clone()));
    let index = index(facts, names, &manifest, size);
    let docker = json!([{
        "Config": path(&facts.config_digest),
        "RepoTags": names,
        "Layers": facts.layers.iter().map(|layer| path(&layer.blob.digest)).collect::<Vec<_>>(),
    }]);
    let mut parts = VecDeque::new();
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    for (name, document) in [
        ("oci-layout", &layout),
        ("index.json", &index),
        ("manifest.json", &docker),
    ] {
        let text =
            serde_json::to_vec(document).classify(Kind::Internal, || format!("encode {name}"))?;
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        parts.push_back(Part::Bytes(header(name, size)?));
        parts.push_back(Part::Bytes(padded(text)));
    }
    for (digest, size) in blobs {
        let found = content
            .info(&digest)
            .await
            .map_err(|error| missing(&digest, error))?;
        if found.size != size {
            return Err(Error::precondition(format!(
                "blob {digest}: it has {} bytes here and not {size}",
                found.size
            )));
        }
        parts.push_back(Part::Bytes(header(&path(&digest), size)?));
        parts.push_back(Part::Blob {
            digest,
            offset: 0,
            size,
        });
    }
    parts.push_back(Part::Bytes(Bytes::from_static(&END)));
    Ok(parts)
}

/// One entry a name; without a name, one.
fn index(facts: &Facts, names: &[String], manifest: &[u8], size: u64) -> Value {
    let parsed: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let media_type = parsed.get("mediaType").and_then(Value::as_str);
    let entry = |name: Option<&String>| {
        let mut entry = json!({
            "mediaType": media_type.unwrap_or(OCI_MANIFEST),
            "digest": facts.manifest,
            "size": size,
        });
        if let (Some(name), Some(entry)) = (name, entry.as_object_mut()) {
            let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
            let annotations = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            });
            entry.insert("annotations".into(), annotations);
        }
        entry
    };
    let entries: Vec<Value> = if names.is_empty() {
        vec![entry(None)]
    } else {
        names.iter().map(|name| entry(Some(name))).collect()
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    })
}

/// The next piece of the archive; `None` after the last.
async fn next(content: &dyn Content, parts: &mut VecDeque<Part>) -> Result<Option<Bytes>> {
    match parts.pop_front() {
        None => Ok(None),
        Some(Part::Bytes(bytes)) => Ok(Some(bytes)),
        Some(Part::Blob {
            digest,
            offset,
            size,
        }) => {
            let wanted = size.saturating_sub(offset).min(PIECE);
            let mut piece = content
                .read_part(&digest, offset, wanted)
                .await
                .map_err(|error| missing(&digest, error))?;
            let offset = offset.saturating_add(wanted);
            if offset < size {
                parts.push_front(Part::Blob {
                    digest,
                    offset,
                    size,
                });
            } else {
                piece.resize(piece.len().saturating_add(padding(size)), 0);
            }
            Ok(Some(piece.into()))
        }
    }
}

fn missing(digest: &Digest, error: Error) -> Error {
    if error.is_not_found() {
        return Error::precondition(format!(
            "blob {digest}: it is not on this node any more; pull the image again"
        ));
    }
    error.context(format!("read blob {digest}"))
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn padding(size: u64) -> usize {
    let over = size % BLOCK;
    usize::try_from((BLOCK - over) % BLOCK).unwrap_or(0)
}

fn padded(mut bytes: Vec<u8>) -> Bytes {
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    bytes.resize(bytes.len().saturating_add(padding(size)), 0);
    bytes.into()
}

/// The head of a plain file that belongs to root and is as old as the epoch: equal images make equal archives.
fn header(name: &str, size: u64) -> Result<Bytes> {
    let mut header = tar::Header::new_ustar();
    header
        .set_path(name)
        .classify(Kind::Internal, || format!("name an archive's entry {name}"))?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}
