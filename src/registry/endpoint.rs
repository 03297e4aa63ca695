//! One host as one pull uses it: every request goes through [`Endpoint::send`], which authenticates, follows
//! redirects, and retries within one budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Method, Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::auth::{Challenger, HostAuth};
use super::client::HostClients;
use super::failure::{Failure, error_codes, has_cause, shown};
use super::health::{Fault, HostHealth};
use super::hosts::{Host, Scheme, split_port};
use super::{Settings, body, coding, redirect, retry};
use crate::model::{Error, Kind};

const SENDS: u32 = 5;
/// Sends that may end in silence: each costs the whole time-out.
const SILENCES: u32 = 2;
const MAX_REDIRECTS: usize = 10;
const MAX_HEADERS: usize = 64 * 1024;
const ERROR_BODY: usize = 64 * 1024;
const ERROR_BODY_LIMIT: Duration = Duration::from_secs(5);
/// Headers that carry credentials.
const CREDENTIALS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// A host, the client for it, and what this pull has learnt about it.
pub(super) struct Endpoint {
    host: Host,
    clients: HostClients,
    headers: HeaderMap,
    auth: HostAuth,
    health: Arc<HostHealth>,
    repository: String,
    /// The reference's domain, told to hosts that are not its own.
    namespace: Option<String>,
    speaks_plain: AtomicBool,
    settings: Settings,
}

/// One request to a host.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// `manifests` or `blobs`.
    pub(super) collection: &'static str,
    /// Tag or digest.
    pub(super) version: &'a str,
    pub(super) accept: String,
    /// Which bytes are wanted; all of them without it.
    pub(super) range: Option<String>,
    /// Nobody waits for it yet: it goes over a connection of its own, and is not asked for again.
    pub(super) is_ahead: bool,
    /// No further host follows, so trouble that passes is worth a retry here.
    pub(super) is_last: bool,
}

impl Endpoint {
    pub(super) fn new(
        host: Host,
        clients: HostClients,
        auth: HostAuth,
        health: Arc<HostHealth>,
        reference: &crate::model::Reference,
        settings: Settings,
    ) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &host.headers {
            headers.append(name, value.clone());
        }
        let is_own = is_own(&host.authority, reference);
        Self {
            speaks_plain: AtomicBool::new(host.scheme == Scheme::Http),
            namespace: (!is_own).then(|| reference.domain().to_owned()),
            repository: reference.repository().to_owned(),
            host,
            clients,
            headers,
            auth,
            health,
            settings,
        }
    }

    /// How long it may keep a reader waiting for the next bytes.
    pub(super) fn silence(&self, is_last: bool) -> Duration {
        self.settings.silence(is_last)
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// What is remembered of it.
    pub(super) fn health(&self) -> &HostHealth {
        &self.health
    }

    /// Remembers a failure as far as it is the host's. Those of [`Self::send`] are remembered already.
    pub(super) fn blame(&self, failure: &Failure) {
        if let Some(fault) = failure.fault {
            self.health.failed(fault, failure.in_short());
        }
    }

    /// Whether it may be asked while `waiting` has not failed yet. That is our impatience and not the other host's
    /// failure: for its sake no credentials travel where the request has shown none, nor over a worse line.
    pub(super) fn may_join(&self, waiting: &Self) -> bool {
        let is_line_as_good =
            self.host.scheme == Scheme::Https || waiting.host.scheme != Scheme::Https;
        !self.shows_credentials() || (waiting.shows_credentials() && is_line_as_good)
    }

    fn shows_credentials(&self) -> bool {
        self.auth.has_secret()
            || CREDENTIALS
                .iter()
                .any(|name| self.headers.contains_key(*name))
    }

    /// Sends `ask` until it succeeds or its budget is spent, and returns a 2xx response.
    ///
    /// # Errors
    /// The failure of the last send. Dropping the future abandons the request.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response, Failure> {
        let (mut previous, mut silences) = (None, 0);
        let mut patience = self.settings.retry_wait;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let has_budget = attempt < SENDS;
            let began = Instant::now();
            let answer = self.once(ask).await;
            self.remember(&answer, began.elapsed());
            let (response, url) = match answer {
                Ok(answer) => answer,
                Err(failure) => {
                    let stalls = failure.fault == Some(Fault::Stalling);
                    silences += u32::from(stalls);
                    let is_worth_it = !stalls || silences < SILENCES;
                    let is_due = ask.is_last && !ask.is_ahead && has_budget;
                    if failure.is_transient && is_due && is_worth_it {
                        tokio::time::sleep(retry::TRANSPORT_PAUSE).await;
                        continue;
                    }
                    return Err(failure);
                }
            };
            let status = response.status();
            if status.is_success() {
                self.auth.accepted().await;
                return Ok(response);
            }
            let is_own_answer = response.url().origin() == url.origin();
            let pause = match status {
                StatusCode::UNAUTHORIZED if is_own_answer => {
                    self.auth
                        .challenged(response.headers(), &shown(&url))
                        .await
                        .map_err(Failure::transport)?;
                    Some(Duration::ZERO)
                }
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                    Some(retry::pause(response.headers(), attempt))
                }
                StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
                    if ask.is_last && previous != Some(status) =>
                {
                    Some(retry::pause(response.headers(), attempt))
                }
                _ => None,
            };
            previous = Some(status);
            let may_wait = !ask.is_ahead || status == StatusCode::UNAUTHORIZED;
            match pause {
                Some(pause) if has_budget && may_wait && pause <= patience => {
                    patience -= pause;
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(http_failure(response).await),
            }
        }
    }

    fn remember(&self, answer: &Result<(Response, Url), Failure>, took: Duration) {
        match answer {
            Ok((response, _url)) if response.status().is_server_error() => {
                let what = format!("answers {}", response.status());
                self.health.failed(Fault::Erring, what);
            }
            Ok(_answered) => self.health.answered(took),
            Err(failure) => self.blame(failure),
        }
    }

    /// One try with its redirects; also the URL it began with.
    async fn once(&self, ask: &Ask<'_>) -> Result<(Response, Url), Failure> {
        let url = self.url(ask)?;
        let first = self.follow(ask, url.clone()).await;
        match first {
            Err(failure) if self.falls_back(&failure) => {
                tracing::debug!(host = %self.host.authority, "no TLS there: going on in plain HTTP");
                self.speaks_plain.store(true, Ordering::Relaxed);
                let url = self.url(ask)?;
                Ok((self.follow(ask, url.clone()).await?, url))
            }
            first => Ok((first?, url)),
        }
    }

    fn url(&self, ask: &Ask<'_>) -> Result<Url, Failure> {
        let scheme = if self.speaks_plain.load(Ordering::Relaxed) {
            "http"
        } else {
            "https"
        };
        let text = format!(
            "{scheme}://{}{}/{}/{}/{}",
            self.host.authority, self.host.path, self.repository, ask.collection, ask.version
        );
        let mut url = Url::parse(&text).map_err(|error| {
            Failure::transport(
                Error::invalid(format!(
                    "registry host {:?}: not usable in a URL",
                    self.host.authority
                ))
                .caused_by(error),
            )
        })?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Whether plain HTTP is to be tried after this failure of TLS.
    fn falls_back(&self, failure: &Failure) -> bool {
        if self.host.scheme != Scheme::HttpsThenHttp || self.speaks_plain.load(Ordering::Relaxed) {
            return false;
        }
        let has_port = split_port(&self.host.authority).1.is_some();
        has_cause(&failure.error, |cause| {
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return matches!(tls, rustls::Error::InvalidMessage(_));
            }
            if let Some(sent) = cause.downcast_ref::<reqwest::Error>() {
                return sent.is_timeout() && sent.is_connect();
            }
            cause.downcast_ref::<std::io::Error>().is_some_and(|io| {
                use std::io::ErrorKind as K;
                match io.kind() {
                    K::UnexpectedEof | K::ConnectionReset | K::TimedOut => true,
                    K::ConnectionRefused => !has_port,
                    _ => false,
                }
            })
        })
    }

    async fn follow(&self, ask: &Ask<'_>, first: Url) -> Result<Response, Failure> {
        let mut url = first.clone();
        for _hop in 0..=MAX_REDIRECTS {
            let response = self.request(ask, &first, &url).await?;
            let target = response.headers().get(LOCATION);
            let (true, Some(target)) = (response.status().is_redirection(), target) else {
                return Ok(response);
            };
            url = redirect::target(&url, target)?;
        }
        Err(Failure::transport(Error::unavailable(format!(
            "{}: more than {MAX_REDIRECTS} redirects",
            shown(&first)
        ))))
    }

    async fn request(&self, ask: &Ask<'_>, first: &Url, url: &Url) -> Result<Response, Failure> {
        let is_own = url.origin() == first.origin();
        let mut headers = if is_own {
            self.headers.clone()
        } else {
            without_credentials(&self.headers)
        };
        let from = Challenger {
            clients: &self.clients,
            url: first,
            headers: &self.headers,
            is_last: ask.is_last,
        };
        if is_own
            && let Some(value) = self
                .auth
                .authorization(&from)
                .await
                .map_err(Failure::transport)?
        {
            headers.insert(AUTHORIZATION, value);
        }
        let client = self
            .clients
            .to(first, url, ask.is_last, ask.is_ahead)
            .map_err(Failure::transport)?;
        // Trouble at another host, to which this one has led us, says less of this one.
        let judged = |failure: Failure| if is_own { failure } else { failure.elsewhere() };
        let mut builder = client
            .request(ask.method.clone(), url.clone())
            .headers(headers)
            .header(ACCEPT, &ask.accept)
            .header(ACCEPT_ENCODING, "identity");
        if let Some(range) = &ask.range {
            builder = builder.header(RANGE, range);
        }
        let limit = self.settings.patience();
        let response = tokio::time::timeout(limit, builder.send())
            .await
            .map_err(|_elapsed| {
                Failure::stalled(Error::unavailable(format!(
                    "{}: no answer within {limit:?}",
                    shown(url)
                )))
            })?
            .map_err(|error| judged(Failure::sent(error, url)))?;
        check_headers(&response, url)?;
        Ok(response)
    }
}

/// Whether `authority` is the registry that the reference itself names.
pub(super) fn is_own(authority: &str, reference: &crate::model::Reference) -> bool {
    authority == reference.endpoint() || authority == reference.domain()
}

/// `headers` less those that carry credentials.
pub(super) fn without_credentials(headers: &HeaderMap) -> HeaderMap {
    let mut public = headers.clone();
    for name in CREDENTIALS {
        public.remove(name);
    }
    public
}

fn check_headers(response: &Response, url: &Url) -> Result<(), Failure> {
    let size: usize = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len().saturating_add(value.len()))
        .sum();
    if size > MAX_HEADERS {
        return Err(Failure::too_large(Error::unavailable(format!(
            "{}: answer headers larger than 64 KiB",
            shown(url)
        ))));
    }
    if response.status().is_success() && coding::of(response.headers()).is_none() {
        return Err(Failure::transport(Error::new(
            Kind::Unknown,
            format!(
                "{}: sent a body in a content encoding that was not accepted",
                shown(url)
            ),
        )));
    }
    if response.status().is_success()
        && let Some(warning) = response.headers().get("warning")
        && warning.as_bytes().starts_with(b"299 ")
    {
        let text = String::from_utf8_lossy(warning.as_bytes());
        tracing::warn!(url = %shown(url), warning = %super::failure::cut(&text, 200), "registry warns");
    }
    Ok(())
}

async fn http_failure(response: Response) -> Failure {
    let status = response.status();
    let url = response.url().clone();
    let retry_after = response.headers().contains_key(RETRY_AFTER);
    let read = body::read_some(response, ERROR_BODY);
    let codes = match tokio::time::timeout(ERROR_BODY_LIMIT, read).await {
        Ok(body) => error_codes(&body),
        Err(_elapsed) => String::new(),
    };
    let failure = Failure::http(status, &url, &codes);
    if status == StatusCode::TOO_MANY_REQUESTS && retry_after {
        tracing::info!(url = %shown(&url), "the registry limits the rate of requests");
    }
    failure
}
