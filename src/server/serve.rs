//! gRPC over the accepted connections, with the limits that hold for every service.

use std::time::Duration;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::accept::connections;
use super::deadline::Deadlines;
use super::limit::InFlight;
use super::sockets::{Admission, Listening};
use super::traced::Tracing;
use crate::config::settings;
use crate::model::{Classify as _, Kind, Result};

/// Streams that one connection may have open.
const STREAMS_PER_CONNECTION: u32 = 1_024;
/// Largest header list of a request.
const HEADER_LIST_BYTES: u32 = 32 * 1024;
/// A connection whose other end is gone without a word is noticed after these two together.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_LIMIT: Duration = Duration::from_secs(20);

/// Serves `routes` on `listening` until `stop`; then no connection is taken any more, and requests in flight end.
///
/// # Errors
/// `Internal` where the listener cannot be handed to the runtime or the transport gives up.
pub(super) async fn serve(
    listening: Listening,
    admission: Admission,
    limits: &settings::Server,
    routes: Routes,
    tracing: Tracing,
    stop: CancellationToken,
) -> Result<()> {
    let Listening { listener, made } = listening;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .classify(Kind::Internal, || "hand the socket to the runtime".into())?;
    let incoming = connections(listener, admission, limits.max_connections.get());
    let served = Server::builder()
        // Outermost, so that a refusal or a deadline is seen as well.
        .layer(tracing)
        .layer(InFlight::new(limits.max_requests.get()))
        .layer(Deadlines)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_LIMIT))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
        .classify(Kind::Internal, || "serve the CRI socket".into());
    if let Some(path) = made
        && let Err(error) = std::fs::remove_file(&path)
    {
        tracing::warn!(socket = %path.display(), %error, "the socket was left behind");
    }
    served
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::future::BoxFuture;
    use futures::stream::StreamExt as _;

    use super::super::sockets;
    use super::*;
    use crate::admin::{
        AdminParts, AdminService, Archive, Archives, Configuration, Imported, Mirrors, Pieces,
        PullOrder, Pulls, Stock, client,
    };
    use crate::config::{Change, Config};
    use crate::image::{DiskUsage, PruneRequest, Pruned, PullReport};
    use crate::index::Index;
    use crate::model::clock::SystemClock;
    use crate::model::{Digest, Error, Timestamp};
    use crate::ops::{LiveTable, TenantPaths};
    use crate::registry::{BreakerState, HostReport};
    use crate::wire::admin::admin_client::AdminClient;
    use crate::wire::admin::{ImportImageRequest, ListMirrorsRequest, ListOperationsRequest};

    /// Counts the bytes of archives, and refuses empty ones.
    struct Scales;

    impl Configuration for Scales {
        fn reload(&self) -> BoxFuture<'_, Result<Vec<Change>>> {
            Box::pin(async { Err(Error::invalid("line 3: a.b: no such key")) })
        }
    }

    impl Archives for Scales {
        fn export<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Pieces>> {
            Box::pin(async move { Err(Error::not_found(reference.to_owned())) })
        }

        fn import(&self, archive: Archive) -> BoxFuture<'_, Result<Imported>> {
            Box::pin(async move {
                let pieces: Vec<Result<Bytes>> = archive.bytes.collect().await;
                let mut bytes = 0;
                for piece in pieces {
                    bytes += u64::try_from(piece?.len()).unwrap();
                }
                if bytes == 0 {
                    return Err(Error::invalid("an empty archive"));
                }
                Ok(Imported {
                    references: archive.reference.into_iter().collect(),
                    image_id: Digest::sha256(b"image"),
                    bytes,
                })
            })
        }
    }

    impl Mirrors for Scales {
        fn mirrors(&self) -> Vec<HostReport> {
            vec![HostReport {
                host: "https://mirror.tld".into(),
                state: BreakerState::HalfOpen,
                since: Timestamp(1),
                last_error: Some(("cannot connect".into(), Timestamp(2))),
                successes: 3,
                failures: 4,
                skips: 5,
                hedges: 6,
                median_latency: None,
                bytes: 7,
                next_trial: Some(Timestamp(8)),
            }]
        }
    }

    impl Pulls for Scales {
        fn pulls(&self) -> Vec<PullReport> {
            Vec::new()
        }

        fn progress(&self, _order: &PullOrder) -> Option<PullReport> {
            None
        }

        fn pull(&self, order: PullOrder) -> BoxFuture<'_, Result<String>> {
            Box::pin(async move { Err(Error::not_found(order.reference)) })
        }
    }

    impl Stock for Scales {
        fn disk_usage(&self) -> Result<DiskUsage> {
            Ok(DiskUsage::default())
        }

        fn prune(&self, _request: PruneRequest) -> BoxFuture<'_, Result<Pruned>> {
            Box::pin(async { Ok(Pruned::default()) })
        }
    }

    fn piece(reference: &str, chunk: &[u8]) -> ImportImageRequest {
        ImportImageRequest {
            reference: reference.into(),
            chunk: chunk.into(),
        }
    }

    #[tokio::test]
    async fn the_admin_service_answers_over_the_socket_until_the_stop_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.sock");
        let listening = sockets::listen_blocking(&path, &Admission::default()).unwrap();
        let live = LiveTable::new(Arc::new(SystemClock));
        let operation = live.begin("RunPodSandbox", "default/web");
        let admin = AdminService::new(AdminParts {
            live,
            paths: TenantPaths::new(Arc::new(SystemClock)),
            pods: Arc::new(Index::new(Arc::new(SystemClock))),
            images: Arc::new(Scales),
            configuration: Arc::new(Scales),
        });
        let routes = Routes::new(admin.into_server(1 << 24));
        let stop = CancellationToken::new();
        let limits = Config::default().server;
        let serving = serve(
            listening,
            Admission::default(),
            &limits,
            routes,
            Tracing(None),
            stop.clone(),
        );
        let asking = async {
            let mut admin = AdminClient::new(client::connect(&path).await.unwrap());
            let rows = admin
                .list_operations(ListOperationsRequest {})
                .await
                .unwrap()
                .into_inner()
                .operations;
            let pieces = [piece("demo/web:1", b"abc"), piece("", b"defg")];
            let imported = admin.import_image(futures::stream::iter(pieces)).await;
            let empty = admin
                .import_image(futures::stream::iter([piece("", b"")]))
                .await;
            let mirrors = admin.list_mirrors(ListMirrorsRequest {}).await;
            stop.cancel();
            let mirrors = mirrors.unwrap().into_inner().mirrors;
            (
                rows,
                imported.unwrap().into_inner(),
                empty.unwrap_err(),
                mirrors,
            )
        };

        let (served, (rows, imported, empty, mirrors)) = tokio::join!(serving, asking);

        served.unwrap();
        assert_eq!(
            (rows[0].kind.as_str(), rows[0].object.as_str()),
            ("RunPodSandbox", "default/web")
        );
        assert_eq!(
            (imported.bytes, imported.references),
            (7, vec!["demo/web:1".to_owned()])
        );
        assert_eq!(empty.code(), tonic::Code::InvalidArgument);
        let mirror = &mirrors[0];
        assert_eq!(
            (mirror.host.as_str(), mirror.state.as_str()),
            ("https://mirror.tld", "half-open")
        );
        assert_eq!(
            (
                mirror.median_latency,
                mirror.next_trial,
                mirror.last_error_at
            ),
            (0, 8, 2)
        );
        assert!(!path.exists());
        drop(operation);
    }
}
