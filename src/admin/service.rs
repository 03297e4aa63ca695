//! The server side: one thin handler a method.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::pulls::{self, PullOrder, Pulls};
use crate::image::DiskUsage;
use crate::model::{Digest, Error, Result};
use crate::ops::{LiveTable, OpInfo};
use crate::registry::HostReport;
use crate::wire::admin::admin_server::{Admin, AdminServer};
use crate::wire::admin::{
    ExportImageRequest, ExportImageResponse, ImageUsage, ImportImageRequest, ImportImageResponse,
    ListMirrorsRequest, ListMirrorsResponse, ListOperationsRequest, ListOperationsResponse,
    ListPullsRequest, ListPullsResponse, Mirror, Operation, PullImageRequest, PullImageResponse,
    ShowDiskUsageRequest, ShowDiskUsageResponse,
};

/// An image archive on its way in: the name it shall get, if any, and its bytes.
pub struct Archive {
    /// Name in place of those in the archive.
    pub reference: Option<String>,
    /// The bytes, in order.
    pub bytes: BoxStream<'static, Result<Bytes>>,
}

/// What an import made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Names that now point at the image.
    pub references: Vec<String>,
    /// Digest of its configuration.
    pub image_id: Digest,
    /// Bytes received.
    pub bytes: u64,
}

/// An image on its way out, in order.
pub type Pieces = BoxStream<'static, Result<Bytes>>;

/// Takes archives in, and makes them.
pub trait Archives: Send + Sync {
    /// Makes an archive of the image that `reference` names. Dropping the stream ends it.
    fn export<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Pieces>>;

    /// Reads one archive into the image store. Dropping the future calls the import off.
    fn import(&self, archive: Archive) -> BoxFuture<'_, Result<Imported>>;
}

/// Knows the registry hosts.
pub trait Mirrors: Send + Sync {
    /// Every host that was asked lately, by its name.
    fn mirrors(&self) -> Vec<HostReport>;
}

/// What the service is made of.
pub struct AdminParts {
    /// Shown as operations.
    pub live: LiveTable,
    /// Takes imports in.
    pub archives: Arc<dyn Archives>,
    /// Shown as mirrors.
    pub mirrors: Arc<dyn Mirrors>,
    /// Pulls, and shows what is pulled.
    pub pulls: Arc<dyn Pulls>,
}

/// The service.
#[derive(Clone)]
pub struct AdminService {
    live: LiveTable,
    archives: Arc<dyn Archives>,
    mirrors: Arc<dyn Mirrors>,
    pulls: Arc<dyn Pulls>,
}

impl AdminService {
    /// A service over `parts`.
    pub fn new(parts: AdminParts) -> Self {
        Self {
            live: parts.live,
            archives: parts.archives,
            mirrors: parts.mirrors,
            pulls: parts.pulls,
        }
    }

    /// The service as a route, taking messages up to `max_message_bytes`.
    pub fn into_server(self, max_message_bytes: usize) -> AdminServer<Self> {
        AdminServer::new(self)
            .max_decoding_message_size(max_message_bytes)
            .max_encoding_message_size(max_message_bytes)
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn list_operations(
        &self,
        _request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let operations = self.live.snapshot().into_iter().map(shown).collect();
        Ok(Response::new(ListOperationsResponse { operations }))
    }

    async fn list_mirrors(
        &self,
        _request: Request<ListMirrorsRequest>,
    ) -> Result<Response<ListMirrorsResponse>, Status> {
        let mirrors = self.mirrors.mirrors().into_iter().map(mirror).collect();
        Ok(Response::new(ListMirrorsResponse { mirrors }))
    }

    async fn list_pulls(
        &self,
        _request: Request<ListPullsRequest>,
    ) -> Result<Response<ListPullsResponse>, Status> {
        let pulls = self.pulls.pulls().into_iter().map(pulls::shown).collect();
        Ok(Response::new(ListPullsResponse { pulls }))
    }

    async fn show_disk_usage(
        &self,
        _request: Request<ShowDiskUsageRequest>,
    ) -> Result<Response<ShowDiskUsageResponse>, Status> {
        let usage = self.pulls.disk_usage().map_err(Status::from)?;
        Ok(Response::new(disk_usage(usage)))
    }

    type PullImageStream = BoxStream<'static, Result<PullImageResponse, Status>>;

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let request = request.into_inner();
        let order = PullOrder {
            reference: request.reference,
            runtime_handler: request.runtime_handler,
            username: request.username,
            password: request.password,
        };
        Ok(Response::new(pulls::follow(Arc::clone(&self.pulls), order)))
    }

    type ExportImageStream = BoxStream<'static, Result<ExportImageResponse, Status>>;

    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        let reference = request.into_inner().reference;
        let pieces = self.archives.export(&reference).await;
        let pieces = pieces.map_err(Status::from)?.map(|piece| {
            let chunk = piece.map_err(Status::from)?.to_vec();
            Ok(ExportImageResponse { chunk })
        });
        Ok(Response::new(pieces.boxed()))
    }

    async fn import_image(
        &self,
        request: Request<Streaming<ImportImageRequest>>,
    ) -> Result<Response<ImportImageResponse>, Status> {
        let mut pieces = request.into_inner();
        let first = pieces
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("import image: no archive was sent"))?;
        let rest = pieces.map(|piece| {
            piece
                .map(|piece| Bytes::from(piece.chunk))
                .map_err(|status| {
                    Error::cancelled("import image: the client stopped sending").caused_by(status)
                })
        });
        let head = futures::stream::iter([Ok(Bytes::from(first.chunk))]);
        let archive = Archive {
            reference: Some(first.reference).filter(|reference| !reference.is_empty()),
            bytes: head.chain(rest).boxed(),
        };
        let imported = self.archives.import(archive).await.map_err(Status::from)?;
        tracing::info!(image.id = %imported.image_id, references = ?imported.references, "image imported");
        Ok(Response::new(ImportImageResponse {
            references: imported.references,
            image_id: imported.image_id.to_string(),
            bytes: imported.bytes,
        }))
    }
}

fn shown(row: OpInfo) -> Operation {
    Operation {
        id: row.id.to_string(),
        kind: row.kind.into(),
        object: row.object,
        step: row.step.into(),
        started_at: row.started_at.0,
        step_started_at: row.step_started_at.0,
        waits_on: row.waits_on.unwrap_or_default(),
        waiters: row.waiters,
    }
}

fn disk_usage(usage: DiskUsage) -> ShowDiskUsageResponse {
    let images = usage.images.into_iter().map(|image| ImageUsage {
        id: image.id.to_string(),
        names: image.names,
        blobs: image.blobs,
        layers: image.layers,
        own: image.own,
        pinned: image.pinned,
    });
    ShowDiskUsageResponse {
        images: images.collect(),
        blobs: usage.blobs,
        layers: usage.layers,
        orphans: usage.orphans,
        orphan_count: u64::try_from(usage.orphan_count).unwrap_or(u64::MAX),
        writable: usage.writable,
    }
}

fn mirror(row: HostReport) -> Mirror {
    let (last_error, last_error_at) = row.last_error.unwrap_or_default();
    let latency = row.median_latency.unwrap_or_default();
    Mirror {
        host: row.host,
        state: row.state.name().into(),
        since: row.since.0,
        last_error,
        last_error_at: last_error_at.0,
        successes: row.successes,
        failures: row.failures,
        skips: row.skips,
        hedges: row.hedges,
        median_latency: i64::try_from(latency.as_nanos()).unwrap_or(i64::MAX),
        bytes: row.bytes,
        next_trial: row.next_trial.map_or(0, |at| at.0),
    }
}
