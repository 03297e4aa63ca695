//! gRPC over the accepted connections, with the limits that hold for every service.

use std::time::Duration;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::accept::connections;
use super::limit::InFlight;
use super::sockets::{Admission, Listening};
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
    stop: CancellationToken,
) -> Result<()> {
    let Listening { listener, made } = listening;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .classify(Kind::Internal, || "hand the socket to the runtime".into())?;
    let incoming = connections(listener, admission, limits.max_connections.get());
    let served = Server::builder()
        .layer(InFlight::new(limits.max_requests.get()))
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
