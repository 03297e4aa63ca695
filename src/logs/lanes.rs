//! One container within its pod's thread: its streams, its log file, its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::fanout::Fanout;
use super::governor::Governor;
use super::source::{Bench, Sink, Source, Turn, Writers};
use super::stats::Counters;
use super::writer::LogWriter;
use crate::config::LogQuota;
use crate::model::Result;

/// After an exit, a stream that stays open is believed to have said all once it was silent for this long.
const QUIET: Duration = Duration::from_millis(250);
/// How soon an incomplete line is looked at again, and at most how late. The kernel tells of every write that it has
/// finished, but not of one that fills up a FIFO which is not empty and then waits for room.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// Turns that what is left gets when its writer is not waited for: two FIFOs' worth, whatever is still being written.
const LAST_TURNS: usize = 4;

/// What a pump's handle and its thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fanout: Fanout,
    pub(super) counters: Counters,
}

/// How completely a container's output is in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All of it: both streams ended.
    Complete,
    /// All that was there; some process still holds a stream open and is no longer listened to.
    WriterRemains,
    /// The log file's filesystem has not answered in time; what is unwritten follows when it does.
    Blocked,
}

/// One container's output on its way.
#[derive(Debug)]
pub(super) struct Pump {
    /// The streams that have not ended.
    lanes: Vec<Lane>,
    writer: LogWriter,
    governor: Governor,
    /// While its output is beyond the quota: when to go on reading.
    held_until: Option<Instant>,
    shared: Arc<Shared>,
    ending: Option<Ending>,
}

/// One stream of a pump.
#[derive(Debug)]
struct Lane {
    /// Its place among the container's streams.
    nth: usize,
    source: Source,
    is_ready: bool,
    /// The kernel says that its last writer has gone.
    writers_left: bool,
    /// While a line is incomplete: when to look again, and after what wait.
    again: Option<(Instant, Duration)>,
}

impl Lane {
    /// Decides when this stream has its next turn.
    fn plan(&mut self, turn: Turn) {
        self.is_ready = matches!(turn, Turn::Worked | Turn::Waits { .. });
        let (first, last) = LOOK_AGAIN;
        let wait = match (turn, self.again) {
            (Turn::Idle, Some((_, wait))) => (wait * 2).min(last),
            _ => first,
        };
        let waits = !self.is_ready && self.source.holds_back();
        self.again = waits.then(|| (Instant::now() + wait, wait));
    }
}

/// A pump whose process has exited.
#[derive(Debug)]
struct Ending {
    deadline: Instant,
    last_news: Instant,
    replies: Vec<oneshot::Sender<Drained>>,
}

impl Ending {
    fn due(&self) -> Instant {
        self.deadline.min(self.last_news + QUIET)
    }
}

impl Pump {
    pub(super) fn new(
        sources: Vec<Source>,
        writer: LogWriter,
        quota: LogQuota,
        shared: Arc<Shared>,
    ) -> Self {
        let lane = |(nth, source)| Lane {
            nth,
            source,
            is_ready: true,
            writers_left: false,
            again: None,
        };
        Self {
            lanes: sources.into_iter().enumerate().map(lane).collect(),
            governor: Governor::new(writer.keeps().then_some(quota), Instant::now()),
            held_until: None,
            writer,
            shared,
            ending: None,
        }
    }

    /// The kernel has news of the `nth` stream.
    pub(super) fn mark(&mut self, nth: usize, writers_left: bool) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.nth == nth) {
            lane.is_ready = true;
            lane.writers_left |= writers_left;
        }
    }

    /// Whether a stream may have something that may be taken.
    pub(super) fn is_ready(&self) -> bool {
        self.held_until.is_none() && self.lanes.iter().any(|lane| lane.is_ready)
    }

    /// When something is to be done without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        let end = self.ending.as_ref().map(Ending::due);
        if let Some(until) = self.held_until {
            return end.into_iter().chain([until]).min();
        }
        let again = self.lanes.iter().filter_map(|lane| lane.again);
        again.map(|(at, _)| at).chain(end).min()
    }

    /// Makes streams ready whose time has come; before an end, all have one more look.
    pub(super) fn wake(&mut self, now: Instant) {
        self.held_until = self.held_until.filter(|until| now < *until);
        let ends = self.is_over(now);
        for lane in &mut self.lanes {
            lane.is_ready |= ends || lane.again.is_some_and(|(at, _)| at <= now);
        }
    }

    /// Whether the process has exited and nothing is waited for any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| self.lanes.is_empty() || ending.due() <= now)
    }

    /// Time in which the thread was held up does not count.
    pub(super) fn forgive(&mut self, held_up: Duration) {
        if let Some(ending) = &mut self.ending {
            ending.deadline += held_up;
            ending.last_news += held_up;
        }
    }

    /// One turn for each stream that is ready.
    pub(super) fn work(&mut self, bench: &mut Bench) {
        let expected = match self.ending {
            Some(_) => Writers::Leaving,
            None => Writers::Expected,
        };
        let mut has_news = false;
        let mut has_ended = false;
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.retain_mut(|lane| {
            if !lane.is_ready || self.held_until.is_some() {
                return true;
            }
            let writers = if lane.writers_left {
                Writers::Gone
            } else {
                expected
            };
            let turn = self.turn(lane, bench, writers);
            lane.plan(turn);
            self.note_hold(turn);
            has_news |= matches!(turn, Turn::Worked | Turn::Grew);
            has_ended |= turn == Turn::Ended;
            turn != Turn::Ended
        });
        self.lanes = lanes;
        if has_ended {
            self.sink().tell_gaps(bench);
        }
        if self.lanes.is_empty() {
            self.shared.fanout.finish();
        }
        if let Some(ending) = self.ending.as_mut().filter(|_| has_news) {
            ending.last_news = Instant::now();
        }
    }

    fn turn(&mut self, lane: &mut Lane, bench: &mut Bench, writers: Writers) -> Turn {
        let mut sink = self.sink();
        lane.source
            .turn(bench, writers, &mut sink)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "log stream cannot be read, and is left");
                Turn::Ended
            })
    }

    fn sink(&mut self) -> Sink<'_> {
        Sink {
            writer: &mut self.writer,
            fanout: &self.shared.fanout,
            counters: &self.shared.counters,
            governor: &mut self.governor,
        }
    }

    /// Leaves the container alone for as long as a turn said.
    fn note_hold(&mut self, turn: Turn) {
        let counters = &self.shared.counters;
        match turn {
            Turn::Waits { until, worked } => {
                if worked {
                    counters.hold(false);
                }
                counters.hold(true);
                self.held_until = Some(until);
            }
            Turn::Worked | Turn::Ended => counters.hold(false),
            Turn::Grew | Turn::Idle => {}
        }
    }

    /// As [`LogWriter::reopen`]. A new file has room again, and its first lines tell of what the old one had none for.
    pub(super) fn reopen(&mut self, bench: &mut Bench) -> Result<()> {
        let writer = &mut self.writer;
        self.shared.counters.busy(|| writer.reopen())?;
        self.sink().tell_gaps(bench);
        self.held_until = None;
        Ok(())
    }

    /// Goes by another quota from now on.
    pub(super) fn govern(&mut self, quota: LogQuota) {
        self.governor.govern(quota, Instant::now());
        self.held_until = None;
    }

    /// The process has exited: what follows is waited for until `limit` has passed.
    pub(super) fn begin_ending(&mut self, limit: Duration, reply: oneshot::Sender<Drained>) {
        let now = Instant::now();
        let fifos = self.lanes.iter().map(|lane| lane.source.capacity());
        self.governor.begin_ending(fifos);
        self.held_until = None;
        for lane in &mut self.lanes {
            lane.is_ready = true;
        }
        let ending = self.ending.get_or_insert_with(|| Ending {
            deadline: now + limit,
            last_news: now,
            replies: Vec::new(),
        });
        ending.deadline = ending.deadline.min(now + limit);
        ending.replies.push(reply);
    }

    /// Writes what is there, waiting for nobody, and tells everyone who waits for the end.
    pub(super) fn end(mut self, bench: &mut Bench) {
        let mut drained = Drained::Complete;
        for mut lane in std::mem::take(&mut self.lanes) {
            drained = Drained::WriterRemains;
            for _ in 0..LAST_TURNS {
                if self.turn(&mut lane, bench, Writers::Ignored) == Turn::Ended {
                    break;
                }
            }
        }
        self.shared.counters.hold(false);
        self.sink().tell_gaps(bench);
        self.shared.fanout.finish();
        for reply in self.ending.into_iter().flat_map(|ending| ending.replies) {
            answer(reply, drained);
        }
    }

    /// Leaves everything that is not logged where it is.
    pub(super) fn leave(mut self, bench: &mut Bench) {
        self.sink().tell_gaps(bench);
        self.shared.fanout.finish();
    }
}

/// Replies to a caller, who may have left.
pub(super) fn answer<T>(reply: oneshot::Sender<T>, done: T) {
    if reply.send(done).is_err() {
        tracing::debug!("a caller of the log thread left before its answer");
    }
}
