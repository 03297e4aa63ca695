//! containerd's Content service.
//!
//! A write is one bidirectional stream per blob with exactly one reply per message: STAT opens the ingest and says
//! where to go on, WRITE appends, COMMIT ends it. The offset 0 in WRITE or COMMIT empties a non-empty ingest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient as Stub;
use containerd_client::services::v1::{
    AbortRequest, AddResourceRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
    ReadContentRequest, Resource, UpdateRequest, WriteAction, WriteContentRequest,
    WriteContentResponse, leases_client::LeasesClient,
};
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::channel::{MESSAGE_LIMIT, Step, Wire, present, signed, unsigned};
use super::traced::Traced;
use super::{convert, limits};
use crate::containerd::{
    Content, ContentInfo, ContentWriter, IngestInfo, WriteRequest, WriteStart,
};
use crate::model::{Digest, Error, Kind, Result};

/// Most bytes in one WRITE; containerd takes 8 MiB within its message limit of 16.
const CHUNK: usize = 4 << 20;

/// The service over the wire.
#[derive(Clone)]
pub(super) struct RemoteContent(pub(super) Arc<Wire>);

impl RemoteContent {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.bulk()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    async fn set_labels(&self, digest: &Digest, labels: &BTreeMap<String, String>) -> Result<()> {
        if labels.is_empty() {
            return Ok(()); // an empty mask would replace the blob's labels
        }
        let request = self.0.request(UpdateRequest {
            info: Some(Info {
                digest: digest.to_string(),
                labels: convert::wire_labels(labels),
                ..Info::default()
            }),
            update_mask: Some(convert::label_mask(&[], labels)),
        });
        let mut stub = self.stub();
        let step = Step("label blob", digest.as_str());
        self.0
            .call(step, limits::METADATA, stub.update(request))
            .await?;
        Ok(())
    }

    async fn discard(&self, ingest: &str) -> Result<()> {
        let request = self.0.request(AbortRequest {
            r#ref: ingest.to_owned(),
        });
        let mut stub = self.stub();
        let step = Step("abort ingest", ingest);
        match self
            .0
            .call(step, limits::METADATA, stub.abort(request))
            .await
        {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn open_ingest(&self, request: &WriteRequest) -> Result<WriteStart> {
        let step = Step("open ingest", &request.ingest);
        let (send, messages) = mpsc::channel(1);
        let stat = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: request.ingest.clone(),
            total: signed(request.size, step)?,
            expected: request.expected.to_string(),
            ..WriteContentRequest::default()
        };
        send.try_send(stat)
            .map_err(|_full| Error::internal(format!("{step}: no room for the first message")))?;
        let call = self
            .0
            .leased(ReceiverStream::new(messages), Some(&request.lease))?;
        let mut stub = self.stub();
        let opened = async {
            let mut replies = self
                .0
                .call(step, limits::OPEN_INGEST, stub.write(call))
                .await?;
            let reply = next_reply(&self.0, &mut replies, step, limits::OPEN_INGEST).await?;
            Ok::<_, Error>((unsigned(reply.offset, step)?, replies))
        };
        match opened.await {
            Ok((offset, replies)) => Ok(WriteStart::Open(Box::new(Ingest {
                content: self.clone(),
                request: request.clone(),
                send,
                replies,
                offset,
            }))),
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(WriteStart::Present),
            Err(error) => Err(error),
        }
    }

    /// At most `limit` bytes of a blob from `offset` on; `size` of them, or all where that is 0.
    async fn read_from(
        &self,
        digest: &Digest,
        offset: u64,
        size: u64,
        limit: u64,
    ) -> Result<Vec<u8>> {
        let step = Step("read blob", digest.as_str());
        let request = self.0.request(ReadContentRequest {
            digest: digest.to_string(),
            offset: signed(offset, step)?,
            size: signed(size, step)?,
        });
        let mut stub = self.stub();
        let mut stream = self
            .0
            .call(step, limits::METADATA, stub.read(request))
            .await?;
        let mut bytes = Vec::new();
        loop {
            let part = timeout(limits::CHUNK, stream.message())
                .await
                .map_err(|_elapsed| self.0.late(step, limits::CHUNK))?
                .map_err(|status| self.0.failure(step, &status))?;
            let Some(part) = part else { return Ok(bytes) };
            if length(bytes.len()).saturating_add(length(part.data.len())) > limit {
                return Err(Error::exhausted(format!(
                    "{step}: it is larger than {limit} bytes"
                )));
            }
            bytes.extend_from_slice(&part.data);
        }
    }
}

impl Content for RemoteContent {
    fn info<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<ContentInfo>> {
        Box::pin(async move {
            let step = Step("look up blob", digest.as_str());
            let request = self.0.request(InfoRequest {
                digest: digest.to_string(),
            });
            let mut stub = Stub::new(self.0.control());
            let reply = self
                .0
                .call(step, limits::METADATA, stub.info(request))
                .await?;
            described(present(reply.info, step)?, step)
        })
    }

    fn read<'a>(&'a self, digest: &'a Digest, limit: u64) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(self.read_from(digest, 0, 0, limit))
    }

    fn read_part<'a>(
        &'a self,
        digest: &'a Digest,
        offset: u64,
        length: u64,
    ) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let bytes = self.read_from(digest, offset, length, length).await?;
            if self::length(bytes.len()) < length {
                let step = Step("read blob", digest.as_str());
                return Err(Error::internal(format!(
                    "{step}: it ends before byte {}",
                    offset.saturating_add(length)
                )));
            }
            Ok(bytes)
        })
    }

    fn open<'a>(&'a self, request: &'a WriteRequest) -> BoxFuture<'a, Result<WriteStart>> {
        Box::pin(self.open_ingest(request))
    }

    fn label<'a>(
        &'a self,
        digest: &'a Digest,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.set_labels(digest, &labels).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ContentInfo>>> {
        Box::pin(async move {
            let step = Step("list blobs", "");
            let request = self.0.request(ListContentRequest::default());
            let mut stub = self.stub();
            let mut stream = self
                .0
                .call(step, limits::METADATA, stub.list(request))
                .await?;
            let mut blobs = Vec::new();
            loop {
                let part = timeout(limits::CHUNK, stream.message())
                    .await
                    .map_err(|_elapsed| self.0.late(step, limits::CHUNK))?
                    .map_err(|status| self.0.failure(step, &status))?;
                let Some(part) = part else { return Ok(blobs) };
                for info in part.info {
                    blobs.push(described(info, step)?);
                }
            }
        })
    }

    fn ingests(&self) -> BoxFuture<'_, Result<Vec<IngestInfo>>> {
        Box::pin(async move {
            let step = Step("list ingests", "");
            let request = self.0.request(ListStatusesRequest::default());
            let mut stub = self.stub();
            let reply = self
                .0
                .call(step, limits::METADATA, stub.list_statuses(request))
                .await?;
            let found = reply.statuses.into_iter();
            found
                .map(|status| {
                    Ok(IngestInfo {
                        bytes: unsigned(status.offset, step)?,
                        updated_at: convert::timestamp(status.updated_at),
                        name: status.r#ref,
                    })
                })
                .collect()
        })
    }

    fn abort<'a>(&'a self, ingest: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.discard(ingest))
    }
}

fn described(info: Info, step: Step<'_>) -> Result<ContentInfo> {
    Ok(ContentInfo {
        digest: info.digest.parse()?,
        size: unsigned(info.size, step)?,
        labels: convert::labels(info.labels),
    })
}

/// An open write stream. Dropping it ends the stream; containerd keeps what it has.
struct Ingest {
    content: RemoteContent,
    request: WriteRequest,
    send: mpsc::Sender<WriteContentRequest>,
    replies: Streaming<WriteContentResponse>,
    offset: u64,
}

impl Ingest {
    async fn exchange(
        &mut self,
        step: Step<'_>,
        message: WriteContentRequest,
        limit: Duration,
    ) -> Result<WriteContentResponse> {
        let sent = timeout(limit, self.send.send(message))
            .await
            .map_err(|_elapsed| self.content.0.late(step, limit))?;
        if sent.is_err() {
            tracing::debug!("the write stream has ended; its last reply says why");
        }
        next_reply(&self.content.0, &mut self.replies, step, limit).await
    }

    async fn append(&mut self, data: Bytes) -> Result<()> {
        let ingest = self.request.ingest.clone();
        let step = Step("write to ingest", &ingest);
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: signed(self.offset, step)?,
            data: data.to_vec(),
            ..WriteContentRequest::default()
        };
        let want = self.offset.saturating_add(length(data.len()));
        let reply = self.exchange(step, message, limits::CHUNK).await?;
        if unsigned(reply.offset, step)? != want {
            return Err(Error::new(
                Kind::Aborted,
                format!(
                    "{step}: containerd stands at {}, not at {want}",
                    reply.offset
                ),
            ));
        }
        self.offset = want;
        Ok(())
    }

    async fn finish(&mut self, labels: BTreeMap<String, String>) -> Result<()> {
        let digest = self.request.expected.clone();
        let step = Step("commit blob", digest.as_str());
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: signed(self.request.size, step)?,
            offset: signed(self.offset, step)?,
            expected: digest.to_string(),
            labels: convert::wire_labels(&labels),
            ..WriteContentRequest::default()
        };
        match self.exchange(step, message, limits::COMMIT).await {
            Ok(_committed) => Ok(()),
            Err(error) if error.kind() == Kind::AlreadyExists => self.adopt(&labels).await,
            Err(error) if error.kind() == Kind::FailedPrecondition => {
                // Left in place, the next open would find it complete and fail in the same way.
                let ingest = &self.request.ingest;
                if let Err(left) = self.content.discard(ingest).await {
                    tracing::warn!(ingest, error = %left, "a refused ingest stays behind");
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The blob got there by another way, which neither leased it to us nor set our labels.
    async fn adopt(&self, labels: &BTreeMap<String, String>) -> Result<()> {
        let digest = &self.request.expected;
        let wire = &self.content.0;
        let request = wire.request(AddResourceRequest {
            id: self.request.lease.0.clone(),
            resource: Some(Resource {
                id: digest.to_string(),
                r#type: "content".to_owned(),
            }),
        });
        let mut stub = LeasesClient::new(wire.control());
        let step = Step("lease blob", digest.as_str());
        wire.call(step, limits::METADATA, stub.add_resource(request))
            .await?;
        self.content.set_labels(digest, labels).await
    }
}

impl ContentWriter for Ingest {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, mut data: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while !data.is_empty() {
                let chunk = data.split_to(data.len().min(CHUNK));
                self.append(chunk).await?;
            }
            Ok(())
        })
    }

    fn truncate(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.offset = 0;
            self.append(Bytes::new()).await
        })
    }

    fn commit(&mut self, labels: BTreeMap<String, String>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.finish(labels))
    }
}

async fn next_reply(
    wire: &Wire,
    replies: &mut Streaming<WriteContentResponse>,
    step: Step<'_>,
    limit: Duration,
) -> Result<WriteContentResponse> {
    timeout(limit, replies.message())
        .await
        .map_err(|_elapsed| wire.late(step, limit))?
        .map_err(|status| wire.failure(step, &status))?
        .ok_or_else(|| {
            Error::new(
                Kind::Aborted,
                format!("{step}: containerd ended the stream"),
            )
        })
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
