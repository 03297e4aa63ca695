//! What Debian's docker-registry serves: its storage, filled without asking it, and its settings.

use std::fs;
use std::path::{Path, PathBuf};

use podwright::model::Digest;

use crate::case::Outcome;

/// One repository in the storage of a registry.
pub(crate) struct Repository {
    blobs: PathBuf,
    folder: PathBuf,
}

impl Repository {
    /// `name` in the storage at `storage`; neither needs to be there.
    pub(crate) fn new(storage: &Path, name: &str) -> Self {
        let root = storage.join("docker/registry/v2");
        Self {
            blobs: root.join("blobs/sha256"),
            folder: root.join("repositories").join(name),
        }
    }

    /// Keeps a layer, a configuration or a manifest; returns its digest.
    pub(crate) fn keep(&self, bytes: &[u8]) -> Outcome<String> {
        let digest = Digest::sha256(bytes).to_string();
        let hex = hex(&digest);
        let blob = self.blobs.join(hex.get(..2).unwrap_or_default()).join(hex);
        fs::create_dir_all(&blob)?;
        fs::write(blob.join("data"), bytes)?;
        link(&self.folder.join("_layers/sha256").join(hex), &digest)?;
        Ok(digest)
    }

    /// Points a tag to a manifest that is kept.
    pub(crate) fn tag(&self, tag: &str, manifest: &str) -> Outcome {
        let hex = hex(manifest);
        let manifests = self.folder.join("_manifests");
        link(&manifests.join("revisions/sha256").join(hex), manifest)?;
        let tag = manifests.join("tags").join(tag);
        link(&tag.join("current"), manifest)?;
        link(&tag.join("index/sha256").join(hex), manifest)
    }
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn link(folder: &Path, digest: &str) -> Outcome {
    fs::create_dir_all(folder)?;
    Ok(fs::write(folder.join("link"), digest)?)
}

/// The registry's settings: this storage, at this address.
pub(crate) fn settings(storage: &Path, address: &str) -> String {
    format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        storage.display()
    )
}
