//! The distribution protocol: references to hosts, mirrors, authentication, fetch.
//!
//! ```text
//! Registry ── repository(reference, credentials) ──> Repository   one pull's view: hosts, tokens
//!                                                      resolve()   what the reference names now
//!                                                      document()  manifests and configurations, checked
//!                                                      blob()      a stream of bytes that mends itself
//! ```
//!
//! A [`Repository`] keeps challenges and tokens for one pull only, so what one caller's credentials earned never
//! serves another. Everything a registry sends is hostile: every read has a limit, credentials go only to the host
//! they are bound to, and no message holds a secret.

mod auth;
mod body;
mod challenge;
mod client;
mod coding;
mod credentials;
mod endpoint;
mod failure;
mod fetch;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hosts;
pub mod manifest;
pub mod platform;
mod resolve;
mod retry;
mod token;

#[cfg(test)]
mod real;
#[cfg(test)]
pub(crate) mod stub;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use client::install_crypto_provider;
pub use credentials::{AuthFields, Credentials};
pub use fetch::Blob;
pub use hosts::broken_files_blocking;
pub use resolve::Resolved;

use auth::HostAuth;
use client::Clients;
use endpoint::Endpoint;

use crate::model::{Error, Reference, Result};

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directories that hold one directory a registry (`certs.d`), tried in order.
    pub config_paths: Vec<PathBuf>,
    /// Mirrors (`host[:port]`) that may see credentials meant for the reference's own registry.
    pub trusted_mirrors: Vec<String>,
    /// Limit for a connection with its TLS handshake.
    pub dial_timeout: Duration,
    /// Limit from a request to the headers of its answer.
    pub header_timeout: Duration,
    /// Limit between two pieces of a body.
    pub idle_timeout: Duration,
    /// A blob must average `min_rate` over each window of this length; zero asks for no pace.
    pub stall_window: Duration,
    /// Bytes a second.
    pub min_rate: u64,
    /// How long one request may wait in all because the registry asks for patience.
    pub retry_wait: Duration,
    /// Blobs on their way at once, for the whole node.
    pub max_downloads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config_paths: vec![
                PathBuf::from("/etc/containerd/certs.d"),
                PathBuf::from("/etc/docker/certs.d"),
            ],
            trusted_mirrors: Vec::new(),
            dial_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            stall_window: Duration::from_secs(300),
            min_rate: 1024,
            retry_wait: Duration::from_secs(60),
            max_downloads: 16,
        }
    }
}

/// The way to all registries. One for the process; clones share connections and limits.
#[derive(Clone)]
pub struct Registry {
    settings: Settings,
    clients: Arc<Clients>,
    downloads: Arc<Semaphore>,
}

impl Registry {
    /// A registry client with `settings`.
    pub fn new(settings: Settings) -> Self {
        Self {
            downloads: Arc::new(Semaphore::new(settings.max_downloads.max(1))),
            clients: Arc::default(),
            settings,
        }
    }

    /// The same registries, connections and limits with other settings. `max_downloads` stays as it was.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut other = self.clone();
        change(&mut other.settings);
        other
    }

    /// Opens one repository for one pull: reads its hosts configuration, sends nothing yet.
    ///
    /// # Errors
    /// `FailedPrecondition` where the configuration names certificates or keys that cannot be used.
    pub async fn repository(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Repository> {
        let roots = self.settings.config_paths.clone();
        let wanted = reference.clone();
        let clients = Arc::clone(&self.clients);
        let dial_timeout = self.settings.dial_timeout;
        let hosts = tokio::task::spawn_blocking(move || {
            hosts::for_reference(&roots, &wanted)?
                .into_iter()
                .map(|host| Ok((clients.for_host(&host, dial_timeout)?, host)))
                .collect::<Result<Vec<_>>>()
        })
        .await
        .map_err(|error| Error::internal("read the registry configuration").caused_by(error))??;
        let mut endpoints = Vec::with_capacity(hosts.len());
        for (clients, host) in hosts {
            let is_trusted = endpoint::is_own(&host.authority, reference)
                || self.settings.trusted_mirrors.contains(&host.authority);
            let secret = credentials.for_host(&host.authority, is_trusted);
            let auth = HostAuth::new(secret, reference.repository());
            let settings = self.settings.clone();
            endpoints.push(Endpoint::new(host, clients, auth, reference, settings));
        }
        Ok(Repository {
            inner: Arc::new(Inner {
                reference: reference.clone(),
                endpoints,
                settings: self.settings.clone(),
                downloads: Arc::clone(&self.downloads),
            }),
        })
    }
}

/// One repository as one pull sees it. Clones share hosts and tokens.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    reference: Reference,
    endpoints: Vec<Endpoint>,
    settings: Settings,
    downloads: Arc<Semaphore>,
}

impl Repository {
    /// The reference that it was opened for.
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.inner.endpoints.iter()
    }
}

impl Inner {
    fn pull_hosts(&self) -> Vec<&Endpoint> {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.host().capabilities.pull)
            .collect()
    }
}
