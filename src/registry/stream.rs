//! Bytes of a blob in one stream that mends itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::FutureExt as _;
use reqwest::Response;
use tokio::time::Instant;

use super::Inner;
use super::coding::{self, Coding, Decoder};
use super::endpoint::Endpoint;
use super::failure::{Failure, shown};
use super::fetch::{ask, no_host};
use super::health::Fault;
use super::hedge::{Raced, race};
use super::pace::Pace;
use super::range::{Brought, Want};
use super::turns::{Turn, Turns};
use crate::model::{Descriptor, Error, Kind, Result};

/// How often in a row a stream may break without a byte of progress.
const STRIKES: u32 = 3;
/// So many bytes in a row are progress: a host that breaks off before them has not got better.
const PROGRESS: u64 = 64 << 10;
/// Before a broken stream is opened again; longer with each strike.
const PAUSE: Duration = Duration::from_millis(100);
/// How often another host is asked beside one that keeps the reader waiting, for one blob.
const HEDGES: u32 = 3;

/// Bytes of a blob on their way. A broken connection is opened again where it broke, on the same host first and then
/// on the next; a host that stalls is joined by the next, and whoever delivers first goes on. The reader sees one
/// unbroken sequence of bytes.
pub(super) struct Stream {
    repository: Arc<Inner>,
    descriptor: Arc<Descriptor>,
    want: Want,
    turns: Turns,
    /// Who is asked now; `None` before the first and between two.
    turn: Option<Turn>,
    open: Option<Open>,
    strikes: u32,
    /// Bytes since the last strike.
    progress: u64,
    /// Counts for all streams of the blob.
    hedges: Arc<AtomicU32>,
    pace: Pace,
    is_in_parts: bool,
}

struct Open {
    response: Response,
    decoder: Decoder,
    brought: Brought,
}

/// A rival that has delivered its first bytes.
struct Won {
    turn: Turn,
    open: Open,
    chunk: Bytes,
}

impl Stream {
    /// A stream of what `want` says. `first` is the host that is asked first; a stream that runs ahead asks it and
    /// those after it only.
    pub(super) fn new(
        repository: &Arc<Inner>,
        descriptor: &Arc<Descriptor>,
        want: Want,
        first: Option<usize>,
        hedges: &Arc<AtomicU32>,
    ) -> Self {
        let mut turns = repository.pull_turns();
        if let Some(first) = first {
            turns.begin_with(first, want.is_ahead);
        }
        Self {
            turns,
            repository: Arc::clone(repository),
            descriptor: Arc::clone(descriptor),
            want,
            turn: None,
            open: None,
            strikes: 0,
            progress: 0,
            hedges: Arc::clone(hedges),
            pace: Pace::default(),
            is_in_parts: false,
        }
    }

    /// The next bytes, or `None` after the last. Dropping the future loses nothing; time that the reader takes
    /// between calls does not count against the host.
    ///
    /// # Errors
    /// The most telling failure of all hosts, once none can go on.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.want.start >= self.want.end {
                return Ok(None);
            }
            let turn = self.whose_turn()?;
            let read = match self.open.take() {
                Some(open) => self.read(turn, open).await,
                None => match self.open(turn).await {
                    Raced::Own(Ok(open)) => {
                        self.adopt(open);
                        continue;
                    }
                    Raced::Own(Err(failure)) if self.goes_without_parts(turn, &failure) => continue,
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

    /// The place of the host that delivers now in the list; `None` between two.
    pub(super) fn host(&self) -> Option<usize> {
        self.turn.map(|turn| turn.at)
    }

    /// Where it ends. That is later than was asked for where a host sends no parts.
    pub(super) fn end(&self) -> u64 {
        self.want.end
    }

    /// Whether a host has sent just the part that it was asked for.
    pub(super) fn is_in_parts(&self) -> bool {
        self.is_in_parts
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
            digest = %self.descriptor.digest, offset = self.want.start, error = %failure.error,
            "blob stream broke"
        );
        self.turns.failed(turn, failure);
        let window = self.repository.settings.stall_window;
        if is_final || self.strikes > STRIKES || self.pace.is_silent_for(window) {
            self.turn = None;
            self.want.is_all = false;
            self.strikes = 0;
            self.pace = Pace::default();
        }
    }

    async fn open(&mut self, turn: Turn) -> Raced<Open, Won> {
        let endpoint = self.repository.endpoints.get(turn.at);
        if endpoint.is_some_and(|endpoint| !endpoint.health().may_send_parts()) {
            if self.want.is_ahead {
                let what = Error::unavailable("the host sends no parts of blobs");
                return Raced::Own(Err(Failure::transport(what)));
            }
            self.want.end = self.descriptor.size;
        }
        let began = Instant::now();
        let opening = open_at(&self.repository, &self.descriptor, self.want, turn).boxed();
        let opened = self.race(turn, opening).await;
        self.pace.wait(began.elapsed());
        opened
    }

    /// Waits for `own`, and with it for the rival of the host whose turn it is, where that one takes its time.
    async fn race<T>(
        &self,
        turn: Turn,
        own: impl Future<Output = Result<T, Failure>>,
    ) -> Raced<T, Won> {
        let rival = || {
            let asking = rival(
                &self.repository,
                &self.turns,
                turn,
                &self.descriptor,
                self.want,
            );
            asking.inspect(|_| {
                self.hedges.fetch_add(1, Ordering::Relaxed);
            })
        };
        race(own, self.patience(), rival).await
    }

    /// Takes up what a host has begun to send.
    fn adopt(&mut self, open: Open) {
        self.is_in_parts |= open.brought.is_part && open.brought.is_as_asked;
        if !open.brought.is_as_asked {
            self.want.end = open.brought.end;
        }
        // Where the connection breaks, another server behind the same name may answer the next request.
        self.want.is_all = false;
        self.open = Some(open);
    }

    /// Whether the host is to be asked again for more: it does not understand to be asked for less. First that is all
    /// the rest, then all of the blob.
    fn goes_without_parts(&mut self, turn: Turn, failure: &Failure) -> bool {
        let is_bounded = self.want.end < self.descriptor.size;
        let is_part = is_bounded || (self.want.start > 0 && !self.want.is_all);
        if self.want.is_ahead || !is_part || !failure.is_about_ranges() {
            return false;
        }
        self.want.is_all = !is_bounded;
        if let Some(endpoint) = self.repository.endpoints.get(turn.at) {
            endpoint.health().sends_no_parts();
        }
        self.want.end = self.descriptor.size;
        true
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
        match self.race(turn, receiving).await {
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
        if self.hedges.load(Ordering::Relaxed) < HEDGES {
            self.repository.settings.hedge_after
        } else {
            Duration::ZERO
        }
    }

    /// Goes on with the rival of `slow` where we are.
    fn go_on_with(&mut self, slow: Turn, won: Won) -> Result<Option<Bytes>, Failure> {
        tracing::debug!(
            digest = %self.descriptor.digest, offset = self.want.start,
            "blob stream goes on at another host"
        );
        self.repository.outrun(slow);
        self.turns.take(won.turn);
        self.turn = Some(won.turn);
        self.strikes = 0;
        self.progress = 0;
        self.pace = Pace::default();
        let Won { turn, open, chunk } = won;
        self.adopt(open);
        match self.open.take() {
            Some(open) => self.decode(turn, open, chunk),
            None => Ok(None),
        }
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
        let dropped = open.brought.skip.min(received);
        chunk.advance(usize::try_from(dropped).unwrap_or(chunk.len()));
        open.brought.skip -= dropped;
        let fresh = received.saturating_sub(dropped);
        if fresh > open.brought.end.saturating_sub(self.want.start) {
            return Err(Failure::too_large(Error::new(
                Kind::Aborted,
                format!(
                    "{}: more bytes than the {} asked for of {}",
                    shown(open.response.url()),
                    open.brought.end,
                    self.descriptor.digest
                ),
            )));
        }
        self.want.start = self.want.start.saturating_add(fresh);
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
        if flows || self.want.start == self.want.end {
            let endpoint = self.repository.endpoints.get(turn.at);
            endpoint.map(Endpoint::health).inspect(|it| it.delivered());
        }
        Ok(Some(chunk))
    }
}

fn length(chunk: &Bytes) -> u64 {
    u64::try_from(chunk.len()).unwrap_or(u64::MAX)
}

/// Asks the rival of `waiting`, if there is one.
fn rival(
    repository: &Arc<Inner>,
    turns: &Turns,
    waiting: Turn,
    descriptor: &Arc<Descriptor>,
    want: Want,
) -> Option<impl Future<Output = Result<Won, Failure>> + use<>> {
    let (own, descriptor) = (Arc::clone(repository), Arc::clone(descriptor));
    let ask = move |turn: Turn| {
        let asking = async move {
            let mut open = open_at(&own, &descriptor, want, turn).await?;
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
    want: Want,
    turn: Turn,
) -> Result<Open, Failure> {
    let Some(endpoint) = repository.endpoints.get(turn.at) else {
        return Err(Failure::transport(no_host(repository)));
    };
    let response = endpoint.send(&ask(descriptor, want, turn.is_last)).await?;
    let coding = coding::of(response.headers()).unwrap_or(Coding::Identity);
    let brought = want.check(descriptor, &response, coding);
    let is_part = want.is_ahead || want.end < descriptor.size;
    if is_part && !brought.as_ref().is_ok_and(|brought| brought.is_as_asked) {
        endpoint.health().sends_no_parts();
    }
    Ok(Open {
        brought: brought?,
        response,
        decoder: Decoder::new(coding),
    })
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
