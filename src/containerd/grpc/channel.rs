//! The connection: one lazy channel for questions, one for blobs, both reconnecting; headers, limits and errors of
//! every call.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use super::error;
use super::traced::Traced;
use crate::containerd::{LeaseId, Link};
use crate::model::{Classify as _, Error, Kind, Pid, Result};

/// Largest message that we accept, as much as containerd itself sends by default.
pub(super) const MESSAGE_LIMIT: usize = 16 << 20;
/// How much one stream may have in flight towards us.
const STREAM_WINDOW: u32 = 4 << 20;
/// How much a connection may have in flight: streams that nobody reads must not stop the others.
const CONNECTION_WINDOW: u32 = 32 << 20;

const NAMESPACE_HEADER: &str = "containerd-namespace";
const LEASE_HEADER: &str = "containerd-lease";

/// Where containerd is and which of its namespaces is ours.
#[derive(Clone, Debug)]
pub struct ChannelSettings {
    /// Path of its socket.
    pub address: PathBuf,
    /// containerd namespace, `k8s.io` on a node.
    pub namespace: String,
}

/// The peer of the newest connection.
#[derive(Debug, Default)]
struct Peer {
    pid: AtomicU32,
    connections: AtomicU64,
}

/// What every service's client shares.
pub(super) struct Wire {
    control: Traced,
    bulk: Traced,
    peer: Arc<Peer>,
    namespace: MetadataValue<Ascii>,
    namespace_text: String,
    address: Arc<Path>,
    link: Link,
}

impl Wire {
    /// Prepares the channels; the first call connects. Needs a running tokio runtime.
    pub(super) fn new(settings: &ChannelSettings, link: Link) -> Result<Self> {
        let address: Arc<Path> = settings.address.clone().into();
        let namespace = header(&settings.namespace).ok_or_else(|| {
            Error::invalid(format!(
                "containerd namespace {:?}: want printable ASCII",
                settings.namespace
            ))
        })?;
        let peer = Arc::new(Peer::default());
        Ok(Self {
            control: open(&address, &peer),
            // Blobs go another way, so that no question queues behind 4 MiB frames; its peer is nobody's measure.
            bulk: open(&address, &Arc::new(Peer::default())),
            peer,
            namespace,
            namespace_text: settings.namespace.clone(),
            address,
            link,
        })
    }

    /// The channel of short calls.
    pub(super) fn control(&self) -> Traced {
        self.control.clone()
    }

    /// The channel of calls that carry blobs.
    pub(super) fn bulk(&self) -> Traced {
        self.bulk.clone()
    }

    /// The namespace's name.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace_text
    }

    /// Pid of the process that listens, by the socket's peer credentials.
    pub(super) fn peer_pid(&self) -> Option<Pid> {
        match self.peer.pid.load(Ordering::SeqCst) {
            0 => None,
            pid => Some(Pid(pid)),
        }
    }

    /// How many connections for short calls were made so far.
    pub(super) fn connections(&self) -> u64 {
        self.peer.connections.load(Ordering::SeqCst)
    }

    /// `message` with the namespace header.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert(NAMESPACE_HEADER, self.namespace.clone());
        request
    }

    /// `message` under `lease`, where there is one.
    pub(super) fn leased<T>(&self, message: T, lease: Option<&LeaseId>) -> Result<Request<T>> {
        let mut request = self.request(message);
        if let Some(LeaseId(id)) = lease {
            let id = header(id)
                .ok_or_else(|| Error::invalid(format!("lease id {id:?}: want printable ASCII")))?;
            request.metadata_mut().insert(LEASE_HEADER, id);
        }
        Ok(request)
    }

    /// Awaits one call, with its limit, unless containerd is known to be away. The error says `verb object`.
    pub(super) async fn call<T>(
        &self,
        step: Step<'_>,
        limit: Duration,
        reply: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.link
            .ensure_up()
            .map_err(|away| away.context(step.to_string()))?;
        self.call_regardless(step, limit, reply).await
    }

    /// As [`Self::call`], whatever is known about the link: for the probe itself.
    pub(super) async fn call_regardless<T>(
        &self,
        step: Step<'_>,
        limit: Duration,
        reply: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        match timeout(limit, reply).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.failure(step, &status)),
            Err(_elapsed) => Err(self.late(step, limit)),
        }
    }

    /// As [`Self::call`], for as long as it takes.
    pub(super) async fn call_unlimited<T>(
        &self,
        step: Step<'_>,
        reply: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.link
            .ensure_up()
            .map_err(|away| away.context(step.to_string()))?;
        match reply.await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(self.failure(step, &status)),
        }
    }

    /// `status` as the failure of `step`.
    pub(super) fn failure(&self, step: Step<'_>, status: &Status) -> Error {
        if error::is_connection(status) {
            self.link.suspect();
        }
        error::from_status(step.to_string(), &self.address, status)
    }

    /// The failure of a `step` that had no answer within `limit`.
    pub(super) fn late(&self, step: Step<'_>, limit: Duration) -> Error {
        self.link.suspect();
        Error::timed_out(format!("{step}: containerd gave no answer"), limit)
    }
}

/// What a call does, for its error: a verb and the object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a>(pub(super) &'static str, pub(super) &'a str);

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(verb, object) = self;
        if object.is_empty() {
            f.write_str(verb)
        } else {
            write!(f, "{verb} {object}")
        }
    }
}

/// The field of a reply that containerd always fills.
pub(super) fn present<T>(field: Option<T>, step: Step<'_>) -> Result<T> {
    field.ok_or_else(|| Error::internal(format!("{step}: containerd's reply lacks its content")))
}

fn header(text: &str) -> Option<MetadataValue<Ascii>> {
    text.parse().ok()
}

fn open(address: &Arc<Path>, peer: &Arc<Peer>) -> Traced {
    let (address, peer) = (Arc::clone(address), Arc::clone(peer));
    // The URI is what gRPC wants to see in a header; the connector alone knows where to go.
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .connect_with_connector_lazy(tower::service_fn(move |_uri| {
            let (address, peer) = (Arc::clone(&address), Arc::clone(&peer));
            async move { dial(&address, &peer).await.map(TokioIo::new) }
        }));
    Traced::new(channel)
}

async fn dial(address: &Path, peer: &Peer) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(address).await?;
    let pid = stream
        .peer_cred()?
        .pid()
        .and_then(|pid| u32::try_from(pid).ok());
    peer.pid.store(pid.unwrap_or(0), Ordering::SeqCst);
    peer.connections.fetch_add(1, Ordering::SeqCst);
    Ok(stream)
}

/// A number of containerd's that cannot be negative.
pub(super) fn unsigned(number: i64, step: Step<'_>) -> Result<u64> {
    u64::try_from(number).classify(Kind::Internal, || {
        format!("{step}: containerd says {number}")
    })
}

/// A number of ours in containerd's signed fields.
pub(super) fn signed(number: u64, step: Step<'_>) -> Result<i64> {
    i64::try_from(number).classify(Kind::InvalidArgument, || format!("{step}: size {number}"))
}
