//! The thread of a pod that copies its containers' output. One thread a pod: all its log files lie in one
//! directory, so a filesystem that hangs there holds up this thread and nobody else's.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use tokio::sync::oneshot;

use super::fanout::Fanout;
use super::source::{Bench, Sink, Source, Turn, Writers};
use super::stats::Counters;
use super::target::LogTarget;
use super::writer::LogWriter;
use crate::model::{Classify, Clock, Kind, Result};

/// After an exit, a stream that stays open is believed to have said all once it was silent for this long.
const QUIET: Duration = Duration::from_millis(250);
/// How soon an incomplete line is looked at again, and at most how late. The kernel tells of every write that it has
/// finished, but not of one that fills up a FIFO which is not empty and then waits for room.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));
/// Turns that what is left gets when its writer is not waited for: two FIFOs' worth, whatever is still being written.
const LAST_TURNS: usize = 4;
/// The token of the eventfd.
const WAKE: u64 = u64::MAX;
const EVENTS: usize = 16;

/// What a pump's handle and its thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) fanout: Fanout,
    pub(super) counters: Counters,
}

/// Names a pump within its thread.
pub(super) type Key = u32;

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

/// Orders for the thread, carried out in turn with its writing.
#[derive(Debug)]
pub(super) enum Command {
    Add(Box<Add>, oneshot::Sender<Result<()>>),
    Reopen(Key, oneshot::Sender<Result<()>>),
    Finish(Key, Duration, oneshot::Sender<Drained>),
    Remove(Key),
    Quit,
}

/// A container's output to be taken on.
#[derive(Debug)]
pub(super) struct Add {
    pub(super) key: Key,
    pub(super) target: LogTarget,
    /// Go on without a log file where it cannot be opened, and keep trying.
    pub(super) without_file: bool,
    pub(super) sources: Vec<Source>,
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
struct Pump {
    lanes: Vec<Lane>,
    writer: LogWriter,
    shared: Arc<Shared>,
    ending: Option<Ending>,
}

/// One stream of a pump.
#[derive(Debug)]
struct Lane {
    /// Its place in the token.
    nth: usize,
    source: Source,
    is_ready: bool,
    writers_left: bool,
    /// While a line is incomplete: when to look again, and after what wait.
    again: Option<(Instant, Duration)>,
}

impl Lane {
    /// Decides when this stream has its next turn.
    fn plan(&mut self, turn: Turn) {
        self.is_ready = turn == Turn::Worked;
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

/// The thread's state.
#[derive(Debug)]
pub(super) struct Worker {
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    bench: Bench,
    pumps: BTreeMap<Key, Pump>,
}

impl Worker {
    /// # Errors
    /// `ResourceExhausted` where descriptors have run out.
    pub(super) fn new(
        wake: Arc<EventFd>,
        commands: Receiver<Command>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let watch = || "watch log streams: raise LimitNOFILE".to_owned();
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).classify(Kind::ResourceExhausted, watch)?;
        epoll
            .add(wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))
            .classify(Kind::ResourceExhausted, watch)?;
        Ok(Self {
            epoll,
            wake,
            commands,
            bench: Bench::new(clock)?,
            pumps: BTreeMap::new(),
        })
    }

    /// Works until told to quit.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, "log thread cannot wait for its streams, and ends");
                    return;
                }
            };
            for event in events.iter().take(count) {
                if event.data() != WAKE {
                    self.mark(event.data(), event.events());
                } else if let Err(error) = self.wake.read() {
                    tracing::debug!(%error, "log thread's eventfd");
                }
            }
            if !self.obey() {
                return;
            }
            let now = Instant::now();
            for pump in self.pumps.values_mut() {
                pump.wake_waiting(now);
                pump.work(&mut self.bench);
            }
            self.end_what_is_due();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.pumps.values().any(Pump::is_ready) {
            return EpollTimeout::ZERO;
        }
        let Some(first) = self.pumps.values().filter_map(Pump::due).min() else {
            return EpollTimeout::NONE;
        };
        // A millisecond more, so that it is due when we wake.
        let wait = first.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    fn mark(&mut self, token: u64, events: EpollFlags) {
        let (key, nth) = split_token(token);
        let pump = self.pumps.get_mut(&key);
        let mut lanes = pump.into_iter().flat_map(|pump| &mut pump.lanes);
        if let Some(lane) = lanes.find(|lane| lane.nth == nth) {
            lane.is_ready = true;
            lane.writers_left |= events.contains(EpollFlags::EPOLLHUP);
        }
    }

    /// Carries out what was ordered; false once told to quit.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(add, reply)) => self.add(*add, reply),
                Ok(Command::Reopen(key, reply)) if !reply.is_closed() => {
                    let done = match self.pumps.get_mut(&key) {
                        Some(pump) => pump.reopen(),
                        None => Ok(()), // its output has ended: nothing goes anywhere any more
                    };
                    answer(reply, done);
                }
                Ok(Command::Reopen(..)) => {} // the caller has given up and may have renamed files back
                Ok(Command::Finish(key, limit, reply)) => match self.pumps.get_mut(&key) {
                    Some(pump) => pump.begin_ending(limit, reply),
                    None => answer(reply, Drained::Complete),
                },
                Ok(Command::Remove(key)) => {
                    if let Some(pump) = self.pumps.remove(&key) {
                        pump.shared.fanout.finish();
                    }
                }
                Ok(Command::Quit) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn add(&mut self, add: Add, reply: oneshot::Sender<Result<()>>) {
        if reply.is_closed() {
            return;
        }
        let key = add.key;
        match self.begin(add) {
            Ok(pump) => {
                self.pumps.insert(key, pump);
                if reply.send(Ok(())).is_err() {
                    self.pumps.remove(&key); // the caller has given up
                }
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    fn begin(&self, add: Add) -> Result<Pump> {
        let counters = &add.shared.counters;
        let writer = match counters.busy(|| LogWriter::open(add.target.clone())) {
            Err(error) if add.without_file => {
                tracing::warn!(%error, "container log cannot be opened: records are dropped until it can");
                LogWriter::without_file(add.target)
            }
            opened => opened?,
        };
        let mut lanes = Vec::with_capacity(add.sources.len());
        for (nth, source) in add.sources.into_iter().enumerate() {
            // Edge-triggered: an incomplete line stays in the FIFO and must not wake us again and again.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            self.epoll
                .add(source.as_fd(), EpollEvent::new(flags, token(add.key, nth)))
                .classify(Kind::ResourceExhausted, || "watch a log stream".to_owned())?;
            lanes.push(Lane {
                nth,
                source,
                is_ready: true,
                writers_left: false,
                again: None,
            });
        }
        Ok(Pump {
            lanes,
            writer,
            shared: add.shared,
            ending: None,
        })
    }

    /// Ends the pumps whose output is complete, or no longer waited for.
    fn end_what_is_due(&mut self) {
        let now = Instant::now();
        let is_over = |(key, pump): (&Key, &Pump)| pump.is_over(now).then_some(*key);
        let over: Vec<Key> = self.pumps.iter().filter_map(is_over).collect();
        for key in over {
            let Some(mut pump) = self.pumps.remove(&key) else {
                continue;
            };
            let drained = pump.drain_rest(&mut self.bench);
            pump.shared.fanout.finish();
            for reply in pump.ending.into_iter().flat_map(|ending| ending.replies) {
                answer(reply, drained);
            }
        }
    }
}

impl Pump {
    fn is_ready(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_ready)
    }

    /// When something is to be done without an event.
    fn due(&self) -> Option<Instant> {
        let end = self.ending.as_ref().map(Ending::due);
        let again = self.lanes.iter().filter_map(|lane| lane.again);
        again.map(|(at, _)| at).chain(end).min()
    }

    fn wake_waiting(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            lane.is_ready |= lane.again.is_some_and(|(at, _)| at <= now);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ending
            .as_ref()
            .is_some_and(|ending| self.lanes.is_empty() || ending.due() <= now)
    }

    /// One turn for each stream that is ready.
    fn work(&mut self, bench: &mut Bench) {
        let expected = match self.ending {
            Some(_) => Writers::Leaving,
            None => Writers::Expected,
        };
        let mut has_news = false;
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.retain_mut(|lane| {
            if !lane.is_ready {
                return true;
            }
            let writers = if lane.writers_left {
                Writers::Gone
            } else {
                expected
            };
            let turn = self.turn(lane, bench, writers);
            lane.plan(turn);
            has_news |= matches!(turn, Turn::Worked | Turn::Grew);
            turn != Turn::Ended
        });
        self.lanes = lanes;
        if self.lanes.is_empty() {
            self.shared.fanout.finish();
        }
        if let Some(ending) = self.ending.as_mut().filter(|_| has_news) {
            ending.last_news = Instant::now();
        }
    }

    fn turn(&mut self, lane: &mut Lane, bench: &mut Bench, writers: Writers) -> Turn {
        let mut sink = Sink {
            writer: &mut self.writer,
            fanout: &self.shared.fanout,
            counters: &self.shared.counters,
        };
        lane.source
            .turn(bench, writers, &mut sink)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "log stream cannot be read, and is left");
                Turn::Ended
            })
    }

    fn reopen(&mut self) -> Result<()> {
        let writer = &mut self.writer;
        self.shared.counters.busy(|| writer.reopen())
    }

    fn begin_ending(&mut self, limit: Duration, reply: oneshot::Sender<Drained>) {
        let now = Instant::now();
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

    /// Writes what is there, waiting for nobody.
    fn drain_rest(&mut self, bench: &mut Bench) -> Drained {
        let mut drained = Drained::Complete;
        for mut lane in std::mem::take(&mut self.lanes) {
            drained = Drained::WriterRemains;
            for _ in 0..LAST_TURNS {
                if self.turn(&mut lane, bench, Writers::Ignored) == Turn::Ended {
                    break;
                }
            }
        }
        drained
    }
}

fn token(key: Key, nth: usize) -> u64 {
    u64::from(key) << 1 | u64::from(nth > 0)
}

fn split_token(token: u64) -> (Key, usize) {
    let key = Key::try_from(token >> 1).unwrap_or(Key::MAX);
    (key, usize::from(token & 1 == 1))
}

/// Replies to a caller, who may have left.
fn answer<T>(reply: oneshot::Sender<T>, done: T) {
    if reply.send(done).is_err() {
        tracing::debug!("a caller of the log thread left before its answer");
    }
}
