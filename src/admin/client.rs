//! The client side of a podwright socket, for our own verbs.

use std::path::Path;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::model::{Classify as _, Kind, Result};

/// A connection to the server that listens on `socket`.
///
/// # Errors
/// `Unavailable` where nobody answers there.
pub async fn connect(socket: &Path) -> Result<Channel> {
    let what = || {
        format!(
            "connect to podwright at {}; is it running, and are you root?",
            socket.display()
        )
    };
    let path = socket.to_owned();
    Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .classify(Kind::Unavailable, what)
}
