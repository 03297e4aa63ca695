//! The streams of a connection, as its reader and its writer know them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::super::channel::Feed;

/// What reader and writer both know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    streams: Mutex<HashMap<u32, Stream>>,
    pub(super) last: AtomicU32,
    sent_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) feed: Feed,
    pub(super) is_dead: Arc<AtomicBool>,
    /// The peer sends no more.
    pub(super) peer_done: bool,
    /// We send no more.
    pub(super) own_done: bool,
}

impl Shared {
    pub(super) fn streams(&self) -> MutexGuard<'_, HashMap<u32, Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a frame of ours; whether its stream still takes any.
    pub(super) fn sending(&self, id: u32, fin: bool) -> bool {
        let mut streams = self.streams();
        let Some(stream) = streams.get_mut(&id).filter(|stream| !stream.own_done) else {
            return false;
        };
        stream.own_done = fin;
        if fin && stream.peer_done {
            streams.remove(&id);
        }
        true
    }

    /// Forgets a stream that was reset; whether there was one.
    pub(super) fn reset(&self, id: u32) -> bool {
        match self.streams().remove(&id) {
            Some(stream) => {
                stream.is_dead.store(true, Ordering::Release);
                stream.feed.gone();
                true
            }
            None => false,
        }
    }

    /// The peer has left: nobody gets anything any more.
    pub(super) fn end_all(&self) {
        for (_, stream) in self.streams().drain() {
            stream.is_dead.store(true, Ordering::Release);
            stream.feed.gone();
        }
    }

    pub(super) fn note_sent(&self) {
        *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn sent_at(&self) -> Option<Instant> {
        *self.sent_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
