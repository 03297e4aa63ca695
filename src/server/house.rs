//! The rooms put together: who is made from what, and in which order they wake up.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::admin::{AdminService, Archive, Archives, Imported};
use crate::config::Shared;
use crate::containerd::grpc::{self, ChannelSettings};
use crate::containerd::{Containerd, Link};
use crate::model::clock::SystemClock;
use crate::model::{Clock, Error, Result};
use crate::node::backend;
use crate::ops::{LiveTable, Supervisor};

/// Every room of the server.
pub(super) struct House {
    config: Shared,
    supervisor: Supervisor,
    closing: CancellationToken,
    live: LiveTable,
    containerd: Containerd,
    link: Link,
}

impl House {
    /// Makes the rooms. containerd need not run yet.
    ///
    /// # Errors
    /// `InvalidArgument` where a setting cannot be used.
    pub(super) fn build(config: Shared) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let now = config.load();
        let client = grpc::connect(&ChannelSettings {
            address: now.containerd.address.clone(),
            namespace: now.containerd.namespace.clone(),
        })?;
        let supervisor = Supervisor::new();
        let stopping = supervisor.stopping().clone();
        supervisor.watch("containerd probe", async move {
            stopping.run_until_cancelled(client.prober.run()).await;
        });
        Ok(Self {
            config,
            closing: CancellationToken::new(),
            live: LiveTable::new(clock),
            containerd: client.containerd,
            link: client.link,
            supervisor,
        })
    }

    /// Cancelled once we no longer take new operations.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Runs every task of the server.
    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Where the streaming listener listens.
    pub(super) fn streaming_address(&self) -> Option<SocketAddr> {
        None
    }

    /// The services of the socket.
    pub(super) fn routes(&self) -> Routes {
        let limit = self.config.load().server.max_message_bytes.get();
        let admin = AdminService::new(self.live.clone(), Arc::new(NoArchives));
        Routes::new(admin.into_server(limit))
    }

    /// Waits for containerd, refuses one that would work against us, and brings every room to the state that records
    /// and containerd tell.
    ///
    /// # Errors
    /// `FailedPrecondition` where containerd's CRI plugin is active.
    pub(super) async fn recover(&self) -> Result<()> {
        self.link.until_up().await?;
        let plugins = self.containerd.introspection.plugins().await?;
        if !self.config.load().containerd.allow_cri_plugin {
            backend::refuse_cri_plugin(&plugins)?;
        }
        Ok(())
    }
}

/// Answers imports until the image room takes them.
struct NoArchives;

impl Archives for NoArchives {
    fn import(&self, _archive: Archive) -> BoxFuture<'_, Result<Imported>> {
        let refused = Error::unimplemented("import image: the image room takes no archives");
        std::future::ready(Err(refused)).boxed()
    }
}
