//! Content by digest: small documents whole and checked, blobs as a stream that mends itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::coding::{self, Coding, Decoder};
use super::endpoint::{Ask, Endpoint};
use super::failure::{Failure, Worst, shown};
use super::manifest::{MediaKind, matches, media_kind};
use super::{Inner, Repository, body};
use crate::model::{Descriptor, Error, Kind, Result};

/// How often in a row a stream may break without a byte of progress.
const STRIKES: u32 = 3;
/// So many bytes in a row are progress: a host that breaks off before them has not got better.
const PROGRESS: u64 = 64 << 10;
/// Before a broken stream is opened again; longer with each strike.
const PAUSE: Duration = Duration::from_millis(100);

impl Repository {
    /// Fetches a small document, at most `limit` bytes, and checks its size and digest.
    ///
    /// # Errors
    /// The most telling failure of all hosts.
    pub async fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        if descriptor.size > limit {
            return Err(Error::exhausted(format!(
                "{}: {} bytes, more than the {limit} that are allowed for it",
                descriptor.digest, descriptor.size
            )));
        }
        let hosts = self.inner.pull_hosts();
        let mut worst = Worst::default();
        for (at, endpoint) in hosts.iter().enumerate() {
            let is_last = at.saturating_add(1) == hosts.len();
            match document_at(endpoint, descriptor, is_last).await {
                Ok(body) => return Ok(body),
                Err(failure) => worst.note(failure),
            }
        }
        Err(worst.into_error(|| no_host(&self.inner)))
    }

    /// Opens a blob from byte `offset` on. Nothing is sent before the first [`Blob::next`].
    pub fn blob(&self, descriptor: Descriptor, offset: u64) -> Blob {
        Blob {
            repository: Arc::clone(&self.inner),
            descriptor,
            offset,
            host: 0,
            open: None,
            strikes: 0,
            progress: 0,
            worst: Worst::default(),
            pace: Pace::default(),
            permit: None,
        }
    }
}

async fn document_at(
    endpoint: &Endpoint,
    descriptor: &Descriptor,
    is_last: bool,
) -> Result<Bytes, Failure> {
    let response = endpoint.send(&ask(descriptor, 0, is_last)).await?;
    let url = response.url().clone();
    let body = body::read_all(response, descriptor.size, endpoint.idle_timeout()).await?;
    if u64::try_from(body.len()).is_ok_and(|len| len == descriptor.size)
        && matches(&descriptor.digest, &body)
    {
        return Ok(body);
    }
    Err(Failure::transport(Error::new(
        Kind::Unknown,
        format!(
            "{}: the answer has not the size and digest of {}",
            shown(&url),
            descriptor.digest
        ),
    )))
}

fn ask(descriptor: &Descriptor, offset: u64, is_last: bool) -> Ask<'_> {
    let collection = match media_kind(&descriptor.media_type) {
        MediaKind::Index | MediaKind::Manifest => "manifests",
        MediaKind::Config | MediaKind::Layer | MediaKind::Other => "blobs",
    };
    let is_plain_text = !descriptor.media_type.is_empty()
        && descriptor
            .media_type
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b',');
    Ask {
        method: Method::GET,
        collection,
        version: descriptor.digest.as_str(),
        accept: if is_plain_text {
            format!("{}, */*", descriptor.media_type)
        } else {
            "*/*".to_owned()
        },
        offset,
        is_last,
    }
}

fn no_host(inner: &Inner) -> Error {
    Error::not_found(format!(
        "{}: no configured host may be pulled from; see capabilities in hosts.toml",
        inner.reference
    ))
}

/// A blob on its way. A broken connection is opened again where it broke, on the same host first and then on the
/// next; the reader sees one unbroken sequence of bytes. The reader checks the digest.
pub struct Blob {
    repository: Arc<Inner>,
    descriptor: Descriptor,
    offset: u64,
    host: usize,
    open: Option<Open>,
    strikes: u32,
    /// Bytes since the last strike.
    progress: u64,
    worst: Worst,
    pace: Pace,
    permit: Option<OwnedSemaphorePermit>,
}

struct Open {
    response: Response,
    decoder: Decoder,
    /// Bytes to drop first: the host ignored the range.
    skip: u64,
}

impl Blob {
    /// The next bytes, or `None` after the last. Dropping the future loses nothing; time that the reader takes
    /// between calls does not count against the host.
    ///
    /// # Errors
    /// The most telling failure of all hosts, once none can go on.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.permit.is_none() {
            let downloads = Arc::clone(&self.repository.downloads);
            self.permit = downloads.acquire_owned().await.ok();
        }
        loop {
            if self.offset == self.descriptor.size {
                return Ok(None);
            }
            match self.open.take() {
                // Opening has retried all that is worth it; only a stream that breaks is opened again.
                None => {
                    let began = Instant::now();
                    let opened = self.open_host().await;
                    self.pace.wait(began.elapsed());
                    match opened {
                        Ok(open) => self.open = Some(open),
                        Err(failure) => self.strike(failure, true)?,
                    }
                }
                Some(open) => match self.read(open).await {
                    Ok(Some(bytes)) => return Ok(Some(bytes)),
                    Ok(None) => {}
                    Err(failure) => {
                        let is_final = !failure.is_transient;
                        self.strike(failure, is_final)?;
                        tokio::time::sleep(PAUSE * self.strikes).await;
                    }
                },
            }
        }
    }

    /// Counts a failure; moves to the next host where this one has had its chances.
    fn strike(&mut self, failure: Failure, is_final: bool) -> Result<()> {
        self.strikes = self.strikes.saturating_add(1);
        self.progress = 0;
        tracing::debug!(
            digest = %self.descriptor.digest, offset = self.offset, error = %failure.error,
            "blob stream broke"
        );
        self.worst.note(failure);
        if is_final || self.strikes > STRIKES {
            self.host = self.host.saturating_add(1);
            self.strikes = 0;
            self.pace = Pace::default();
        }
        if self.host < self.repository.pull_hosts().len() {
            return Ok(());
        }
        let worst = std::mem::take(&mut self.worst);
        Err(worst.into_error(|| no_host(&self.repository)))
    }

    async fn open_host(&self) -> Result<Open, Failure> {
        let hosts = self.repository.pull_hosts();
        let Some(endpoint) = hosts.get(self.host) else {
            return Err(Failure::transport(no_host(&self.repository)));
        };
        let is_last = self.host.saturating_add(1) == hosts.len();
        let response = endpoint
            .send(&ask(&self.descriptor, self.offset, is_last))
            .await?;
        let coding = coding::of(response.headers()).unwrap_or(Coding::Identity);
        let skip = self.checked_start(&response, coding)?;
        Ok(Open {
            response,
            decoder: Decoder::new(coding),
            skip,
        })
    }

    /// How many bytes of the answer lie before our offset.
    fn checked_start(&self, response: &Response, coding: Coding) -> Result<u64, Failure> {
        let wrong = |why: String| {
            let url = shown(response.url());
            Failure::transport(Error::new(Kind::Unknown, format!("{url}: {why}")))
        };
        let is_encoded = coding != Coding::Identity;
        let starts_at = if response.status() == StatusCode::PARTIAL_CONTENT {
            if is_encoded {
                return Err(wrong("a part of an encoded body".to_owned()));
            }
            response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .and_then(|range| {
                    range
                        .strip_prefix("bytes ")?
                        .split('-')
                        .next()?
                        .parse()
                        .ok()
                })
                .ok_or_else(|| wrong("a part without a range".to_owned()))?
        } else {
            0_u64
        };
        if starts_at != 0 && starts_at != self.offset {
            return Err(wrong(format!(
                "sent bytes from {starts_at} where {} was asked for",
                self.offset
            )));
        }
        let want = self.descriptor.size.saturating_sub(starts_at);
        match response.content_length() {
            Some(length) if !is_encoded && length != want => Err(wrong(format!(
                "sends {length} bytes where {} says {want}",
                self.descriptor.digest
            ))),
            _ => Ok(self.offset.saturating_sub(starts_at)),
        }
    }

    /// One chunk. `None` where it only held bytes to skip.
    async fn read(&mut self, mut open: Open) -> Result<Option<Bytes>, Failure> {
        let decoded = open.decoder.next();
        match decoded.map_err(|error| Failure::undecodable(error, open.response.url()))? {
            Some(bytes) => self.accept(open, bytes),
            None => match self.receive(&mut open).await? {
                Some(bytes) => self.accept(open, bytes),
                None => {
                    self.open = Some(open);
                    Ok(None)
                }
            },
        }
    }

    /// Waits for the host's next bytes; `None` where they are to be decoded first.
    async fn receive(&mut self, open: &mut Open) -> Result<Option<Bytes>, Failure> {
        let url = open.response.url().clone();
        let broke =
            |why: String| Failure::broken(Error::unavailable(format!("{}: {why}", shown(&url))));
        let settings = &self.repository.settings;
        let began = Instant::now();
        let chunk = tokio::time::timeout(settings.idle_timeout, open.response.chunk()).await;
        let waited = began.elapsed();
        let chunk = match chunk {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(broke("the stream ended before the blob".to_owned())),
            Ok(Err(error)) => return Err(Failure::sent(error, &url)),
            Err(_elapsed) => {
                return Err(broke(format!("no byte within {:?}", settings.idle_timeout)));
            }
        };
        let received = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if !self
            .pace
            .keeps_up(waited, received, settings.stall_window, settings.min_rate)
        {
            self.strikes = STRIKES;
            return Err(broke(format!(
                "less than {} bytes a second for {:?}",
                settings.min_rate, settings.stall_window
            )));
        }
        Ok(open.decoder.feed(chunk))
    }

    /// Hands out `chunk` less what is to be skipped, and keeps the stream open.
    fn accept(&mut self, mut open: Open, mut chunk: Bytes) -> Result<Option<Bytes>, Failure> {
        let received = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let dropped = open.skip.min(received);
        chunk.advance(usize::try_from(dropped).unwrap_or(chunk.len()));
        open.skip -= dropped;
        let fresh = received.saturating_sub(dropped);
        if fresh > self.descriptor.size.saturating_sub(self.offset) {
            return Err(Failure::too_large(Error::new(
                Kind::Aborted,
                format!(
                    "{}: more bytes than the {} of {}",
                    shown(open.response.url()),
                    self.descriptor.size,
                    self.descriptor.digest
                ),
            )));
        }
        self.offset = self.offset.saturating_add(fresh);
        self.open = Some(open);
        if fresh == 0 {
            return Ok(None);
        }
        self.progress = self.progress.saturating_add(fresh);
        if self.progress >= PROGRESS {
            self.strikes = 0;
        }
        Ok(Some(chunk))
    }
}

/// Whether a host delivers more than a trickle. Only time spent waiting for it counts.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    received: u64,
}

impl Pace {
    /// Charges time in which no byte could come.
    fn wait(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
    }

    fn keeps_up(&mut self, waited: Duration, received: u64, window: Duration, rate: u64) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.received = self.received.saturating_add(received);
        if window.is_zero() || self.waited < window {
            return true;
        }
        let kept_up = self.received >= rate.saturating_mul(self.waited.as_secs());
        *self = Self::default();
        kept_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_noticed_after_the_window_and_a_pause_of_the_reader_is_not() {
        let window = Duration::from_secs(300);
        let mut pace = Pace::default();
        for _ in 0..299 {
            assert!(pace.keeps_up(Duration::from_secs(1), 10, window, 1024));
        }
        assert!(!pace.keeps_up(Duration::from_secs(1), 10, window, 1024));
        assert!(pace.keeps_up(Duration::from_secs(300), 1024 * 300, window, 1024));
    }
}
