//! What a session sees of its connection, whichever transport that is: inlets that bytes come from, outlets that take
//! them, and one line that all of them share.
//!
//! Memory is bounded on both sides. Outlets wait for the connection's one writer, so a client that does not read stops
//! whoever writes. Inlets share a pool: once it is full the connection is not read any more until a session takes
//! something, because neither transport has flow control of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Neighbouring pieces of one inlet are joined up to this size, so that small ones do not hold large buffers.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for a connection's writer.
const WRITER_QUEUE: usize = 2;

/// The peer has left, or has ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// What goes out on a connection.
#[derive(Debug)]
pub(super) enum Out {
    /// Bytes of a channel; with `fin`, its last.
    Data {
        channel: u32,
        bytes: Bytes,
        fin: bool,
    },
    /// An empty message on a channel, where the transport has messages.
    Mark { channel: u32 },
    /// The end of a channel in both directions.
    Reset { channel: u32 },
    /// The end of the connection, in good order.
    Close,
}

/// A connection as its sessions hold it. Cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct Line {
    out: mpsc::Sender<Out>,
    gone: CancellationToken,
}

impl Line {
    /// A line, and the end that its writer takes from.
    pub(super) fn new() -> (Self, mpsc::Receiver<Out>) {
        let (out, queue) = mpsc::channel(WRITER_QUEUE);
        let gone = CancellationToken::new();
        (Self { out, gone }, queue)
    }

    /// Cancelled once the peer has left.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Ends the connection now, whatever still waits.
    pub(super) fn abort(&self) {
        self.gone.cancel();
    }

    /// Sends an empty message, by which WebSocket clients know that the session is ready.
    pub(super) async fn mark(&self, channel: u32) {
        drop(self.out.send(Out::Mark { channel }).await);
    }

    /// Ends the connection after everything sent so far.
    pub(super) async fn close(&self) {
        // A writer that has ended has nothing left to close.
        drop(self.out.send(Out::Close).await);
    }

    /// A handle that does not keep the connection open.
    pub(super) fn downgrade(&self) -> WeakLine {
        WeakLine {
            out: self.out.downgrade(),
            gone: self.gone.clone(),
        }
    }

    /// The sending end of a channel.
    pub(super) fn outlet(&self, channel: u32) -> Outlet {
        Outlet {
            line: self.clone(),
            channel,
            is_dead: Arc::default(),
            has_finished: false,
        }
    }
}

/// A line as the connection itself holds it: once no session does any more, the connection ends.
#[derive(Clone, Debug)]
pub(super) struct WeakLine {
    out: mpsc::WeakSender<Out>,
    gone: CancellationToken,
}

impl WeakLine {
    /// The line, while a session holds it.
    pub(super) fn upgrade(&self) -> Option<Line> {
        let out = self.out.upgrade()?;
        let gone = self.gone.clone();
        Some(Line { out, gone })
    }

    /// Cancelled once the peer has left.
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.gone
    }
}

/// Where bytes of one channel go.
#[derive(Debug)]
pub(super) struct Outlet {
    line: Line,
    channel: u32,
    is_dead: Arc<AtomicBool>,
    has_finished: bool,
}

impl Outlet {
    /// Sends `bytes`, once the connection takes them.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.put(bytes, false).await
    }

    /// Says that no more comes. The first time counts.
    pub(super) async fn finish(&mut self) {
        if !std::mem::replace(&mut self.has_finished, true) {
            // Whoever has left needs no end.
            self.put(Bytes::new(), true).await.unwrap_or_default();
        }
    }

    /// Ends the channel in both directions.
    pub(super) async fn reset(mut self) {
        self.has_finished = true;
        let channel = self.channel;
        drop(self.line.out.send(Out::Reset { channel }).await);
    }

    /// Set by whoever learns that the peer takes nothing on this channel any more.
    pub(super) fn death(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_dead)
    }

    async fn put(&self, bytes: Bytes, fin: bool) -> Result<(), Gone> {
        if self.is_dead.load(Ordering::Acquire) || self.line.gone.is_cancelled() {
            return Err(Gone);
        }
        let channel = self.channel;
        let data = Out::Data {
            channel,
            bytes,
            fin,
        };
        tokio::select! {
            sent = self.line.out.send(data) => sent.map_err(|_ended| Gone),
            () = self.line.gone.cancelled() => Err(Gone),
        }
    }
}

/// What an inlet yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Bytes, never none.
    Bytes(Bytes),
    /// The peer sends no more on this channel.
    End,
    /// The peer has left, or has ended the channel in both directions.
    Gone,
}

/// Where bytes of one channel come from. Dropping it discards what still comes.
#[derive(Debug)]
pub(super) struct Inlet(Arc<Queue>);

impl Inlet {
    /// The next bytes; after the end the same answer for ever. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Taken {
        loop {
            if let Some(taken) = self.0.take() {
                return taken;
            }
            self.0.news.notified().await;
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_abandoned = true;
        state.waiting.clear();
        let freed = std::mem::take(&mut state.bytes);
        drop(state);
        self.0.pool.give_back(freed);
    }
}

/// The reader's end of an inlet.
#[derive(Clone, Debug)]
pub(super) struct Feed(Arc<Queue>);

impl Feed {
    /// An inlet whose bytes count in `pool`, and its other end.
    pub(super) fn new(pool: &Arc<Pool>) -> (Self, Inlet) {
        let queue = Arc::new(Queue {
            pool: Arc::clone(pool),
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                bytes: 0,
                end: None,
                is_abandoned: false,
                moved_at: Instant::now(),
            }),
            news: Notify::new(),
        });
        (Self(Arc::clone(&queue)), Inlet(queue))
    }

    /// Adds bytes; those after the end, or that nobody wants, are discarded.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if bytes.is_empty() || state.end.is_some() || state.is_abandoned {
            return;
        }
        if state.bytes == 0 {
            state.moved_at = Instant::now();
        }
        state.bytes = state.bytes.saturating_add(bytes.len());
        match state.waiting.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.extend_from_slice(bytes),
            _ => state.waiting.push_back(bytes.into()),
        }
        drop(state);
        self.0.pool.used.fetch_add(bytes.len(), Ordering::AcqRel);
        self.0.news.notify_one();
    }

    /// The peer sends no more.
    pub(super) fn end(&self) {
        self.finish(Taken::End);
    }

    /// The peer is gone, or ended the channel: what waits is still handed out.
    pub(super) fn gone(&self) {
        self.finish(Taken::Gone);
    }

    /// How many bytes wait, and since when none was taken.
    pub(super) fn backlog(&self) -> (usize, Instant) {
        let state = self.0.lock();
        (state.bytes, state.moved_at)
    }

    /// Throws away what waits: the session is not to see more.
    pub(super) fn cut(&self) {
        let mut state = self.0.lock();
        state.waiting.clear();
        let freed = std::mem::take(&mut state.bytes);
        state.end = Some(Taken::Gone);
        drop(state);
        self.0.pool.give_back(freed);
        self.0.news.notify_one();
    }

    fn finish(&self, end: Taken) {
        self.0.lock().end.get_or_insert(end);
        self.0.news.notify_one();
    }
}

#[derive(Debug)]
struct Queue {
    pool: Arc<Pool>,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<BytesMut>,
    bytes: usize,
    end: Option<Taken>,
    is_abandoned: bool,
    /// When something was last taken, or began to wait.
    moved_at: Instant,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Taken> {
        let mut state = self.lock();
        let Some(piece) = state.waiting.pop_front() else {
            return state.end.clone();
        };
        state.bytes = state.bytes.saturating_sub(piece.len());
        state.moved_at = Instant::now();
        drop(state);
        self.pool.give_back(piece.len());
        Some(Taken::Bytes(piece.freeze()))
    }
}

/// What the inlets of one connection may hold together.
#[derive(Debug)]
pub(super) struct Pool {
    limit: usize,
    used: AtomicUsize,
    room: Notify,
}

impl Pool {
    /// A pool of `limit` bytes.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            room: Notify::new(),
        })
    }

    /// Whether the connection must not be read now.
    pub(super) fn is_full(&self) -> bool {
        self.used.load(Ordering::Acquire) >= self.limit
    }

    /// Waits until it may be read again.
    pub(super) async fn has_room(&self) {
        loop {
            let room = self.room.notified();
            if !self.is_full() {
                return;
            }
            room.await;
        }
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            self.room.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_and_then_the_end() {
        let pool = Pool::new(100);
        let (feed, mut inlet) = Feed::new(&pool);
        feed.push(b"he");
        feed.push(b"llo");
        feed.end();
        feed.push(b"late");
        assert_eq!(
            inlet.next().await,
            Taken::Bytes(Bytes::from_static(b"hello"))
        );
        assert_eq!(inlet.next().await, Taken::End);
        assert_eq!(inlet.next().await, Taken::End);
    }

    #[tokio::test]
    async fn a_full_pool_has_room_again_once_something_is_taken_or_nobody_wants_it() {
        let pool = Pool::new(4);
        let (feed, mut inlet) = Feed::new(&pool);
        let (other, unread) = Feed::new(&pool);
        feed.push(b"1234");
        assert!(pool.is_full());
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), pool.has_room());
        assert!(waits.await.is_err());
        inlet.next().await;
        pool.has_room().await;

        other.push(b"123456");
        assert!(pool.is_full());
        drop(unread);
        pool.has_room().await;
        other.push(b"more");
        assert!(!pool.is_full());
    }

    #[tokio::test]
    async fn small_pieces_are_joined() {
        let pool = Pool::new(usize::MAX);
        let (feed, mut inlet) = Feed::new(&pool);
        for _ in 0..PIECE * 2 {
            feed.push(b"x");
        }
        assert_eq!(feed.0.lock().waiting.len(), 2);
        feed.gone();
        let mut count = 0;
        while let Taken::Bytes(bytes) = inlet.next().await {
            count += bytes.len();
        }
        assert_eq!(count, PIECE * 2);
    }

    #[tokio::test]
    async fn an_outlet_waits_for_the_writer_and_fails_once_the_peer_has_left() {
        let (line, mut queue) = Line::new();
        let mut outlet = line.outlet(5);
        for _ in 0..WRITER_QUEUE {
            outlet.send(Bytes::from_static(b"x")).await.unwrap();
        }
        let stuck = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            outlet.send(Bytes::from_static(b"x")),
        );
        assert!(stuck.await.is_err());
        queue.recv().await.unwrap();
        outlet.finish().await;
        line.gone().cancel();
        assert_eq!(outlet.send(Bytes::from_static(b"x")).await, Err(Gone));
    }
}
