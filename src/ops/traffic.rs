//! What a live stream has carried so far, counted where its bytes pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a stream in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
}

/// Counts the bytes of one stream. Cloning gives another handle to the same counts.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// So many bytes came from the client.
    pub fn received(&self, bytes: usize) {
        add(&self.0.received, bytes);
    }

    /// So many bytes went to the client.
    pub fn sent(&self, bytes: usize) {
        add(&self.0.sent, bytes);
    }

    /// The counts so far.
    pub(super) fn so_far(&self) -> Carried {
        Carried {
            received: self.0.received.load(Ordering::Relaxed),
            sent: self.0.sent.load(Ordering::Relaxed),
        }
    }
}

fn add(count: &AtomicU64, bytes: usize) {
    count.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}
