//! The sign of life for systemd: given only while a request to our own socket is answered, the streaming listener takes
//! connections and the runtime runs tasks. containerd's health has no part in it: killing us would not help it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::notify;
use crate::admin::client;
use crate::model::{Classify as _, Error, Kind, Result};
use crate::ops::Supervisor;
use crate::wire::cri::VersionRequest;
use crate::wire::cri::runtime_service_client::RuntimeServiceClient;

/// Each of the checks must end within this.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts the watchdog where the unit asks for one.
pub(super) fn start(supervisor: &Supervisor, socket: PathBuf, streaming: Option<SocketAddr>) {
    let Some(interval) = notify::watchdog_interval() else {
        return;
    };
    let tasks = supervisor.clone();
    supervisor.keep("watchdog", move || {
        let (socket, tasks) = (socket.clone(), tasks.clone());
        async move {
            loop {
                match check(&tasks, &socket, streaming).await {
                    Ok(()) => notify::alive(),
                    Err(error) => tracing::error!(%error, "watchdog: no sign of life given"),
                }
                tokio::time::sleep(interval).await;
            }
        }
    });
}

async fn check(tasks: &Supervisor, socket: &Path, streaming: Option<SocketAddr>) -> Result<()> {
    let ask = async {
        tasks.detached("watchdog tick", async { Ok(()) }).await?;
        let mut runtime = RuntimeServiceClient::new(client::connect(socket).await?);
        runtime
            .version(VersionRequest::default())
            .await
            .classify(Kind::Unavailable, || "ask ourselves for the version".into())?;
        if let Some(address) = streaming {
            tokio::net::TcpStream::connect(address)
                .await
                .map(drop)
                .classify(Kind::Unavailable, || {
                    format!("connect to our streaming listener at {address}")
                })?;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, ask)
        .await
        .unwrap_or_else(|_elapsed| Err(Error::timed_out("watchdog check", LIMIT)))
}
