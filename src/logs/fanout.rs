//! Attached clients: each gets what comes from now on, and one that is too slow is let go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::line::Stream;

/// What a subscriber may lag behind before it is let go: a burst that is read steadily costs nobody the connection.
const LAG_LIMIT: usize = 8 * 1024 * 1024;
/// What each may lag behind whatever the others do; more is taken from what all of the node share.
const LAG_OWN: usize = 1024 * 1024;
/// What all subscribers of the node may lag behind together beyond their own.
const LAG_SHARED: usize = 32 * 1024 * 1024;

/// What is taken of [`LAG_SHARED`].
static SHARED: AtomicUsize = AtomicUsize::new(0);
/// Neighbouring pieces of one stream are joined up to this size.
const PIECE: usize = 64 * 1024;

/// Why no more output comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The container's output has ended.
    Finished,
    /// The subscriber was too far behind.
    TooSlow,
}

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Bytes as the process wrote them.
    Output(Stream, Bytes),
    /// Nothing more comes.
    End(End),
}

/// A client's share of a container's output. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription(Arc<Queue>);

impl Subscription {
    /// The next bytes, or why there are none; after an [`News::End`] the same again. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> News {
        loop {
            if let Some(news) = self.0.lock().take() {
                return news;
            }
            self.0.news.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.end.get_or_insert(End::Finished);
        state.waiting.clear();
        state.lag(0);
    }
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Stream, BytesMut)>,
    bytes: usize,
    end: Option<End>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds output; whether more is wanted.
    fn push(&self, stream: Stream, output: &[u8]) -> bool {
        let wants_more = self.lock().push(stream, output);
        self.news.notify_one();
        wants_more
    }

    fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.news.notify_one();
    }
}

impl State {
    fn take(&mut self) -> Option<News> {
        match self.waiting.pop_front() {
            Some((stream, output)) => {
                self.lag(self.bytes.saturating_sub(output.len()));
                Some(News::Output(stream, output.freeze()))
            }
            None => self.end.map(News::End),
        }
    }

    /// Notes how far behind the subscriber is from now on; `false` where the node has nothing left for it.
    fn lag(&mut self, bytes: usize) -> bool {
        let shared = |bytes: usize| bytes.saturating_sub(LAG_OWN);
        let (before, after) = (shared(self.bytes), shared(bytes));
        if after > before {
            let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
            let more = |used: usize| {
                let used = used.saturating_add(after - before);
                (used <= LAG_SHARED).then_some(used)
            };
            if SHARED.fetch_update(set, fetch, more).is_err() {
                return false;
            }
        } else {
            SHARED.fetch_sub(before - after, Ordering::AcqRel);
        }
        self.bytes = bytes;
        true
    }

    fn push(&mut self, stream: Stream, output: &[u8]) -> bool {
        if self.end.is_some() {
            return false;
        }
        let bytes = self.bytes.saturating_add(output.len());
        if bytes > LAG_LIMIT || !self.lag(bytes) {
            self.end = Some(End::TooSlow);
            return false;
        }
        match self.waiting.back_mut() {
            Some((same, piece)) if *same == stream && piece.len() < PIECE => {
                piece.extend_from_slice(output);
            }
            _ => self.waiting.push_back((stream, output.into())),
        }
        true
    }
}

/// All subscribers of one container.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    /// Spares the lock while nobody listens.
    count: AtomicUsize,
    listeners: Mutex<Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    queues: Vec<Arc<Queue>>,
    has_ended: bool,
}

impl Fanout {
    pub(super) fn subscribe(&self) -> Subscription {
        let queue = Arc::new(Queue::default());
        let mut listeners = self.lock();
        if listeners.has_ended {
            queue.end(End::Finished);
        } else {
            listeners.queues.retain(|other| other.lock().end.is_none());
            listeners.queues.push(Arc::clone(&queue));
            self.count.store(listeners.queues.len(), Ordering::Release);
        }
        Subscription(queue)
    }

    /// Hands `output` to everyone who keeps up; never waits.
    pub(super) fn send(&self, stream: Stream, output: &[u8]) {
        if output.is_empty() || self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut listeners = self.lock();
        listeners.queues.retain(|queue| queue.push(stream, output));
        self.count.store(listeners.queues.len(), Ordering::Release);
    }

    /// Tells everyone, and all who come later, that this was all.
    pub(super) fn finish(&self) {
        let mut listeners = self.lock();
        listeners.has_ended = true;
        for queue in listeners.queues.drain(..) {
            queue.end(End::Finished);
        }
        self.count.store(0, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held by the tests that fill what all share, so that neither takes it from the other.
    static FILLS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn output(bytes: &'static [u8]) -> News {
        News::Output(Stream::Stdout, Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn everyone_hears_what_comes_after_subscribing() {
        let fanout = Fanout::default();
        fanout.send(Stream::Stdout, b"before");
        let mut early = fanout.subscribe();
        fanout.send(Stream::Stdout, b"a");
        let mut late = fanout.subscribe();
        fanout.send(Stream::Stdout, b"b");
        fanout.send(Stream::Stderr, b"c");
        fanout.finish();

        assert_eq!(early.next().await, output(b"ab"));
        assert_eq!(late.next().await, output(b"b"));
        let error = News::Output(Stream::Stderr, Bytes::from_static(b"c"));
        assert_eq!(late.next().await, error);
        assert_eq!(late.next().await, News::End(End::Finished));
        assert_eq!(fanout.subscribe().next().await, News::End(End::Finished));
    }

    #[tokio::test]
    async fn who_lags_too_far_is_let_go_after_what_it_had() {
        let _turn = FILLS.lock().await;
        let fanout = Fanout::default();
        let mut slow = fanout.subscribe();
        let mut heard = 0;

        for _ in 0..LAG_LIMIT / PIECE + 1 {
            fanout.send(Stream::Stdout, &[b'x'; PIECE]);
        }

        assert_eq!(fanout.count.load(Ordering::Acquire), 0);
        let end = loop {
            match slow.next().await {
                News::Output(_, bytes) => heard += bytes.len(),
                News::End(end) => break end,
            }
        };
        assert_eq!((heard, end), (LAG_LIMIT, End::TooSlow));
    }

    #[tokio::test]
    async fn all_who_lag_share_what_goes_beyond_their_own() {
        let _turn = FILLS.lock().await;
        let fanout = Fanout::default();
        let lagging: Vec<_> = (0..6).map(|_| fanout.subscribe()).collect();
        for _ in 0..LAG_LIMIT / PIECE {
            fanout.send(Stream::Stdout, &[b'x'; PIECE]);
        }
        let slow = |subscription: &&Subscription| subscription.0.lock().end.is_some();
        let let_go = lagging.iter().filter(slow).count();
        assert!(let_go > 0);
        assert!(SHARED.load(Ordering::Acquire) <= LAG_SHARED);
        drop(lagging);
        fanout.send(Stream::Stdout, b"x");
        assert_eq!(fanout.lock().queues.len(), 0);
    }

    #[tokio::test]
    async fn who_left_takes_up_no_room() {
        let fanout = Fanout::default();
        for _ in 0..1_000 {
            drop(fanout.subscribe());
        }
        assert_eq!(fanout.lock().queues.len(), 1);
        fanout.send(Stream::Stdout, b"x");
        assert_eq!(fanout.lock().queues.len(), 0);
    }
}
