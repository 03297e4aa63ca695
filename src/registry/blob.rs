//! A blob as a stream of bytes that mends itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::FutureExt as _;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Inner;
use super::coding::{self, Coding, Decoder};
use super::endpoint::Endpoint;
use super::failure::{Failure, shown};
use super::fetch::{ask, no_host};
use super::health::Fault;
use super::hedge::{Raced, race};
use super::pace::Pace;
use super::turns::{Turn, Turns};
use crate::model::{Descriptor, Error, Kind, Result};

/// How often in a row a stream may break without a byte of progress.
const STRIKES: u32 = 3;
/// So many bytes in a row are progress: a host that breaks off before them has not got better.
const PROGRESS: u64 = 64 << 10;
/// Before a broken stream is opened again; longer with each strike.
const PAUSE: Duration = Duration::from_millis(100);
/// How often another host is asked beside one that keeps the reader waiting.
const HEDGES: u32 = 3;

/// A blob on its way. A broken connection is opened again where it broke, on the same host first and then on the
/// next; a host that stalls is joined by the next, and whoever delivers first goes on. The reader sees one unbroken
/// sequence of bytes, and checks the digest.
pub struct Blob {
    repository: Arc<Inner>,
    descriptor: Descriptor,
    offset: u64,
    turns: Turns,
    /// Who is asked now; `None` before the first and between two.
    turn: Option<Turn>,
    open: Option<Open>,
    strikes: u32,
    /// Bytes since the last strike.
    progress: u64,
    hedges: u32,
    pace: Pace,
    permit: Option<OwnedSemaphorePermit>,
}

struct Open {
    response: Response,
    decoder: Decoder,
    /// Bytes to drop first: the host ignored the range.
    skip: u64,
}

/// A rival that has delivered its first bytes.
struct Won {
    turn: Turn,
    open: Open,
    chunk: Bytes,
}

impl Blob {
    pub(super) fn new(repository: &Arc<Inner>, descriptor: Descriptor, offset: u64) -> Self {
        Self {
            turns: repository.pull_turns(),
            repository: Arc::clone(repository),
            descriptor,
            offset,
            turn: None,
            open: None,
            strikes: 0,
            progress: 0,
            hedges: 0,
            pace: Pace::default(),
            permit: None,
        }
    }

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
            let turn = self.whose_turn()?;
            let read = match self.open.take() {
                Some(open) => self.read(turn, open).await,
                None => match self.open(turn).await {
                    Raced::Own(Ok(open)) => {
                        self.open = Some(open);
                        continue;
                    }
                    // Opening has retried all that is worth it; only a stream that breaks is opened again.
                    Raced::Own(Err(failure)) => {
                        self.strike(turn, failure, true);
                        continue;
                    }
                    Raced::Rival(won) => self.go_on_with(turn, won),
                },
            };
            match read {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(failure) => {
                    let stalls = failure.fault == Some(Fault::Stalling);
                    let is_final = !failure.is_transient || (stalls && !turn.is_last);
                    if let Some(endpoint) = self.repository.endpoints.get(turn.at) {
                        endpoint.blame(&failure);
                    }
                    self.strike(turn, failure, is_final);
                    tokio::time::sleep(PAUSE * self.strikes).await;
                }
            }
        }
    }

    /// The host that delivers now, as host and port; empty between two.
    pub fn host(&self) -> &str {
        let endpoint = self
            .turn
            .and_then(|turn| self.repository.endpoints.get(turn.at));
        endpoint.map_or("", |endpoint| endpoint.host().authority.as_str())
    }

    fn whose_turn(&mut self) -> Result<Turn> {
        if self.turn.is_none() {
            self.turn = self.turns.next(&self.repository.endpoints);
        }
        self.turn
            .ok_or_else(|| std::mem::take(&mut self.turns).into_error(|| no_host(&self.repository)))
    }

    /// Counts a failure; the next host has its turn where this one has had its chances.
    fn strike(&mut self, turn: Turn, failure: Failure, is_final: bool) {
        self.strikes = self.strikes.saturating_add(1);
        self.progress = 0;
        tracing::debug!(
            digest = %self.descriptor.digest, offset = self.offset, error = %failure.error,
            "blob stream broke"
        );
        self.turns.failed(turn, failure);
        let window = self.repository.settings.stall_window;
        if is_final || self.strikes > STRIKES || self.pace.is_silent_for(window) {
            self.turn = None;
            self.strikes = 0;
            self.pace = Pace::default();
        }
    }

    async fn open(&mut self, turn: Turn) -> Raced<Open, Won> {
        let began = Instant::now();
        let opening = open_at(&self.repository, &self.descriptor, self.offset, turn).boxed();
        let patience = self.patience();
        let rival = || {
            rival(
                &self.repository,
                &self.turns,
                turn,
                &self.descriptor,
                self.offset,
            )
        };
        let opened = race(opening, patience, || rival().inspect(|_| self.hedges += 1)).await;
        self.pace.wait(began.elapsed());
        opened
    }

    /// One chunk. `None` where it only held bytes to skip.
    async fn read(&mut self, turn: Turn, mut open: Open) -> Result<Option<Bytes>, Failure> {
        let decoded = open.decoder.next();
        if let Some(bytes) =
            decoded.map_err(|error| Failure::undecodable(error, open.response.url()))?
        {
            return self.accept(turn, open, bytes);
        }
        let began = Instant::now();
        let limit = self.repository.settings.silence(turn.is_last);
        let receiving = receive(&mut open.response, limit);
        let patience = self.patience();
        let rival = || {
            rival(
                &self.repository,
                &self.turns,
                turn,
                &self.descriptor,
                self.offset,
            )
        };
        match race(receiving, patience, || {
            rival().inspect(|_| self.hedges += 1)
        })
        .await
        {
            Raced::Own(chunk) => {
                let chunk = chunk.inspect_err(|_broken| self.pace.wait(began.elapsed()))?;
                self.keep_pace(began.elapsed(), &open, length(&chunk))?;
                self.decode(turn, open, chunk)
            }
            Raced::Rival(won) => self.go_on_with(turn, won),
        }
    }

    /// How long a host may keep us waiting before another is asked as well.
    fn patience(&self) -> Duration {
        if self.hedges < HEDGES {
            self.repository.settings.hedge_after
        } else {
            Duration::ZERO
        }
    }

    /// Goes on with the rival of `slow` where we are.
    fn go_on_with(&mut self, slow: Turn, won: Won) -> Result<Option<Bytes>, Failure> {
        tracing::debug!(
            digest = %self.descriptor.digest, offset = self.offset,
            "blob stream goes on at another host"
        );
        self.repository.outrun(slow);
        self.turns.take(won.turn);
        self.turn = Some(won.turn);
        self.strikes = 0;
        self.progress = 0;
        self.pace = Pace::default();
        self.decode(won.turn, won.open, won.chunk)
    }

    fn decode(
        &mut self,
        turn: Turn,
        mut open: Open,
        chunk: Bytes,
    ) -> Result<Option<Bytes>, Failure> {
        if let Some(endpoint) = self.repository.endpoints.get(turn.at) {
            endpoint.health().received(length(&chunk));
        }
        match open.decoder.feed(chunk) {
            Some(bytes) => self.accept(turn, open, bytes),
            None => {
                self.open = Some(open);
                Ok(None)
            }
        }
    }

    fn keep_pace(&mut self, waited: Duration, open: &Open, received: u64) -> Result<(), Failure> {
        let settings = &self.repository.settings;
        let (window, rate) = (settings.stall_window, settings.min_rate);
        if self.pace.keeps_up(waited, received, window, rate) {
            return Ok(());
        }
        self.strikes = STRIKES;
        Err(Failure::stalled(Error::unavailable(format!(
            "{}: less than {rate} bytes a second for {window:?}",
            shown(open.response.url())
        ))))
    }

    /// Hands out `chunk` less what is to be skipped, and keeps the stream open.
    fn accept(
        &mut self,
        turn: Turn,
        mut open: Open,
        mut chunk: Bytes,
    ) -> Result<Option<Bytes>, Failure> {
        let received = length(&chunk);
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
        let before = self.progress;
        self.progress = before.saturating_add(fresh);
        if self.progress >= PROGRESS {
            self.strikes = 0;
        }
        let flows = before < PROGRESS && self.progress >= PROGRESS;
        if flows || self.offset == self.descriptor.size {
            let endpoint = self.repository.endpoints.get(turn.at);
            endpoint.map(Endpoint::health).inspect(|it| it.delivered());
        }
        Ok(Some(chunk))
    }
}

fn length(chunk: &Bytes) -> u64 {
    u64::try_from(chunk.len()).unwrap_or(u64::MAX)
}

/// Asks the rival of `waiting`, if there is one, for the bytes from `offset` on.
fn rival(
    repository: &Arc<Inner>,
    turns: &Turns,
    waiting: Turn,
    descriptor: &Descriptor,
    offset: u64,
) -> Option<impl Future<Output = Result<Won, Failure>> + use<>> {
    let (own, descriptor) = (Arc::clone(repository), descriptor.clone());
    let ask = move |turn: Turn| {
        let asking = async move {
            let mut open = open_at(&own, &descriptor, offset, turn).await?;
            let chunk = receive(&mut open.response, own.settings.silence(turn.is_last)).await?;
            Ok(Won { turn, open, chunk })
        };
        asking.boxed()
    };
    repository.rival(turns, waiting, ask)
}

async fn open_at(
    repository: &Inner,
    descriptor: &Descriptor,
    offset: u64,
    turn: Turn,
) -> Result<Open, Failure> {
    let Some(endpoint) = repository.endpoints.get(turn.at) else {
        return Err(Failure::transport(no_host(repository)));
    };
    let response = endpoint
        .send(&ask(descriptor, offset, turn.is_last))
        .await?;
    let coding = coding::of(response.headers()).unwrap_or(Coding::Identity);
    let skip = checked_start(descriptor, offset, &response, coding)?;
    Ok(Open {
        response,
        decoder: Decoder::new(coding),
        skip,
    })
}

/// How many bytes of the answer lie before `offset`.
fn checked_start(
    descriptor: &Descriptor,
    offset: u64,
    response: &Response,
    coding: Coding,
) -> Result<u64, Failure> {
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
    if starts_at != 0 && starts_at != offset {
        return Err(wrong(format!(
            "sent bytes from {starts_at} where {offset} was asked for"
        )));
    }
    let want = descriptor.size.saturating_sub(starts_at);
    match response.content_length() {
        Some(length) if !is_encoded && length != want => Err(wrong(format!(
            "sends {length} bytes where {} says {want}",
            descriptor.digest
        ))),
        _ => Ok(offset.saturating_sub(starts_at)),
    }
}

/// Waits for the host's next bytes.
async fn receive(response: &mut Response, limit: Duration) -> Result<Bytes, Failure> {
    let url = response.url().clone();
    let unavailable = |why: String| Error::unavailable(format!("{}: {why}", shown(&url)));
    match tokio::time::timeout(limit, response.chunk()).await {
        Ok(Ok(Some(chunk))) => Ok(chunk),
        Ok(Ok(None)) => Err(Failure::broken(unavailable(
            "the stream ended before the blob".to_owned(),
        ))),
        Ok(Err(error)) => Err(Failure::sent(error, &url)),
        Err(_elapsed) => Err(Failure::stalled(unavailable(format!(
            "no byte within {limit:?}"
        )))),
    }
}
