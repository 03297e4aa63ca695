//! Ports of a pod for a client: each connection of the client's is one to a listener on the pod's loopback.

mod channels;
mod pairs;
mod relay;

pub(super) use channels::{MOST_PORTS, over_channels};
pub(super) use pairs::over_spdy;

use crate::model::{Error, SandboxId};

/// What the client is told of a connection that could not be made. Clients end all their forwards on such a text, so
/// nothing else is told this way.
fn failure(sandbox: &SandboxId, port: u16, error: &Error) -> String {
    format!(
        "error forwarding port {port} to pod {sandbox}, uid : {}",
        error.chain()
    )
}
