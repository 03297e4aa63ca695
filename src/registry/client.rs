//! HTTP clients: one per set of TLS settings, shared by all pulls so that connections are reused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity, Url};

use super::hosts::{Host, Scheme, Tls, is_loopback, split_port};
use crate::model::{Classify, Error, Kind, Result};

const USER_AGENT: &str = concat!("podwright/", env!("CARGO_PKG_VERSION"));
const IDLE_CONNECTION: Duration = Duration::from_secs(30);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Everything that makes two hosts need different clients.
#[derive(Clone, PartialEq, Eq, Hash)]
struct ClientKey {
    tls: Tls,
    plain_only: bool,
    is_loopback: bool,
    dial_timeout: Duration,
    /// Each request has a connection of its own.
    is_apart: bool,
}

/// The clients built so far.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<ClientKey, Client>>);

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    /// Where no other host is left to ask.
    pub(super) patient: Duration,
    /// Where the next host is waiting.
    pub(super) hasty: Duration,
}

/// The clients of one host: its own, patient or hasty, and one for wherever it sends its callers.
pub(super) struct HostClients {
    all: Arc<Clients>,
    key: ClientKey,
    hasty: Duration,
    patient_own: OnceLock<Client>,
    hasty_own: OnceLock<Client>,
}

impl HostClients {
    /// The host's own client; a patient one waits longer for the connection.
    ///
    /// # Errors
    /// `FailedPrecondition` where certificates or keys cannot be used, or the system has no CA certificates.
    pub(super) fn own(&self, is_patient: bool) -> Result<Client> {
        let slot = if is_patient {
            &self.patient_own
        } else {
            &self.hasty_own
        };
        if let Some(client) = slot.get() {
            return Ok(client.clone());
        }
        let client = self.all.get(self.key(is_patient))?;
        Ok(slot.get_or_init(|| client).clone())
    }

    /// The client for `target`, to which the host at `first` leads by a redirect or as its token realm.
    ///
    /// What is configured for a host is for that host: elsewhere the system's authorities and the configured ones
    /// count, nobody is believed without a certificate, and no client certificate is shown. With `is_apart` the request
    /// shares no connection with others that run.
    ///
    /// # Errors
    /// `FailedPrecondition` where the system has no CA certificates.
    pub(super) fn to(
        &self,
        first: &Url,
        target: &Url,
        is_patient: bool,
        is_apart: bool,
    ) -> Result<Client> {
        let is_loopback = target.host_str().is_some_and(is_loopback);
        let stays = self.key.is_loopback && is_loopback;
        let plain_only = target.scheme() == "http";
        if target.origin() == first.origin() || (stays && plain_only == self.key.plain_only) {
            if is_apart {
                let key = self.key(is_patient);
                return self.all.get(ClientKey { is_apart, ..key });
            }
            return self.own(is_patient);
        }
        let mut key = ClientKey {
            plain_only,
            is_loopback,
            is_apart,
            ..self.key(is_patient)
        };
        key.tls.skip_verify &= stays;
        key.tls.client.clear();
        self.all.get(key)
    }

    fn key(&self, is_patient: bool) -> ClientKey {
        let mut key = self.key.clone();
        if !is_patient {
            key.dial_timeout = self.hasty;
        }
        key
    }
}

impl Clients {
    /// The clients for `host`; what its file says of the time for a connection beats `dial`. The one for the place
    /// that the host has in its list, last or not, is made at once.
    ///
    /// # Errors
    /// `FailedPrecondition` where certificates or keys cannot be used, or the system has no CA certificates.
    pub(super) fn for_host(
        self: &Arc<Self>,
        host: &Host,
        dial: Dial,
        is_last: bool,
    ) -> Result<HostClients> {
        let clients = HostClients {
            all: Arc::clone(self),
            key: ClientKey {
                tls: host.tls.clone(),
                plain_only: host.scheme == Scheme::Http,
                is_loopback: is_loopback(split_port(&host.authority).0),
                dial_timeout: host.dial_timeout.unwrap_or(dial.patient),
                is_apart: false,
            },
            hasty: host.dial_timeout.unwrap_or(dial.hasty),
            patient_own: OnceLock::new(),
            hasty_own: OnceLock::new(),
        };
        clients
            .own(is_last)
            .map_err(|error| error.context(format!("TLS settings for {}", host.authority)))?;
        Ok(clients)
    }

    fn get(&self, key: ClientKey) -> Result<Client> {
        /// More than any node's configuration names; certificates that change leave old clients behind.
        const KEPT: usize = 64;
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = build(&key)?;
        if clients.len() >= KEPT {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// Makes ring the process's TLS provider unless one is installed already.
pub fn install_crypto_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider()
            .install_default()
            .is_err()
    {
        tracing::debug!("another thread installed the TLS provider first");
    }
}

fn build(key: &ClientKey) -> Result<Client> {
    install_crypto_provider();
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(key.dial_timeout)
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_keepalive(KEEPALIVE);
    if key.is_loopback {
        builder = builder.no_proxy();
    }
    if key.is_apart {
        // HTTP/2 would put all requests on one connection.
        builder = builder.http1_only();
    }
    let mut authorities = Vec::new();
    for bundle in &key.tls.ca {
        authorities.extend(
            Certificate::from_pem_bundle(bundle)
                .classify(Kind::FailedPrecondition, || "CA bundle".to_owned())?,
        );
    }
    builder = if key.plain_only {
        // No handshake will happen; do not demand CA certificates of the system.
        builder.tls_certs_only([])
    } else {
        builder.tls_certs_merge(authorities)
    };
    if key.tls.skip_verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    match key.tls.client.as_slice() {
        [] => {}
        [pair, rest @ ..] => {
            if !rest.is_empty() {
                tracing::warn!("several client certificates are configured: the first is used");
            }
            let identity = Identity::from_pem(pair).classify(Kind::FailedPrecondition, || {
                "client certificate and key".to_owned()
            })?;
            builder = builder.identity(identity);
        }
    }
    builder.build().map_err(|error| {
        Error::precondition("cannot set up TLS; check that CA certificates are installed")
            .caused_by(error)
    })
}
