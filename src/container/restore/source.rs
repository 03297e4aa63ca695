//! What a checkpoint says: its members, and the image that it was made on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::image::{Archive, Span};
use crate::model::{Classify as _, Context as _, Error, Kind, Result};
use crate::sys::errno::SysContext as _;
use crate::sys::files::open_regular_blocking;

use super::super::Containers;
use super::super::images::{LocalImage, LocalImages};

/// The largest archive.
const MAX_ARCHIVE: u64 = 64 << 30;
/// The largest document in one.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Where CRIU's files are.
const IMAGES: &str = "checkpoint/";
/// The longest name of one of them.
const MAX_NAME: usize = 255;
/// Without it there is nothing for CRIU to begin with.
const INVENTORY: &str = "inventory.img";
const SHA256: &str = "sha256:";

/// An opened checkpoint.
pub(in super::super) struct Checkpoint {
    /// What the request called it.
    pub(in super::super) from: String,
    /// Its parts; what a later one has counts.
    parts: Vec<Archive>,
    /// The image that it was made on, as it says.
    made_on: MadeOn,
}

/// The members of `config.dump` that are read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MadeOn {
    #[serde(default)]
    rootfs_image_ref: String,
}

impl Containers {
    /// Opens the archive at `path`.
    pub(super) async fn open_archive(&self, path: PathBuf, pod: &str) -> Result<Checkpoint> {
        let from = path.display().to_string();
        let what = format!("read checkpoint {from}");
        let open = move || {
            Ok(vec![
                open_blocking(&path).context(|| format!("checkpoint {}", path.display()))?,
            ])
        };
        let ceiling = self.deps.settings().operations.ceiling;
        let parts = self.deps.paths.run(pod, what, ceiling, open).await?;
        self.understand(from, parts, pod).await
    }

    /// Reads what the parts of a checkpoint say.
    pub(super) async fn understand(
        &self,
        from: String,
        parts: Vec<Archive>,
        pod: &str,
    ) -> Result<Checkpoint> {
        let what = format!("read checkpoint {from}");
        let ceiling = self.deps.settings().operations.ceiling;
        let read = move || Checkpoint::read_blocking(from, parts);
        self.deps.paths.run(pod, what, ceiling, read).await
    }
}

fn open_blocking(path: &Path) -> Result<Archive> {
    let file = open_regular_blocking(path)?;
    let size = file.metadata().sys(|| "look at it".to_owned())?.len();
    match size > MAX_ARCHIVE {
        true => Err(Error::invalid(format!(
            "{size} bytes, more than {MAX_ARCHIVE}"
        ))),
        false => Archive::open_blocking(file),
    }
}

impl Checkpoint {
    pub(super) fn read_blocking(from: String, parts: Vec<Archive>) -> Result<Self> {
        let mut checkpoint = Self {
            from,
            parts,
            made_on: MadeOn::default(),
        };
        let made_on = checkpoint.check_blocking();
        checkpoint.made_on = made_on.context(|| format!("checkpoint {}", checkpoint.from))?;
        Ok(checkpoint)
    }

    fn check_blocking(&self) -> Result<MadeOn> {
        if self.parts.iter().any(Archive::has_links) {
            return Err(Error::invalid("it holds links; want plain files alone"));
        }
        if !self.images()?.contains_key(INVENTORY) {
            return Err(Error::invalid(format!("it has no {IMAGES}{INVENTORY}")));
        }
        let missing = |member| Error::invalid(format!("it has no {member}"));
        self.document("spec.dump")?
            .ok_or_else(|| missing("spec.dump"))?;
        let config = self.document_blocking("config.dump")?;
        let config = config.ok_or_else(|| missing("config.dump"))?;
        serde_json::from_slice(&config).classify(Kind::InvalidArgument, || "config.dump".to_owned())
    }

    /// CRIU's files by name.
    pub(super) fn images(&self) -> Result<BTreeMap<&str, (&Archive, Span)>> {
        let mut images = BTreeMap::new();
        for part in &self.parts {
            for (name, span) in part.below(IMAGES) {
                if name.contains('/') || name.is_empty() || name.len() > MAX_NAME {
                    return Err(Error::invalid(format!(
                        "{IMAGES}{name}: want plain files in one directory"
                    )));
                }
                images.insert(name, (part, span));
            }
        }
        Ok(images)
    }

    /// The member of this name.
    pub(super) fn member(&self, name: &str) -> Option<(&Archive, Span)> {
        let mut newest_first = self.parts.iter().rev();
        newest_first.find_map(|part| Some((part, part.find(name)?)))
    }

    /// A member that is short enough to be read whole.
    fn document(&self, name: &str) -> Result<Option<(&Archive, Span)>> {
        match self.member(name) {
            Some((_part, span)) if span.len > MAX_DOCUMENT => Err(Error::invalid(format!(
                "{name}: {} bytes, more than {MAX_DOCUMENT}",
                span.len
            ))),
            found => Ok(found),
        }
    }

    /// What such a member says.
    pub(super) fn document_blocking(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let found = self.document(name)?;
        let read = found.map(|(part, span)| part.read_blocking(span, MAX_DOCUMENT));
        read.transpose()
    }

    /// The image below it, which must be here. It is looked up by digest alone: a name could be anybody's by now, and
    /// nothing is pulled or named for a checkpoint (CVE-2026-50195).
    pub(super) fn base(&self, images: &dyn LocalImages) -> Result<LocalImage> {
        let named = &self.made_on.rootfs_image_ref;
        let Some(digest) = digest_in(named) else {
            return Err(Error::invalid(format!(
                "checkpoint {}: config.dump names its image by {named:?}, not by a digest",
                self.from
            )));
        };
        let by_id = images.find(&digest)?;
        let found = match by_id {
            None if named.contains('@') => images.find(named)?,
            found => found,
        };
        found
            .filter(|image| !image.is_artifact && !image.is_checkpoint)
            .ok_or_else(|| {
                Error::not_found(format!(
                    "checkpoint {}: it was made on image {named}, which is not on this node; pull that first",
                    self.from
                ))
            })
    }

    /// Whether it was made on `image`.
    ///
    /// # Errors
    /// `FailedPrecondition` where it was made on another one.
    pub(super) fn ensure_made_on(
        &self,
        image: &LocalImage,
        images: &dyn LocalImages,
    ) -> Result<()> {
        let base = self.base(images)?;
        match base.id == image.id {
            true => Ok(()),
            false => Err(Error::precondition(format!(
                "checkpoint {}: it was made on image {}, not on {}",
                self.from, base.id, image.id
            ))),
        }
    }
}

/// The digest by which a checkpoint names its image: an id with or without the algorithm, or what follows a repository.
fn digest_in(text: &str) -> Option<String> {
    let digest = text.rsplit_once('@').map_or(text, |(_, digest)| digest);
    let hex = digest.strip_prefix(SHA256).unwrap_or(digest);
    let is_hex = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| format!("{SHA256}{hex}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_digest_or_not_at_all() {
        let hex = "0f".repeat(32);
        let id = format!("sha256:{hex}");
        for text in [hex.clone(), id.clone(), format!("docker.io/a/b@{id}")] {
            assert_eq!(digest_in(&text).as_ref(), Some(&id), "{text}");
        }
        for text in ["", "good/app:1", "sha256:0f", &hex.to_uppercase()] {
            assert_eq!(digest_in(text), None, "{text}");
        }
    }
}
