//! One output FIFO: copy, log, only then consume.
//!
//! The invariant: **a byte leaves the FIFO only after the record that holds it was given to the kernel in a
//! finished write(2)** (or was dropped because the log file fails, or by the governor). A line that is not complete stays at the
//! FIFO's front until its newline comes, the FIFO has no room for more, or the stream ends. So after a kill -9 the
//! successor finds every unwritten byte, at the beginning of a record; records of the last batch (at most what the
//! FIFO holds) may be written a second time.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::fanout::Fanout;
use super::governor::{Candidate, FILE_IS_FULL, Governor, Ruling};
use super::line::{After, LineLimit, Piece, RecordWriter, Stream, Tag, next_piece};
use super::stats::{Counters, Tally};
use super::writer::{Left, LogWriter};
use crate::model::{Classify, Clock, Kind, Result};
use crate::sys::fifo::{NullSink, Pipe, ReadEnd, Teed};

/// The kernel's default, below which no FIFO is made smaller.
const SMALLEST_CAPACITY: usize = 64 * 1024;
/// Records are given to the kernel in batches of about this size.
const BATCH: usize = 64 * 1024;

/// What each of `streams` FIFOs may hold, so that together they hold about `buffer_bytes`.
pub(super) fn capacity_for(buffer_bytes: usize, streams: usize) -> usize {
    let share = buffer_bytes / streams.max(1);
    let power_of_two = share.checked_ilog2().map_or(0, |exponent| 1 << exponent);
    power_of_two.max(SMALLEST_CAPACITY)
}

/// What one thread needs to work on FIFOs, one after another.
#[derive(Debug)]
pub(super) struct Bench {
    /// Empty between turns, by capacity: only a pipe of the FIFO's own size is full exactly when the FIFO is.
    pipes: BTreeMap<usize, Pipe>,
    buffer: Vec<u8>,
    batch: Vec<u8>,
    records: RecordWriter,
    null: NullSink,
    clock: Arc<dyn Clock>,
}

impl Bench {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self {
            pipes: BTreeMap::new(),
            buffer: Vec::new(),
            batch: Vec::new(),
            records: RecordWriter::default(),
            null: NullSink::open()?,
            clock,
        })
    }

    fn record(&mut self, stream: Stream, piece: &Piece<'_>) {
        let now = self.clock.now();
        self.records.write(&mut self.batch, now, stream, piece);
    }

    /// A whole line of ours.
    fn say(&mut self, stream: Stream, line: &str) {
        let piece = Piece {
            content: line.as_bytes(),
            tag: Tag::Full,
            consumed: 0,
        };
        self.record(stream, &piece);
    }

    /// Copies the front of `source` into the buffer, consuming nothing.
    fn look(&mut self, source: &Source) -> io::Result<Front> {
        let capacity = source.end.capacity()?.min(source.capacity);
        let mut pipe = match self.pipes.remove(&capacity) {
            Some(pipe) => pipe,
            None => Pipe::new(capacity).map_err(io::Error::other)?,
        };
        let count = match source.end.tee_into(&pipe)? {
            Teed::Bytes(count) => count,
            nothing => {
                self.pipes.insert(capacity, pipe);
                return Ok(match nothing {
                    Teed::NoWriter => Front::NoWriter,
                    _ => Front::Empty,
                });
            }
        };
        let is_full = pipe.is_full()?;
        if self.buffer.len() < count {
            self.buffer.resize(count, 0);
        }
        // A pipe that fails is dropped with what is left in it.
        pipe.fill(self.buffer.get_mut(..count).unwrap_or_default())?;
        self.pipes.insert(capacity, pipe);
        Ok(Front::Bytes { count, is_full })
    }
}

/// What stands at the front of a FIFO.
enum Front {
    Empty,
    /// Nothing, and nobody who could write.
    NoWriter,
    Bytes {
        count: usize,
        /// The FIFO takes no more.
        is_full: bool,
    },
}

/// Where one container's bytes go.
#[derive(Debug)]
pub(super) struct Sink<'s> {
    pub(super) writer: &'s mut LogWriter,
    pub(super) fanout: &'s Fanout,
    pub(super) counters: &'s Counters,
    pub(super) governor: &'s mut Governor,
}

impl Sink<'_> {
    /// Puts what becomes of `piece` into the batch.
    ///
    /// # Errors
    /// When it is to be tried again, where it must wait.
    fn take(
        &mut self,
        stream: Stream,
        piece: &Piece<'_>,
        bench: &mut Bench,
        now: Instant,
    ) -> std::result::Result<(), Instant> {
        if self.governor.is_idle(stream, piece.tag) {
            bench.record(stream, piece);
            return Ok(());
        }
        let before = bench.batch.len();
        let limit = self.governor.file_limit();
        let is_full = limit.is_some_and(|limit| self.writer.has_reached(limit, before, now));
        let candidate = Candidate {
            stream,
            tag: piece.tag,
            output: piece.consumed,
        };
        match self.governor.rule(candidate, is_full, now) {
            Ruling::Wait(until) => return Err(until),
            Ruling::Write(gap) => {
                if let Some(gap) = gap {
                    bench.say(stream, &gap.to_string());
                }
                bench.record(stream, piece);
            }
            Ruling::Drop(cut) => {
                let left = match cut.is_open {
                    Some(is_open) => Left {
                        is_open,
                        is_told_full: false,
                    },
                    None => self.writer.left(stream),
                };
                if left.is_open {
                    bench.say(stream, "");
                }
                if cut.is_full && !left.is_told_full {
                    bench.say(stream, FILE_IS_FULL);
                }
            }
        }
        let more = bench.batch.len().saturating_sub(before);
        self.governor.pay(more, now);
        Ok(())
    }

    /// Gives the batch to the file, and counts the output that it accounts for.
    fn append(&mut self, bench: &mut Bench, records: u64, output: usize) {
        let writer = &mut *self.writer;
        let dropped = self.counters.busy(|| writer.append(&bench.batch));
        bench.batch.clear();
        let (over_rate, over_size) = self.governor.take_tally();
        self.counters.count(&Tally {
            records,
            bytes: u64::try_from(output).unwrap_or(u64::MAX),
            dropped,
            over_rate,
            over_size,
        });
    }

    /// Tells of gaps after which nothing came yet.
    pub(super) fn tell_gaps(&mut self, bench: &mut Bench) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(gap) = self.governor.take_gap(stream) {
                bench.say(stream, &gap.to_string());
            }
        }
        if !bench.batch.is_empty() {
            self.append(bench, 0, 0);
        }
    }
}

/// What is known of the other end of a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    /// They may come or write yet.
    Expected,
    /// The process has exited: writers that are there may write the rest yet, but none comes any more.
    Leaving,
    /// None is there, and none comes.
    Gone,
    /// One may be there that is not waited for: what is in the FIFO now is all.
    Ignored,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Something was consumed; there may be more.
    Worked,
    /// What comes next is beyond the quota, and is to be looked at again then.
    Waits {
        until: Instant,
        /// Whether something was consumed before.
        worked: bool,
    },
    /// New bytes came, which do not make a record yet.
    Grew,
    /// Nothing new: wait for the FIFO.
    Idle,
    /// The stream has ended and all of it is written.
    Ended,
}

/// The read end of one stream, and what we know of the bytes at its front.
#[derive(Debug)]
pub(super) struct Source {
    end: ReadEnd,
    stream: Stream,
    limit: LineLimit,
    capacity: usize,
    /// Bytes at the front which subscribers have already, and which make no record yet.
    held: usize,
}

impl Source {
    /// Opens `path` to read `stream`, and asks for `capacity`, more than which is never looked at together.
    ///
    /// # Errors
    /// As [`ReadEnd::open`].
    pub(super) fn open(
        path: &Path,
        stream: Stream,
        limit: LineLimit,
        capacity: usize,
    ) -> Result<Self> {
        let end = ReadEnd::open(path)?;
        end.grow(capacity)
            .classify(Kind::Internal, || format!("size the fifo {path:?}"))?;
        Ok(Self {
            end,
            stream,
            limit,
            capacity,
            held: 0,
        })
    }

    /// What its FIFO holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether an incomplete line waits in the FIFO.
    pub(super) fn holds_back(&self) -> bool {
        self.held > 0
    }

    /// Takes what is there: at most one FIFO's worth.
    ///
    /// # Errors
    /// Where the FIFO cannot be read: a fault of ours.
    pub(super) fn turn(
        &mut self,
        bench: &mut Bench,
        writers: Writers,
        sink: &mut Sink<'_>,
    ) -> io::Result<Turn> {
        let (count, is_full) = match (bench.look(self)?, writers) {
            (Front::Bytes { count, is_full }, _) => (count, is_full),
            (Front::NoWriter, Writers::Leaving) | (_, Writers::Gone | Writers::Ignored) => {
                return Ok(Turn::Ended);
            }
            (Front::Empty | Front::NoWriter, _) => return Ok(Turn::Idle),
        };
        let buffer = std::mem::take(&mut bench.buffer);
        let data = buffer.get(..count).unwrap_or_default();
        let logged = self.log(data, is_full, bench, writers, sink);
        bench.buffer = buffer;
        let (taken, waits) = logged?;
        let grew = count > self.held;
        self.held = count.saturating_sub(taken);
        Ok(match (waits, taken, grew) {
            (Some(until), _, _) => Turn::Waits {
                until,
                worked: taken > 0,
            },
            (None, 1.., _) => Turn::Worked,
            (None, 0, true) => Turn::Grew,
            (None, 0, false) => Turn::Idle,
        })
    }

    /// Logs the records of `data`, the FIFO's front, and consumes them; returns how many bytes that were, and until when
    /// the next must wait that is beyond the quota.
    fn log(
        &self,
        data: &[u8],
        is_full: bool,
        bench: &mut Bench,
        writers: Writers,
        sink: &mut Sink<'_>,
    ) -> io::Result<(usize, Option<Instant>)> {
        let now = Instant::now();
        sink.fanout
            .send(self.stream, data.get(self.held..).unwrap_or_default());
        let mut left = data;
        let mut unwritten = 0;
        let mut records = 0_u64;
        let mut waits = None;
        loop {
            let is_front = left.len() == data.len();
            let after = match (writers, is_full) {
                (Writers::Gone | Writers::Ignored, false) => After::Nothing,
                (_, true) if is_front => After::NoRoom,
                _ => After::More,
            };
            let piece = next_piece(left, self.limit, after).filter(|piece| {
                waits = sink.take(self.stream, piece, bench, now).err();
                waits.is_none()
            });
            if let Some(piece) = &piece {
                left = left.get(piece.consumed..).unwrap_or_default();
                unwritten += piece.consumed;
                records += 1;
            }
            if unwritten > 0 && (piece.is_none() || bench.batch.len() >= BATCH) {
                sink.append(bench, records, unwritten);
                self.end.consume(unwritten, &bench.null)?;
                (unwritten, records) = (0, 0);
            }
            if piece.is_none() {
                return Ok((data.len().saturating_sub(left.len()), waits));
            }
        }
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}
