//! Putting blobs into containerd's content store, from memory or straight from a registry: each byte crosses memory
//! once, size and digest are checked by the store before the blob exists, and a broken transfer goes on where it broke.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::Inner;
use super::labels;
use super::locks::Locks;
use super::progress::{LayerState, Meter};
use super::throttle::Throttle;
use crate::containerd::{Containerd, ContentWriter, LeaseId, WriteRequest, WriteStart};
use crate::model::{Context, Descriptor, Error, Kind, Reference, Result};
use crate::registry::{Blob, Repository};

/// Bytes per write call.
const CHUNK: usize = 1 << 20;
/// Chunks read ahead of the write in flight.
const AHEAD: usize = 2;
const FIRST_WAIT: Duration = Duration::from_millis(8);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How long another client may hold an ingest that we need.
const FOREIGN_WRITER: Duration = Duration::from_secs(600);

/// The content store as one operation writes to it: under its lease.
pub(super) struct Store<'a> {
    containerd: &'a Containerd,
    locks: &'a Locks,
    lease: &'a LeaseId,
    throttle: &'a Throttle,
}

impl Inner {
    /// The content store for an operation with this lease.
    pub(super) fn store<'a>(&'a self, lease: &'a LeaseId) -> Store<'a> {
        Store {
            containerd: &self.containerd,
            locks: &self.locks,
            lease,
            throttle: &self.throttle,
        }
    }
}

impl Store<'_> {
    /// Makes sure that the blob is there with these labels, fetching it from `repository` if need be.
    ///
    /// # Errors
    /// Those of the registry and of containerd; `Aborted` where the bytes have not the size and digest promised.
    pub(super) async fn fetch(
        &self,
        descriptor: &Descriptor,
        repository: &Repository,
        meter: &Meter<'_>,
        on_registry_error: impl Fn(Error) -> Error,
    ) -> Result<()> {
        let _turn = self.locks.hold(descriptor.digest.as_str()).await;
        let mut writer = match self.open(descriptor).await? {
            WriteStart::Present => {
                meter.state(LayerState::Fetched);
                return self.note_source(descriptor, repository.reference()).await;
            }
            WriteStart::Open(writer) => writer,
        };
        if writer.offset() > descriptor.size {
            writer.truncate().await?;
        }
        let resumed = writer.offset() > 0;
        let blob = repository.blob(descriptor.clone(), writer.offset());
        meter.begin(writer.offset());
        self.copy(blob, &mut *writer, meter, &on_registry_error)
            .await?;
        let labels = labels::source(repository.reference(), &BTreeMap::new());
        let committed = match writer.commit(labels.clone()).await {
            Err(error) if error.kind() == Kind::FailedPrecondition && resumed => {
                // What lay there from before was not the beginning of this blob; the store has thrown it away.
                tracing::info!(digest = %descriptor.digest, "a resumed blob did not fit: fetching it whole");
                let WriteStart::Open(mut writer) = self.open(descriptor).await? else {
                    return Ok(());
                };
                let blob = repository.blob(descriptor.clone(), writer.offset());
                meter.begin(writer.offset());
                self.copy(blob, &mut *writer, meter, &on_registry_error)
                    .await?;
                writer
                    .commit(labels)
                    .await
                    .map_err(|error| mismatch(descriptor, error))
            }
            result => result.map_err(|error| mismatch(descriptor, error)),
        };
        committed.inspect(|()| meter.state(LayerState::Fetched))
    }

    /// Makes sure that a blob whose bytes are at hand is there with these labels.
    ///
    /// # Errors
    /// Those of containerd.
    pub(super) async fn put(
        &self,
        descriptor: &Descriptor,
        bytes: Bytes,
        labels: BTreeMap<String, String>,
    ) -> Result<()> {
        let _turn = self.locks.hold(descriptor.digest.as_str()).await;
        match self.open(descriptor).await? {
            WriteStart::Present => {
                self.containerd
                    .content
                    .label(&descriptor.digest, labels)
                    .await
            }
            WriteStart::Open(mut writer) => {
                if writer.offset() > 0 {
                    writer.truncate().await?;
                }
                for start in (0..bytes.len()).step_by(CHUNK) {
                    let end = start.saturating_add(CHUNK).min(bytes.len());
                    writer.write(bytes.slice(start..end)).await?;
                }
                writer
                    .commit(labels)
                    .await
                    .map_err(|error| mismatch(descriptor, error))
            }
        }
    }

    /// The bytes of a small blob, if it is there; it is under the lease then.
    ///
    /// # Errors
    /// Those of containerd.
    pub(super) async fn present(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Option<Bytes>> {
        match self.open(descriptor).await? {
            WriteStart::Present => {
                let bytes = self
                    .containerd
                    .content
                    .read(&descriptor.digest, limit)
                    .await?;
                Ok(Some(bytes.into()))
            }
            WriteStart::Open(_) => Ok(None),
        }
    }

    /// Opens the ingest, waiting while another client writes the same blob.
    pub(super) async fn open(&self, descriptor: &Descriptor) -> Result<WriteStart> {
        let request = WriteRequest {
            ingest: labels::ingest(descriptor),
            size: descriptor.size,
            expected: descriptor.digest.clone(),
            lease: self.lease.clone(),
        };
        let began = tokio::time::Instant::now();
        let mut wait = FIRST_WAIT;
        loop {
            match self.containerd.content.open(&request).await {
                Err(error) if error.kind() == Kind::Unavailable => {
                    // The same code says "another writer" and "containerd is away"; only the first is worth waiting.
                    self.containerd.introspection.version().await?;
                    if began.elapsed() > FOREIGN_WRITER {
                        return Err(error.context(format!("write blob {}", descriptor.digest)));
                    }
                    tokio::time::sleep(wait).await;
                    wait = wait.saturating_mul(2).min(LONGEST_WAIT);
                }
                result => {
                    return result.context(|| format!("write blob {}", descriptor.digest));
                }
            }
        }
    }

    /// Copies the rest of a blob. The network is read while a write is in flight.
    async fn copy(
        &self,
        mut blob: Blob,
        writer: &mut dyn ContentWriter,
        meter: &Meter<'_>,
        on_registry_error: &impl Fn(Error) -> Error,
    ) -> Result<()> {
        let (tx, mut rx) = mpsc::channel::<Bytes>(AHEAD);
        let read = async move {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            while let Some(bytes) = blob.next().await.map_err(on_registry_error)? {
                meter.received(bytes.len() as u64, blob.host());
                chunk.extend_from_slice(&bytes);
                if chunk.len() >= CHUNK {
                    let sent = tokio::select! {
                        sent = tx.send(chunk.split().freeze()) => sent,
                        never = blob.meanwhile() => match never {},
                    };
                    if sent.is_err() {
                        return Ok(()); // the writer failed and tells why
                    }
                }
            }
            if !chunk.is_empty() && tx.send(chunk.freeze()).await.is_err() {
                tracing::debug!("the content store stopped taking bytes");
            }
            Ok(())
        };
        let write = async {
            while let Some(bytes) = rx.recv().await {
                self.throttle.pass().await;
                writer.write(bytes).await?;
            }
            Ok(())
        };
        futures::future::try_join(read, write)
            .await
            .map(|((), ())| ())
    }

    /// Adds where the blob came from to its labels.
    pub(super) async fn note_source(
        &self,
        descriptor: &Descriptor,
        reference: &Reference,
    ) -> Result<()> {
        let content = &self.containerd.content;
        let present = content.info(&descriptor.digest).await?.labels;
        let source = labels::source(reference, &present);
        let is_news = source
            .iter()
            .any(|(key, value)| present.get(key) != Some(value));
        if is_news {
            content.label(&descriptor.digest, source).await?;
        }
        Ok(())
    }
}

fn mismatch(descriptor: &Descriptor, error: Error) -> Error {
    if error.kind() == Kind::FailedPrecondition {
        return Error::new(
            Kind::Aborted,
            format!(
                "blob {}: what arrived has not this digest and size; it was thrown away",
                descriptor.digest
            ),
        )
        .caused_by(error);
    }
    error.context(format!("commit blob {}", descriptor.digest))
}
