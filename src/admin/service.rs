//! The server side: one thin handler a method.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::configuration::{self, Configuration};
use super::operations;
use super::pulls::{self, PullOrder, Pulls};
use super::stock::{self, Stock};
use super::timeline;
use crate::index::Index;
use crate::model::{Digest, Error, Result};
use crate::ops::{LiveTable, TenantPaths};
use crate::registry::HostReport;
use crate::sys;
use crate::wire::admin::admin_server::{Admin, AdminServer};
use crate::wire::admin::{
    ExportImageRequest, ExportImageResponse, ImportImageRequest, ImportImageResponse,
    ListMirrorsRequest, ListMirrorsResponse, ListOperationsRequest, ListOperationsResponse,
    ListPullsRequest, ListPullsResponse, Mirror, PruneImagesRequest, PruneImagesResponse,
    PullImageRequest, PullImageResponse, ReloadConfigurationRequest, ReloadConfigurationResponse,
    ShowDiskUsageRequest, ShowDiskUsageResponse, ShowTimelineRequest, ShowTimelineResponse,
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

/// Everything that the service asks of images.
pub trait ImageOffice: Archives + Mirrors + Pulls + Stock {}

impl<T: Archives + Mirrors + Pulls + Stock> ImageOffice for T {}

/// What the service is made of.
pub struct AdminParts {
    /// Shown as operations.
    pub live: LiveTable,
    /// Calls on paths of pods, shown as operations too.
    pub paths: TenantPaths,
    /// The pods of the node.
    pub pods: Arc<Index>,
    /// Everything about images.
    pub images: Arc<dyn ImageOffice>,
    /// The configuration.
    pub configuration: Arc<dyn Configuration>,
}

/// The service.
#[derive(Clone)]
pub struct AdminService {
    live: LiveTable,
    paths: TenantPaths,
    pods: Arc<Index>,
    images: Arc<dyn ImageOffice>,
    configuration: Arc<dyn Configuration>,
}

impl AdminService {
    /// A service over `parts`.
    pub fn new(parts: AdminParts) -> Self {
        Self {
            live: parts.live,
            paths: parts.paths,
            pods: parts.pods,
            images: parts.images,
            configuration: parts.configuration,
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
        let (rows, jobs) = (self.live.snapshot(), self.paths.snapshot());
        let look = || Ok(operations::shown_blocking(rows, jobs));
        let operations = sys::off_thread("look at the operations", look).await;
        let operations = operations.map_err(Status::from)?;
        Ok(Response::new(ListOperationsResponse { operations }))
    }

    async fn show_timeline(
        &self,
        request: Request<ShowTimelineRequest>,
    ) -> Result<Response<ShowTimelineResponse>, Status> {
        let shown = timeline::of(&self.pods, &self.live, &request.get_ref().pod);
        shown.map(Response::new).map_err(Status::from)
    }

    async fn list_mirrors(
        &self,
        _request: Request<ListMirrorsRequest>,
    ) -> Result<Response<ListMirrorsResponse>, Status> {
        let mirrors = self.images.mirrors().into_iter().map(mirror).collect();
        Ok(Response::new(ListMirrorsResponse { mirrors }))
    }

    async fn list_pulls(
        &self,
        _request: Request<ListPullsRequest>,
    ) -> Result<Response<ListPullsResponse>, Status> {
        let pulls = self.images.pulls().into_iter().map(pulls::shown).collect();
        Ok(Response::new(ListPullsResponse { pulls }))
    }

    async fn show_disk_usage(
        &self,
        _request: Request<ShowDiskUsageRequest>,
    ) -> Result<Response<ShowDiskUsageResponse>, Status> {
        let usage = self.images.disk_usage().map_err(Status::from)?;
        Ok(Response::new(stock::disk_usage(usage)))
    }

    async fn prune_images(
        &self,
        request: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        let request = stock::asked(request.get_ref());
        let pruned = self.images.prune(request).await.map_err(Status::from)?;
        Ok(Response::new(stock::pruned(pruned)))
    }

    async fn reload_configuration(
        &self,
        _request: Request<ReloadConfigurationRequest>,
    ) -> Result<Response<ReloadConfigurationResponse>, Status> {
        let changes = self.configuration.reload().await.map_err(Status::from)?;
        Ok(Response::new(configuration::reloaded(changes)))
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
        Ok(Response::new(pulls::follow(
            Arc::clone(&self.images) as _,
            order,
        )))
    }

    type ExportImageStream = BoxStream<'static, Result<ExportImageResponse, Status>>;

    async fn export_image(
        &self,
        request: Request<ExportImageRequest>,
    ) -> Result<Response<Self::ExportImageStream>, Status> {
        let reference = request.into_inner().reference;
        let pieces = self.images.export(&reference).await;
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
        let imported = self.images.import(archive).await.map_err(Status::from)?;
        tracing::info!(image.id = %imported.image_id, references = ?imported.references, "image imported");
        Ok(Response::new(ImportImageResponse {
            references: imported.references,
            image_id: imported.image_id.to_string(),
            bytes: imported.bytes,
        }))
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
