//! Port-forward over WebSocket channels: for the i-th port of the request channel 2i carries data both ways and channel
//! 2i + 1 an error. There is one connection for each, and no half-close (contract B13).

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::model::SandboxId;
use crate::sandbox::Sandboxes;

use super::super::channel::{Inlet, Line};
use super::super::websocket::{self, Coding, Layout};
use super::super::{Limits, Tasks};
use super::{failure, relay::relay};

/// Bytes that may wait for slow listeners, all ports together.
const BACKLOG: usize = 8 * 1024 * 1024;
/// Channels are numbered by one byte, of which base64 has one digit.
pub(in crate::streaming) const MOST_PORTS: usize = 127;

/// Serves a client's ports until each has ended, the client leaves, the pod stops, or we do.
pub(in crate::streaming) async fn over_channels<T>(
    io: T,
    coding: Coding,
    (sandboxes, sandbox): (&Sandboxes, &SandboxId),
    ports: &[u16],
    limits: &Limits,
    (tasks, stopping): (&Tasks, &CancellationToken),
) where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let channels: Vec<(u8, u16)> = (0..=u8::MAX)
        .step_by(2)
        .zip(ports.iter().copied())
        .collect();
    let layout = Layout {
        coding,
        has_close: false,
        inlets: channels.iter().map(|(channel, _)| *channel).collect(),
        backlog: BACKLOG,
        idle: limits.idle,
    };
    let (line, mut inlets, driver) = websocket::open(io, layout).await;
    tasks.run("WebSocket connection", driver);
    for (channel, port) in &channels {
        let text = Bytes::copy_from_slice(&port.to_le_bytes());
        for channel in [*channel, channel.saturating_add(1)] {
            // A client that has left is noticed below.
            let outlet = line.outlet(channel.into());
            outlet.send(text.clone()).await.unwrap_or_default();
        }
    }
    let forwards = channels.into_iter().filter_map(|(channel, port)| {
        let inlet = inlets.remove(&channel)?;
        Some(forward(&line, (channel, port), inlet, (sandboxes, sandbox)))
    });
    let forwards = futures::future::join_all(forwards);
    tokio::select! {
        _ = forwards => {}
        () = line.gone().cancelled() => {}
        () = sandboxes.until_not_ready(sandbox) => {}
        () = stopping.cancelled() => {}
    }
    line.close().await;
}

async fn forward(
    line: &Line,
    (channel, port): (u8, u16),
    inlet: Inlet,
    (sandboxes, sandbox): (&Sandboxes, &SandboxId),
) {
    match sandboxes.dial(sandbox, port).await {
        Ok(socket) => {
            // Without half-close the end of the pod's side is the end.
            let over = CancellationToken::new();
            let mut outlet = line.outlet(channel.into());
            let copied = relay(socket, inlet, &mut outlet, async || over.cancel());
            over.run_until_cancelled(copied).await;
        }
        Err(cause) => {
            let error = line.outlet(channel.saturating_add(1).into());
            let text = failure(sandbox, port, &cause);
            error.send(text.into()).await.unwrap_or_default();
        }
    }
}
