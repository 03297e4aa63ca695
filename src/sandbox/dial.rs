//! Connections to the ports that a pod listens on at its own loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::model::state::SandboxState;
use crate::model::{Classify, Error, Kind, Result, SandboxId};
use crate::sys;

use super::Sandboxes;

/// How long one address may take to answer; a listener whose queue is full does not answer at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

impl Sandboxes {
    /// Whether `text` is a ready sandbox that ports may be forwarded to, and which.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it is ready.
    pub fn dialable(&self, text: &str) -> Result<SandboxId> {
        let now = self.deps.index.snapshot();
        let pod = now
            .find_sandbox(text)?
            .ok_or_else(|| Error::not_found(format!("sandbox {text:?}: not found")))?;
        match pod.sandbox.state {
            SandboxState::Ready => Ok(pod.sandbox.id.clone()),
            _ => Err(Error::precondition(format!(
                "sandbox {}: not ready",
                pod.sandbox.id.short()
            ))),
        }
    }

    /// Answers once the sandbox is no longer ready.
    pub async fn until_not_ready(&self, id: &SandboxId) {
        let is_over = |now: &crate::index::Snapshot| {
            let ready = now
                .sandbox(id)
                .is_some_and(|view| view.state == SandboxState::Ready);
            (!ready).then_some(())
        };
        self.deps.index.until(is_over).await;
    }

    /// Connects to `port` on the sandbox's loopback: 127.0.0.1, then ::1. With the host's network that is the host's.
    ///
    /// # Errors
    /// As [`Self::dialable`]; `Unavailable` where nobody listens, with what each address said.
    pub async fn dial(&self, id: &SandboxId, port: u16) -> Result<TcpStream> {
        self.dialable(id.as_str())?;
        let netns = self
            .deps
            .index
            .snapshot()
            .sandbox(id)
            .and_then(|view| view.netns.clone());
        let v4 = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = match connect(netns.clone(), SocketAddr::new(v4, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        match connect(netns, SocketAddr::new(v6, port)).await {
            Ok(stream) => Ok(stream),
            Err(second) => Err(Error::unavailable(format!(
                "{}; {}",
                first.chain(),
                second.chain()
            ))),
        }
    }
}

async fn connect(netns: Option<PathBuf>, to: SocketAddr) -> Result<TcpStream> {
    let what = || format!("connect to {to}");
    let socket = sys::off_thread("make a socket in a pod", move || {
        sys::netns::tcp_socket_blocking(netns.as_deref(), to.is_ipv6())
    })
    .await?;
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = tokio::time::timeout(CONNECT_LIMIT, socket.connect(to))
        .await
        .map_err(|_elapsed| Error::timed_out(what(), CONNECT_LIMIT))?
        .classify(Kind::Unavailable, what)?;
    stream.set_nodelay(true).classify(Kind::Internal, what)?;
    Ok(stream)
}
