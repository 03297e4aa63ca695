//! Pieces of a long blob that are fetched while those before them still come.
//!
//! ```text
//! bytes      0        4        8        12       16 MiB
//!            | front  | piece  | piece  | piece  | not asked for yet
//!            |-->     |-->     |->      |--->    |
//!            `- read as it comes, needs no room
//!                     `--------`--------`- gathered in memory, within the room that all pulls share
//! ```
//!
//! What is in front never waits for room, so every pull goes on however much the others hold; the room itself is given
//! in the order in which it was asked for, a piece at a time. A piece that fails costs nothing but its own bytes: what is
//! missing of it is read as the front, with all the patience that a single stream has.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Inner;
use super::range::Want;
use super::stream::Stream;
use crate::model::Descriptor;

/// Pieces of one blob beside the one in front.
const MOST: usize = 3;
/// A blob of fewer pieces is not split.
const LEAST: u64 = 4;
/// Bytes that are handed over at a time.
const PART: usize = 256 << 10;
/// What room is counted in.
const UNIT: u64 = 4 << 10;

/// Memory for pieces whose turn has not come. Clones share it.
#[derive(Clone)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    units: u32,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(units.try_into().unwrap_or(0))),
            units,
        }
    }

    fn holds(&self, bytes: u64) -> bool {
        units(bytes) <= self.units
    }

    /// Whether nobody holds any of it.
    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.free.available_permits() == usize::try_from(self.units).unwrap()
    }

    /// Whether there is none left for another piece.
    #[cfg(test)]
    pub(super) fn is_taken(&self) -> bool {
        self.free.available_permits() < 25
    }

    /// Room for so many bytes, once it is free. Whoever asks first gets it first.
    async fn take(self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        self.free.acquire_many_owned(units(bytes)).await.ok()
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

/// Bytes of a piece, and the room that they take until they are handed on.
pub(super) struct Part {
    pub(super) bytes: Bytes,
    /// The place in the list of the host that they are from.
    pub(super) host: Option<usize>,
    _room: Option<OwnedSemaphorePermit>,
}

/// A piece on its way.
pub(super) struct Piece {
    pub(super) end: u64,
    /// Unbounded, since the piece is: it has its room.
    parts: UnboundedReceiver<Part>,
}

impl Piece {
    /// Its next bytes; `None` after the last, which may be before its end.
    pub(super) async fn next(&mut self) -> Option<Part> {
        self.parts.recv().await
    }
}

/// What of a blob is fetched ahead.
pub(super) struct Ahead {
    repository: Arc<Inner>,
    descriptor: Arc<Descriptor>,
    hedges: Arc<AtomicU32>,
    /// Bytes of a piece.
    piece: u64,
    /// Pieces at once; 0 once it has turned out not to work.
    most: usize,
    /// The host that delivers, once one has sent a part as it was asked to.
    host: Option<usize>,
    /// Up to here bytes are asked for.
    asked: u64,
    pieces: VecDeque<Piece>,
    work: FuturesUnordered<BoxFuture<'static, ()>>,
    room: Option<BoxFuture<'static, Leave>>,
}

/// What a piece needs: a host's leave, and room.
type Leave = Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>;

impl Ahead {
    /// Nothing yet, for a blob that is read from `offset` on.
    pub(super) fn new(
        repository: &Arc<Inner>,
        descriptor: &Arc<Descriptor>,
        offset: u64,
        hedges: &Arc<AtomicU32>,
    ) -> Self {
        let piece = repository.settings.range_size;
        let rest = descriptor.size.saturating_sub(offset);
        let is_long = piece > 0 && rest >= piece.saturating_mul(LEAST);
        Self {
            repository: Arc::clone(repository),
            descriptor: Arc::clone(descriptor),
            hedges: Arc::clone(hedges),
            most: if is_long && repository.room.holds(piece) {
                MOST
            } else {
                0
            },
            piece,
            host: None,
            asked: offset,
            pieces: VecDeque::new(),
            work: FuturesUnordered::new(),
            room: None,
        }
    }

    /// The piece that comes next, if it was asked for.
    pub(super) fn next(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    /// The end of what is to be read from `offset` on in the front, now that no piece begins there.
    pub(super) fn front(&mut self, offset: u64) -> u64 {
        let size = self.descriptor.size;
        self.asked = if self.most > 0 {
            offset.saturating_add(self.piece).min(size)
        } else {
            size
        };
        self.asked
    }

    /// The front comes from `host`, piece by piece as it should, and as fast as one connection needs to be or not. Where
    /// it is fast enough, more requests would only cost time: the next front is all the rest.
    pub(super) fn works(&mut self, host: Option<usize>, is_fast: Option<bool>) {
        match is_fast {
            None => {}
            Some(false) => self.host = host.or(self.host),
            Some(true) if self.host.is_none() => self.most = 0,
            Some(true) => {}
        }
    }

    /// The front brings all the rest.
    pub(super) fn end(&mut self) {
        self.most = 0;
        self.asked = self.descriptor.size;
        self.room = None;
        self.pieces.clear();
        self.work.clear();
    }

    /// A piece broke off. Fewer are asked for from now on: a host may have said that it is too much.
    pub(super) fn failed(&mut self) {
        self.most /= 2;
    }

    /// Fetches pieces; never ends. Dropping the future only pauses it.
    pub(super) async fn drive(&mut self) -> Infallible {
        loop {
            self.ask_for_room();
            let room = async {
                match &mut self.room {
                    Some(room) => room.await,
                    None => pending().await,
                }
            };
            let work = async {
                if self.work.is_empty() {
                    pending().await
                } else {
                    self.work.next().await
                }
            };
            tokio::select! {
                leave = room => {
                    self.room = None;
                    if let Some((host, room)) = leave {
                        self.begin(host, room);
                    }
                }
                _ended = work => {}
            }
        }
    }

    fn ask_for_room(&mut self) {
        if self.pieces.len() >= self.most || self.asked >= self.descriptor.size {
            self.room = None;
            return;
        }
        let endpoint = self.host.and_then(|at| self.repository.endpoints.get(at));
        if self.room.is_some() {
            return;
        }
        let Some(host) = endpoint.and_then(|endpoint| endpoint.health().part()) else {
            return;
        };
        let room = self.repository.room.clone().take(self.piece);
        self.room = Some(async move { Some((host, room.await?)) }.boxed());
    }

    fn begin(&mut self, host: OwnedSemaphorePermit, room: OwnedSemaphorePermit) {
        let end = self
            .asked
            .saturating_add(self.piece)
            .min(self.descriptor.size);
        let want = Want {
            start: self.asked,
            end,
            is_ahead: true,
            is_all: false,
        };
        let stream = Stream::new(
            &self.repository,
            &self.descriptor,
            want,
            self.host,
            &self.hedges,
        );
        let (to, parts) = unbounded_channel();
        let work = async move {
            let _host = host;
            tokio::select! {
                () = to.closed() => {}
                () = gather(stream, room, &to) => {}
            }
        };
        self.work.push(work.boxed());
        self.pieces.push_back(Piece { end, parts });
        self.asked = end;
    }
}

/// Reads a piece to its end or as far as it comes. Bytes are copied together, so that what they take is what was
/// counted, however small the portions are in which they arrive.
async fn gather(mut stream: Stream, mut room: OwnedSemaphorePermit, to: &UnboundedSender<Part>) {
    let mut gathered = BytesMut::new();
    let mut hand_over = |gathered: &mut BytesMut, host| {
        let bytes = std::mem::take(gathered).freeze();
        let units = units(bytes.len().try_into().unwrap_or(u64::MAX));
        let share = room.split(units.try_into().unwrap_or(usize::MAX));
        let part = Part {
            bytes,
            host,
            _room: share,
        };
        to.send(part).is_ok()
    };
    loop {
        let host = stream.host();
        match stream.next().await {
            Ok(Some(mut bytes)) => {
                while !bytes.is_empty() {
                    if gathered.capacity() == 0 {
                        gathered.reserve(PART);
                    }
                    let free = PART.saturating_sub(gathered.len()).min(bytes.len());
                    gathered.extend_from_slice(&bytes.split_to(free));
                    if gathered.len() >= PART && !hand_over(&mut gathered, stream.host()) {
                        return;
                    }
                }
            }
            end => {
                if let Err(error) = end {
                    tracing::debug!(error = %error.chain(), "a piece of a blob broke off");
                }
                if !gathered.is_empty() && !hand_over(&mut gathered, host) {
                    tracing::debug!("a piece of a blob is not needed any more");
                }
                return;
            }
        }
    }
}
