//! Images that hold no program but a container that was written down: a checkpoint's archive as their one layer, or in
//! parts as several (behaviour-node §1.5, "Restore").

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Images;
use super::archive::{Archive, plain_blocking};
use super::import::spool_file;
use super::unpack::BringLayer as _;
use super::view::ImageView;
use crate::containerd::write_blob;
use crate::model::{Context as _, Error, Result};
use crate::sys::off_thread;

/// What an entry's name begins with that takes a file of a lower layer away.
const WHITEOUT: &str = ".wh.";

impl Images {
    /// What the layers of a checkpoint's image hold, bottom first: what a later one has counts.
    ///
    /// # Errors
    /// `FailedPrecondition` where a blob is not here any more; `InvalidArgument` for a malformed or hostile layer;
    /// `ResourceExhausted` beyond `images.max_layer_bytes` and on a full disk; those of containerd.
    pub async fn checkpoint(&self, image: &ImageView) -> Result<Vec<Archive>> {
        let inner = &self.inner;
        let lease = inner.lease(&image.target.digest).await?;
        let config = inner.config.load();
        let limit = config.images.max_layer_bytes;
        let directory = config.server.root_dir.join("import");
        let here = inner.here(lease.id());
        let mut archives = Vec::new();
        for layer in &image.layers {
            let what = || format!("image {}: layer {}", image.id, layer.blob.digest);
            here.bring(&layer.blob).await.context(what)?;
            let file = self.spool(layer, &directory).await.context(what)?;
            let directory = directory.clone();
            let open = move || open_blocking(file, &directory, limit);
            let archive = off_thread("read a layer of a checkpoint", open).await;
            archives.push(archive.context(what)?);
        }
        lease.release().await;
        Ok(archives)
    }

    /// Brings the blob of a layer into a file without a name.
    async fn spool(&self, layer: &super::Layer, directory: &Path) -> Result<File> {
        let directory: PathBuf = directory.to_owned();
        let make = move || spool_file(&directory);
        let file = off_thread("make a file for a layer", make).await?;
        write_blob(&*self.inner.containerd.content, &layer.blob, file).await
    }
}

fn open_blocking(file: File, directory: &Path, limit: u64) -> Result<Archive> {
    let file = plain_blocking(file, || spool_file(directory), limit)?;
    let archive = Archive::open_blocking(file)?;
    let is_whiteout = |(name, _span): (&str, _)| {
        let last = name.rsplit('/').next().unwrap_or(name);
        last.starts_with(WHITEOUT)
    };
    let takes_away = archive.below("").any(is_whiteout);
    match takes_away {
        true => Err(Error::invalid(
            "it takes files of the layer below it away; make the image of a checkpoint in one layer",
        )),
        false => Ok(archive),
    }
}
