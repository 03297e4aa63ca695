//! Gates: points before and after each step of each operation where a test may hold or kill the process.
//!
//! Normally a gate is one atomic load. With `PODWRIGHT_GATE` naming a unix socket that root owns, each gate writes
//! one line, `OPERATION.STEP before|after`, and waits for one line in answer. Without an answer the connection's end
//! lets the step go on, so that a test that dies does not wedge the server.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::model::{Classify, Error, Kind, Result};

static SOCKET: OnceLock<PathBuf> = OnceLock::new();

/// Which side of a step a gate stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The step is recorded and not begun.
    Before,
    /// The step is done.
    After,
}

impl Edge {
    /// `before` or `after`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Arms the gates of this process for good.
///
/// # Errors
/// `PermissionDenied` where the socket is not root's own, since whoever holds it can hold the server.
pub fn arm(socket: &Path) -> Result<()> {
    let owner = std::fs::metadata(socket)
        .classify(Kind::InvalidArgument, || {
            format!("gate socket {}", socket.display())
        })?
        .uid();
    if owner != 0 {
        return Err(Error::new(
            Kind::PermissionDenied,
            format!("gate socket {}: not owned by root", socket.display()),
        ));
    }
    SOCKET.set(socket.to_owned()).map_err(|already| {
        Error::precondition(format!(
            "gates are armed already, asked again with {}",
            already.display()
        ))
    })
}

/// Passes the gate of `operation`'s `step`.
pub async fn gate(operation: &'static str, step: &'static str, edge: Edge) {
    if let Some(socket) = SOCKET.get()
        && let Err(error) = hold(socket, operation, step, edge).await
    {
        tracing::warn!(operation, step, edge = edge.name(), %error, "gate could not be asked");
    }
}

async fn hold(socket: &Path, operation: &str, step: &str, edge: Edge) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(format!("{operation}.{step} {}\n", edge.name()).as_bytes())
        .await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(())
}
