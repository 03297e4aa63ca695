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

use super::lanes::{Drained, Pump, Shared, answer};
use super::source::{Bench, Source};
use super::target::LogTarget;
use super::writer::LogWriter;
use crate::config::LogQuota;
use crate::model::{Classify, Clock, Kind, Result};

/// The token of the eventfd.
const WAKE: u64 = u64::MAX;
const EVENTS: usize = 16;
/// A turn that takes longer than this was held up by a filesystem.
const HELD_UP: Duration = Duration::from_millis(100);

/// Names a pump within its thread.
pub(super) type Key = u32;

/// Orders for the thread, carried out in turn with its writing.
#[derive(Debug)]
pub(super) enum Command {
    Add(Box<Add>, oneshot::Sender<Result<()>>),
    Reopen(Key, oneshot::Sender<Result<()>>),
    Finish(Key, Duration, oneshot::Sender<Drained>),
    Remove(Key),
    Govern(LogQuota),
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

/// The thread's state.
#[derive(Debug)]
pub(super) struct Worker {
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    bench: Bench,
    quota: LogQuota,
    pumps: BTreeMap<Key, Pump>,
}

impl Worker {
    /// # Errors
    /// `ResourceExhausted` where descriptors have run out.
    pub(super) fn new(
        wake: Arc<EventFd>,
        commands: Receiver<Command>,
        quota: LogQuota,
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
            quota,
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
            self.work();
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
        if let Some(pump) = self.pumps.get_mut(&key) {
            pump.mark(nth, events.contains(EpollFlags::EPOLLHUP));
        }
    }

    /// A turn for everyone; then ends the pumps whose output is complete, or not waited for any more.
    fn work(&mut self) {
        let began = Instant::now();
        for pump in self.pumps.values_mut() {
            pump.wake(began);
            pump.work(&mut self.bench);
        }
        let held_up = began.elapsed();
        if held_up > HELD_UP {
            self.pumps
                .values_mut()
                .for_each(|pump| pump.forgive(held_up));
        }
        // By the time before this turn: who is over has had a look after it.
        let is_over = |(key, pump): (&Key, &Pump)| pump.is_over(began).then_some(*key);
        let over: Vec<Key> = self.pumps.iter().filter_map(is_over).collect();
        for pump in over.iter().filter_map(|key| self.pumps.remove(key)) {
            pump.end(&mut self.bench);
        }
    }

    /// Carries out what was ordered; false once told to quit.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(add, reply)) => self.add(*add, reply),
                Ok(Command::Reopen(key, reply)) if !reply.is_closed() => {
                    let done = match self.pumps.get_mut(&key) {
                        Some(pump) => pump.reopen(&mut self.bench),
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
                        pump.leave(&mut self.bench);
                    }
                }
                Ok(Command::Govern(quota)) => {
                    self.quota = quota;
                    self.pumps.values_mut().for_each(|pump| pump.govern(quota));
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
        for (nth, source) in add.sources.iter().enumerate() {
            // Edge-triggered: an incomplete line stays in the FIFO and must not wake us again and again.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            self.epoll
                .add(source.as_fd(), EpollEvent::new(flags, token(add.key, nth)))
                .classify(Kind::ResourceExhausted, || "watch a log stream".to_owned())?;
        }
        Ok(Pump::new(add.sources, writer, self.quota, add.shared))
    }
}

fn token(key: Key, nth: usize) -> u64 {
    u64::from(key) << 1 | u64::from(nth > 0)
}

fn split_token(token: u64) -> (Key, usize) {
    let key = Key::try_from(token >> 1).unwrap_or(Key::MAX);
    (key, usize::from(token & 1 == 1))
}
