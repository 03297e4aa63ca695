//! Transports for exec, attach and port-forward: an HTTP listener that is of no use without a token, SPDY/3.1 and
//! WebSocket on it, and the sessions that join a client's streams to a process or to a port.
//!
//! ```text
//! Exec, Attach, PortForward --give--> token      client --GET or POST /exec/TOKEN--> front --take--> session
//!                                                   SPDY | WebSocket <-> channel <-> exec, attach, forward
//! ```

mod attach;
mod channel;
mod descriptors;
mod exec;
mod forward;
mod front;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod protocol;
mod resize;
mod session;
mod spdy;
mod status;
mod tls;
mod tokens;
mod websocket;

pub use tokens::Asked;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{Shared, settings};
use crate::container::Containers;
use crate::model::{Classify as _, Error, Kind, Result};
use crate::ops::{LiveTable, Supervisor};
use crate::sandbox::Sandboxes;
use crate::spec;

use descriptors::Descriptors;
use tokens::{Ticket, Tokens};

/// What the streaming server is made from.
pub struct Parts {
    /// The containers.
    pub containers: Containers,
    /// The pods.
    pub sandboxes: Sandboxes,
    /// The configuration, of which the limits are read anew for each stream.
    pub config: Shared,
    /// Runs the connections.
    pub supervisor: Supervisor,
    /// Shows them.
    pub live: LiveTable,
}

/// The streaming server. Cloning gives another handle.
#[derive(Clone)]
pub struct Streaming {
    inner: Arc<Inner>,
}

struct Inner {
    tokens: Tokens,
    containers: Containers,
    sandboxes: Sandboxes,
    config: Shared,
    tasks: Tasks,
    live: LiveTable,
    stopping: CancellationToken,
    /// Streams that are open.
    open: Arc<AtomicUsize>,
    descriptors: Descriptors,
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: Option<Arc<tls::Acceptor>>,
}

/// What holds for every session.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// How long a client may take to open its streams.
    creation: Duration,
    /// Silence after which a connection ends.
    idle: Option<Duration>,
}

/// Starts the tasks of connections. A drain does not wait for them; they end when the server stops.
#[derive(Clone, Debug)]
struct Tasks(Supervisor);

impl Tasks {
    fn run(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.watch(name, work);
    }
}

/// A place among the streams that may be open.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Streaming {
    /// Binds the listener; nothing is answered before [`Self::serve`].
    ///
    /// # Errors
    /// `InvalidArgument` where certificate or key cannot be used, `Unavailable` where the address cannot be bound.
    pub fn bind_blocking(parts: Parts) -> Result<Self> {
        let settings = parts.config.load().streaming.clone();
        let wanted = SocketAddr::new(settings.address, settings.port);
        let what = || format!("streaming: listen on {wanted}");
        let listener = std::net::TcpListener::bind(wanted).classify(Kind::Unavailable, what)?;
        listener
            .set_nonblocking(true)
            .classify(Kind::Internal, what)?;
        let address = listener.local_addr().classify(Kind::Internal, what)?;
        let tls = settings.tls.as_ref().map(tls::Acceptor::new_blocking);
        let tls = tls.transpose()?.map(Arc::new);
        Ok(Self {
            inner: Arc::new(Inner {
                tokens: Tokens::default(),
                containers: parts.containers,
                sandboxes: parts.sandboxes,
                config: parts.config,
                stopping: parts.supervisor.stopping().clone(),
                tasks: Tasks(parts.supervisor),
                live: parts.live,
                open: Arc::default(),
                descriptors: Descriptors::default(),
                listener,
                address,
                tls,
            }),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.inner.address
    }

    /// Answers connections until the server stops.
    ///
    /// # Errors
    /// `Internal` where the listener cannot be handed to the runtime.
    pub async fn serve(self) -> Result<()> {
        front::serve(self).await
    }

    /// The URL at which a client gets `command` run in a container, once and soon.
    ///
    /// # Errors
    /// `InvalidArgument`; `NotFound`; `FailedPrecondition` unless it runs; `ResourceExhausted`.
    pub fn exec(&self, container: &str, command: Vec<String>, asked: Asked) -> Result<String> {
        let asked = asked.check()?;
        spec::check_command(&command)?;
        let container = self.inner.containers.streamable(container)?;
        self.url(Ticket::Exec {
            container,
            command,
            asked,
        })
    }

    /// The URL at which a client is attached to a container's own process.
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn attach(&self, container: &str, asked: Asked) -> Result<String> {
        let asked = asked.check()?;
        let container = self.inner.containers.streamable(container)?;
        self.url(Ticket::Attach { container, asked })
    }

    /// The URL at which ports of a pod are forwarded. `ports` is for clients that cannot name them in the stream.
    ///
    /// # Errors
    /// As [`Self::exec`], about the sandbox.
    pub fn port_forward(&self, sandbox: &str, ports: &[i32]) -> Result<String> {
        if ports.len() > forward::MOST_PORTS {
            return Err(Error::invalid(format!(
                "port-forward: {} ports; at most {} fit into one connection",
                ports.len(),
                forward::MOST_PORTS
            )));
        }
        let port = |port: &i32| match u16::try_from(*port) {
            Ok(port @ 1..) => Ok(port),
            _ => Err(Error::invalid(format!(
                "port-forward: {port} is no port; use 1 to 65535"
            ))),
        };
        let ports = ports.iter().map(port).collect::<Result<_>>()?;
        let sandbox = self.inner.sandboxes.dialable(sandbox)?;
        self.url(Ticket::PortForward { sandbox, ports })
    }

    /// Exec, attach and port-forward connections that are open.
    pub fn open_streams(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// URLs that were given out and wait for their client.
    pub fn waiting_urls(&self) -> usize {
        self.inner.tokens.waiting()
    }

    fn url(&self, ticket: Ticket) -> Result<String> {
        let inner = &self.inner;
        inner.descriptors.check()?;
        let limit = self.most();
        if inner.open.load(Ordering::Acquire) >= limit {
            return Err(full(limit));
        }
        let path = ticket.path().segment();
        let is_there = |ticket: &Ticket| match ticket {
            Ticket::Exec { container, .. } | Ticket::Attach { container, .. } => {
                inner.containers.streamable(container.as_str()).is_ok()
            }
            Ticket::PortForward { sandbox, .. } => {
                inner.sandboxes.dialable(sandbox.as_str()).is_ok()
            }
        };
        let token = inner.tokens.give(ticket, is_there)?;
        let scheme = if inner.tls.is_some() { "https" } else { "http" };
        let address = connectable(inner.address);
        Ok(format!("{scheme}://{address}/{path}/{token}"))
    }

    /// A place for one more stream.
    fn place(&self) -> Result<Place> {
        let limit = self.most();
        let before = self.inner.open.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(&self.inner.open));
        match before < limit {
            true => Ok(place),
            false => Err(full(limit)),
        }
    }

    fn most(&self) -> usize {
        self.inner.config.load().streaming.max_streams.get()
    }

    fn limits(&self) -> Limits {
        let settings: &settings::Streaming = &self.inner.config.load().streaming;
        Limits {
            creation: settings.creation_timeout,
            idle: settings.idle_timeout,
        }
    }
}

fn full(limit: usize) -> Error {
    Error::exhausted(format!(
        "{limit} streams are open (streaming.max_streams); try again when some have ended"
    ))
}

/// The address that clients on this node reach a listener at; one for every address is reached at the loopback.
fn connectable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}
