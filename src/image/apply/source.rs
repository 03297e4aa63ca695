//! The bytes of a layer on their way to its files: unpacked on one thread, hashed and laid out on another.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use sha2::{Digest as _, Sha256};

use super::{Most, Unpacked};
use crate::model::Digest;

/// Uncompressed bytes at a time: files are written in few large pieces.
const BUFFER: usize = 256 << 10;
/// Buffers that wait for the other thread.
const AHEAD: usize = 4;

/// Fills `buffer` as far as there are bytes.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut end = 0_usize;
    while let Some(room) = buffer.get_mut(end..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(count) => end = end.saturating_add(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(end)
}

/// Full buffers from another thread.
pub(super) struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
}

impl Ahead {
    /// Reads `from` on a thread of its own, which ends with it, or when this is dropped.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub(super) fn start<'scope, R: Read + Send + 'scope>(
        scope: &'scope Scope<'scope, '_>,
        mut from: R,
    ) -> io::Result<Self> {
        let (to_lay, full) = sync_channel(AHEAD);
        let (empty, emptied) = sync_channel::<Vec<u8>>(AHEAD.saturating_add(2));
        let work = move || {
            loop {
                let mut buffer = emptied.try_recv().unwrap_or_default();
                buffer.resize(BUFFER, 0);
                let read = fill(&mut from, &mut buffer);
                let is_last = !matches!(read, Ok(count) if count > 0);
                let piece = read.map(|count| {
                    buffer.truncate(count);
                    buffer
                });
                if to_lay.send(piece).is_err() || is_last {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("unpack".into())
            .spawn_scoped(scope, work)?;
        Ok(Self { full, empty })
    }
}

/// Where uncompressed bytes come from, buffer by buffer.
pub(super) trait Buffers {
    /// Puts the next bytes in the place of what `buffer` held; none after the last.
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<()>;
}

impl Buffers for Ahead {
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        // The thread that went without an end has panicked.
        let broken = |_ended| io::Error::other("unpacking ended early");
        let piece = self.full.recv().map_err(broken)??;
        let used = std::mem::replace(buffer, piece);
        if used.capacity() >= BUFFER && self.empty.try_send(used).is_err() {
            tracing::trace!("more buffers than are needed");
        }
        Ok(())
    }
}

/// Bytes read on the same thread.
pub(super) struct Inline<R>(pub(super) R);

impl<R: Read> Buffers for Inline<R> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.resize(BUFFER, 0);
        let count = fill(&mut self.0, buffer)?;
        buffer.truncate(count);
        Ok(())
    }
}

/// An uncompressed stream, hashed as it goes by.
pub(super) struct Hashed<B> {
    inner: B,
    hash: Sha256,
    bytes: u64,
    most: Option<Most>,
    buffer: Vec<u8>,
    start: usize,
    is_over: bool,
}

impl<B: Buffers> Hashed<B> {
    pub(super) fn new(inner: B, most: Option<Most>) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            bytes: 0,
            most,
            buffer: Vec::new(),
            start: 0,
            is_over: false,
        }
    }

    /// What all was that went by.
    pub(super) fn end(self) -> Unpacked {
        Unpacked {
            diff_id: Digest::from_sha256(&self.hash.finalize()),
            bytes: self.bytes,
        }
    }
}

impl<B: Buffers> Read for Hashed<B> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(to)?;
        self.consume(count);
        Ok(count)
    }
}

impl<B: Buffers> BufRead for Hashed<B> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start >= self.buffer.len() && !self.is_over {
            self.start = 0;
            self.inner.next(&mut self.buffer)?;
            self.is_over = self.buffer.is_empty();
            self.bytes = self.bytes.saturating_add(self.buffer.len() as u64);
            if let Some(most) = self.most.as_ref().filter(|most| self.bytes > most.bytes) {
                return Err(io::Error::other(most.exceeded()));
            }
            self.hash.update(&self.buffer);
        }
        Ok(self.buffer.get(self.start..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.buffer.len());
    }
}
