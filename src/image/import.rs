//! ImportImage: an OCI archive, or one that `docker save` wrote, becomes a local image. The bytes go to a file first,
//! because an archive tells only at its end what its blobs are.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use tokio::io::AsyncWriteExt as _;

use super::Images;
use super::archive::{self, Archive, Span};
use super::facts::{Documents, Facts};
use super::labels;
use super::layout::{CHUNK, Contents, Source, understand};
use super::store::Store;
use super::unpack::BringLayer;
use crate::containerd::WriteStart;
use crate::model::{Classify, Context, Descriptor, Digest, Error, Kind, Reference, Result};
use crate::registry::manifest::{MediaKind, decode, matches, media_kind};
use crate::sys::files;

const OPERATION: &str = "ImportImage";

/// An archive on its way in.
pub struct ImportRequest {
    /// Name in place of those in the archive.
    pub reference: Option<String>,
    /// The archive, in order.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

/// What an import made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Names that now point at the image.
    pub references: Vec<String>,
    /// Its id.
    pub image_id: Digest,
    /// Bytes received.
    pub bytes: u64,
}

impl Images {
    /// Imports one image. Dropping the future calls the import off; what was stored goes with its lease.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed or hostile archive, `NotFound` where it holds nothing for this machine.
    pub async fn import(&self, request: ImportRequest) -> Result<Imported> {
        let name = match &request.reference {
            None => None,
            Some(text) => Some(import_name(text)?),
        };
        let object = name.clone().unwrap_or_else(|| "an archive".to_owned());
        let operation = self.inner.live.begin(OPERATION, object);
        operation.step("receive");
        operation.patiently();
        let config = self.inner.config.load();
        let limit = config.images.max_layer_bytes;
        let directory = config.server.root_dir.join("import");
        let (file, bytes) = receive(request.bytes, &directory, limit).await?;
        operation.step("read");
        let platforms = self.inner.platforms.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let spare = || spool_file(&directory);
            let file = archive::plain_blocking(file, spare, limit)?;
            understand(Arc::new(Archive::open_blocking(file)?), &platforms, name)
        });
        let contents = reading
            .await
            .classify(Kind::Internal, || "read the image archive".to_owned())??;
        operation.object(contents.names.first().map_or("an archive", String::as_str));
        operation.step("store");
        let id = self.store_contents(&contents).await?;
        Ok(Imported {
            references: contents.names,
            image_id: id,
            bytes,
        })
    }

    async fn store_contents(&self, contents: &Contents) -> Result<Digest> {
        let lease = self.inner.lease(&contents.target.digest).await?;
        let store = self.inner.store(lease.id());
        let bring = FromArchive {
            store: &store,
            contents,
        };
        let facts = Facts::read(&bring, &contents.target, &self.inner.platforms).await?;
        let facts = Arc::new(facts);
        let snapshotter = self.snapshotter_of("")?;
        let plugins = self.inner.plugins().await;
        let unpack = self.inner.unpack(lease.id(), &snapshotter, &plugins);
        unpack
            .run(&facts.id, &facts.layers, &bring, 2)
            .await
            .context(|| "import image".to_owned())?;
        let mut names = contents.names.clone();
        names.push(facts.id.to_string());
        self.write_records(&facts, &names, Some(lease.id())).await?;
        lease.release().await;
        self.note_use(&facts.id);
        Ok(facts.id.clone())
    }
}

fn import_name(text: &str) -> Result<String> {
    let reference: Reference = text.parse()?;
    reference.tag_ref().ok_or_else(|| {
        Error::invalid(format!(
            "image reference {text:?}: an import needs a tag, since the archive decides the digest"
        ))
    })
}

/// A file that only we see, in a directory that only we enter.
pub(super) fn spool_file(directory: &Path) -> Result<File> {
    files::make_dir_blocking(directory, 0o700)?;
    files::unnamed_file_blocking(directory)
}

async fn receive(
    mut bytes: BoxStream<'static, Result<Bytes>>,
    directory: &Path,
    limit: u64,
) -> Result<(File, u64)> {
    let directory: PathBuf = directory.to_owned();
    let made = tokio::task::spawn_blocking(move || spool_file(&directory)).await;
    let file = made.classify(Kind::Internal, || "receive the image archive".to_owned())??;
    let mut file = tokio::fs::File::from_std(file);
    let mut received = 0_u64;
    let failed = || "receive the image archive".to_owned();
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        received = received.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if received > limit {
            return Err(Error::exhausted(format!(
                "image archive: larger than {limit} bytes (images.max_layer_bytes)"
            )));
        }
        file.write_all(&chunk)
            .await
            .classify(Kind::ResourceExhausted, failed)?;
    }
    file.flush()
        .await
        .classify(Kind::ResourceExhausted, failed)?;
    Ok((file.into_std().await, received))
}

/// Documents and layers out of the archive, into the content store.
struct FromArchive<'a> {
    store: &'a Store<'a>,
    contents: &'a Contents,
}

impl FromArchive<'_> {
    fn source(&self, digest: &Digest) -> Result<Source> {
        let found = self.contents.sources.get(digest.as_str()).cloned();
        found.ok_or_else(|| {
            Error::invalid(format!(
                "image archive: blob {digest} is referred to and not there"
            ))
        })
    }

    async fn read_at(&self, span: Span, from: u64) -> Result<Bytes> {
        let archive = Arc::clone(&self.contents.archive);
        let reading = tokio::task::spawn_blocking(move || archive.read_at(span, from, CHUNK));
        let read = reading.await;
        Ok(read
            .classify(Kind::Internal, || "read the image archive".to_owned())??
            .into())
    }
}

impl Documents for FromArchive<'_> {
    fn document<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        limit: u64,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let bytes = match self.source(&descriptor.digest)? {
                Source::Made(bytes) => bytes,
                Source::InArchive(span) => {
                    let archive = Arc::clone(&self.contents.archive);
                    let read =
                        tokio::task::spawn_blocking(move || archive.read_blocking(span, limit))
                            .await;
                    read.classify(Kind::Internal, || "read the image archive".to_owned())??
                        .into()
                }
            };
            let is_size = u64::try_from(bytes.len()).is_ok_and(|len| len == descriptor.size);
            if !is_size || !matches(&descriptor.digest, &bytes) {
                return Err(Error::invalid(format!(
                    "image archive: blob {} has not the size and digest that it is known by",
                    descriptor.digest
                )));
            }
            let labels = match media_kind(&descriptor.media_type) {
                MediaKind::Index | MediaKind::Manifest => {
                    labels::children(&decode(descriptor, &bytes)?)
                }
                MediaKind::Config | MediaKind::Layer | MediaKind::Other => BTreeMap::new(),
            };
            self.store.put(descriptor, bytes.clone(), labels).await?;
            Ok(bytes)
        })
    }
}

impl BringLayer for FromArchive<'_> {
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let span = match self.source(&layer.digest)? {
                Source::Made(bytes) => return self.store.put(layer, bytes, BTreeMap::new()).await,
                Source::InArchive(span) => span,
            };
            let mut writer = match self.store.open(layer).await? {
                WriteStart::Present => return Ok(()),
                WriteStart::Open(writer) => writer,
            };
            if writer.offset() > 0 {
                writer.truncate().await?;
            }
            let mut from = 0_u64;
            while from < span.len {
                let bytes = self.read_at(span, from).await?;
                from = from.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                writer.write(bytes).await?;
            }
            writer
                .commit(BTreeMap::new())
                .await
                .map_err(|error| error.context(format!("image archive: blob {}", layer.digest)))
        })
    }
}
