//! The generated CRI client over a unix socket.

use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use podwright::wire::cri::image_service_client::ImageServiceClient;
use podwright::wire::cri::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::case::Outcome;

/// The largest message that we accept: what kubelet accepts.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Both CRI services on one connection. Cloning is cheap; each call wants its own mutable copy.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    pub(crate) images: ImageServiceClient<Channel>,
}

impl Cri {
    /// Connects at the first call, and again after each loss of the connection.
    pub(crate) fn at(socket: &Path) -> Outcome<Self> {
        let socket: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://podwright.sock").connect_with_connector_lazy(connector);
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX),
        })
    }
}
