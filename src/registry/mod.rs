//! The distribution protocol: references to hosts, mirrors, authentication, fetch.
//!
//! ```text
//! Registry ── repository(reference, credentials) ──> Repository   one pull's view: hosts, tokens
//!                                                      resolve()   what the reference names now
//!                                                      document()  manifests and configurations, checked
//!                                                      blob()      a stream of bytes that mends itself
//!     └────── hosts(), keep_probing()                  how each host fares, remembered between pulls
//! ```
//!
//! A [`Repository`] keeps challenges and tokens for one pull only, so what one caller's credentials earned never
//! serves another. Everything a registry sends is hostile: every read has a limit, credentials go only to the host
//! they are bound to, and no message holds a secret.

mod ahead;
mod auth;
mod blob;
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
mod health;
mod hedge;
mod hosts;
pub mod manifest;
mod node_credentials;
mod pace;
pub mod platform;
mod range;
mod redirect;
mod resolve;
mod retry;
mod stream;
mod token;
mod turns;

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

pub use blob::Blob;
pub use client::install_crypto_provider;
pub use credentials::{AuthFields, Credentials};
pub use health::{BreakerState, HostReport};
pub use hosts::broken_files_blocking;
pub use resolve::Resolved;

use ahead::Room;
use auth::HostAuth;
use client::{Clients, Dial, HostClients};
use endpoint::Endpoint;
use health::{Health, Probe};
use hosts::{Host, Scheme};
use turns::Turns;

use crate::model::{Error, Reference, Result, Timestamp};

/// Bytes a second of one connection beside which another brings nothing more: 100 MiB.
pub const ENOUGH_RATE: u64 = 100 << 20;

/// How registries are spoken to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directories that hold one directory a registry (`certs.d`), tried in order.
    pub config_paths: Vec<PathBuf>,
    /// Mirrors (`host[:port]`) that may see credentials meant for the reference's own registry.
    pub trusted_mirrors: Vec<String>,
    /// Limit for a connection with its TLS handshake.
    pub dial_timeout: Duration,
    /// The same where another host can still be asked.
    pub mirror_dial_timeout: Duration,
    /// How long a host may keep a request waiting before the next is asked as well; zero for ever.
    pub hedge_after: Duration,
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
    /// Bytes that a long blob is asked for at a time, several such pieces at once; 0 for all of it in one stream.
    pub range_size: u64,
    /// Bytes a second of one connection at which a blob is not split; `None` splits it whatever they are.
    pub enough_rate: Option<u64>,
    /// Bytes that pieces may hold whose turn has not come, for the whole node.
    pub range_memory: u64,
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
            mirror_dial_timeout: Duration::from_secs(3),
            hedge_after: Duration::from_secs(5),
            header_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            stall_window: Duration::from_secs(300),
            min_rate: 1024,
            retry_wait: Duration::from_secs(60),
            max_downloads: 16,
            range_size: 4 << 20,
            enough_rate: Some(ENOUGH_RATE),
            range_memory: 12 << 20,
        }
    }
}

impl Settings {
    /// How long a body may stand still; not for long where another host can go on.
    fn silence(&self, is_last: bool) -> Duration {
        let silence = if is_last {
            self.idle_timeout
        } else {
            self.idle_timeout.min(self.header_timeout)
        };
        self.within_window(silence)
    }

    /// Limit from a request to the headers of its answer.
    fn patience(&self) -> Duration {
        self.within_window(self.header_timeout)
    }

    fn within_window(&self, limit: Duration) -> Duration {
        if self.stall_window.is_zero() {
            limit
        } else {
            limit.min(self.stall_window)
        }
    }
}

/// The way to all registries. One for the process; clones share connections, limits and what is known of hosts.
#[derive(Clone)]
pub struct Registry {
    settings: Settings,
    clients: Arc<Clients>,
    downloads: Arc<Semaphore>,
    room: Room,
    health: Arc<Health>,
}

impl Registry {
    /// A registry client with `settings`.
    pub fn new(settings: Settings) -> Self {
        Self {
            downloads: Arc::new(Semaphore::new(settings.max_downloads.max(1))),
            room: Room::new(settings.range_memory),
            clients: Arc::default(),
            health: Arc::default(),
            settings,
        }
    }

    /// Tries hosts that are out of order until they answer again. Never ends.
    pub async fn keep_probing(self) {
        self.health.keep_probing().await;
    }

    /// Every host that was asked lately, by its name; `now` is the time that the report's times are reckoned from.
    pub fn hosts(&self, now: Timestamp) -> Vec<HostReport> {
        self.health.report(now)
    }

    /// The same registries, connections and limits with other settings. `max_downloads` and `range_memory` stay as they
    /// were.
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
        let dial = Dial {
            patient: self.settings.dial_timeout,
            hasty: self.settings.mirror_dial_timeout,
        };
        let hosts = tokio::task::spawn_blocking(move || {
            let hosts = hosts::for_reference(&roots, &wanted)?;
            let last = hosts.iter().rposition(|host| host.capabilities.pull);
            let clients_of = |(at, host)| {
                let is_last = Some(at) == last;
                let clients = clients.for_host(&host, dial, is_last)?;
                let probe = host.is_named.then(|| probe(&clients, &host, is_last));
                Ok((clients, probe.transpose()?, host))
            };
            hosts
                .into_iter()
                .enumerate()
                .map(clients_of)
                .collect::<Result<Vec<_>>>()
        })
        .await
        .map_err(|error| Error::internal("read the registry configuration").caused_by(error))??;
        let mut endpoints = Vec::with_capacity(hosts.len());
        for (clients, probe, host) in hosts {
            let is_trusted = endpoint::is_own(&host.authority, reference)
                || self.settings.trusted_mirrors.contains(&host.authority);
            let secret = credentials.for_host(&host.authority, is_trusted);
            let auth = HostAuth::new(secret, reference.repository());
            let health = self.health.host(&host.name(), probe);
            let settings = self.settings.clone();
            endpoints.push(Endpoint::new(
                host, clients, auth, health, reference, settings,
            ));
        }
        Ok(Repository {
            inner: Arc::new(Inner {
                reference: reference.clone(),
                endpoints,
                settings: self.settings.clone(),
                downloads: Arc::clone(&self.downloads),
                room: self.room.clone(),
                health: Arc::clone(&self.health),
            }),
        })
    }
}

/// How `host` is tried in the background: its root, without any header of its own.
fn probe(clients: &HostClients, host: &Host, is_last: bool) -> Result<Probe> {
    let schemes: &[&str] = match host.scheme {
        Scheme::Https => &["https"],
        Scheme::Http => &["http"],
        Scheme::HttpsThenHttp => &["https", "http"],
    };
    let url = |scheme: &&str| format!("{scheme}://{}{}/", host.authority, host.path).parse();
    Ok(Probe {
        client: clients.own(is_last)?,
        // What is no URL fails every request with its reason.
        urls: schemes.iter().map(url).filter_map(Result::ok).collect(),
    })
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
    room: Room,
    health: Arc<Health>,
}

impl Repository {
    /// The reference that it was opened for.
    pub fn reference(&self) -> &Reference {
        &self.inner.reference
    }
}

impl Inner {
    fn pull_turns(&self) -> Turns {
        Turns::new(&self.endpoints, |endpoint| {
            endpoint.host().capabilities.pull
        })
    }
}
