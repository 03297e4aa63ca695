//! The pumps of all pods: a thread for each pod that has any, and a handle for each container.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::oneshot;

use super::fanout::{Fanout, Subscription};
use super::lanes::{Drained, Shared};
use super::line::{LineLimit, Stream};
use super::source::{Source, capacity_for};
use super::stats::{Counters, LogTotals, PumpStats, Totals};
use super::target::LogTarget;
use super::worker::{Add, Command, Key, Worker};
use crate::config::LogQuota;
use crate::model::{Classify, Clock, Context, Error, Kind, Result, SandboxId};

/// Enough for the pump and a log line of ours; only what is used takes memory.
const STACK: usize = 256 * 1024;
/// What the thread may take to answer, beyond the limit that it was told.
const GRACE: Duration = Duration::from_millis(250);

/// The FIFOs that a task writes to. They exist, and are opened before the task is created.
#[derive(Clone, Debug)]
pub struct Fifos {
    /// Standard output, or all output of a terminal.
    pub stdout: PathBuf,
    /// Standard error; `None` with a terminal.
    pub stderr: Option<PathBuf>,
}

/// How a container's output is logged.
#[derive(Clone, Copy, Debug)]
pub struct PumpOptions {
    /// Where long lines are cut.
    pub line_limit: LineLimit,
    /// What both FIFOs together hold while the disk is slow; then the process waits. Longer lines are cut there too.
    pub buffer_bytes: usize,
    /// How long opening the log file may take before the start is given up.
    pub open_limit: Duration,
    /// Whether a log file that cannot be opened is an error, or (for a process that runs already) tried again
    /// and again while records are dropped.
    pub requires_file: bool,
}

impl Default for PumpOptions {
    fn default() -> Self {
        Self {
            line_limit: LineLimit::default(),
            buffer_bytes: 256 * 1024,
            open_limit: Duration::from_secs(10),
            requires_file: true,
        }
    }
}

/// Starts pumps, and knows the threads that run.
#[derive(Debug)]
pub struct Pumps {
    clock: Arc<dyn Clock>,
    next: AtomicU32,
    totals: Totals,
    threads: Mutex<Threads>,
}

/// Under one lock, so that no thread starts with a quota that is replaced.
#[derive(Debug)]
struct Threads {
    quota: LogQuota,
    by_pod: BTreeMap<SandboxId, Weak<Thread>>,
}

impl Pumps {
    /// No pump yet; records will be stamped by `clock`, and each container may log as much as `quota` says.
    pub fn new(clock: Arc<dyn Clock>, quota: LogQuota) -> Self {
        Self {
            clock,
            next: AtomicU32::new(0),
            totals: Totals::default(),
            threads: Mutex::new(Threads {
                quota,
                by_pod: BTreeMap::new(),
            }),
        }
    }

    /// Puts another quota in place, for those that run as well.
    pub fn govern(&self, quota: LogQuota) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut threads.quota, quota) == quota {
            return;
        }
        for thread in threads.by_pod.values().filter_map(Weak::upgrade) {
            thread.order(Command::Govern(quota));
        }
    }

    /// What all pumps counted so far.
    pub fn totals(&self) -> LogTotals {
        self.totals.read()
    }

    /// Opens the FIFOs and the log file and begins to copy. All containers of `pod` share one thread, so that a log
    /// directory that hangs stays the pod's own trouble. Dropping the future before its end undoes the start.
    ///
    /// # Errors
    /// `NotFound` without the FIFOs, `FailedPrecondition` where the log path leads to anything but a plain file,
    /// `DeadlineExceeded` where its filesystem does not answer, otherwise `Internal` or `ResourceExhausted`.
    pub async fn start(
        &self,
        pod: &SandboxId,
        target: LogTarget,
        fifos: &Fifos,
        options: PumpOptions,
    ) -> Result<LogPump> {
        let streams = if fifos.stderr.is_some() { 2 } else { 1 };
        let capacity = capacity_for(options.buffer_bytes, streams);
        let open = |path, stream| Source::open(path, stream, options.line_limit, capacity);
        let mut sources = vec![open(&fifos.stdout, Stream::Stdout)?];
        if let Some(path) = &fifos.stderr {
            sources.push(open(path, Stream::Stderr)?);
        }
        let pump = LogPump {
            key: self.next.fetch_add(1, Ordering::Relaxed),
            path: target.path(),
            shared: Arc::new(Shared {
                fanout: Fanout::default(),
                counters: Counters::new(self.totals.clone()),
            }),
            thread: self.thread(pod)?,
        };
        let add = Add {
            key: pump.key,
            target,
            without_file: !options.requires_file,
            sources,
            shared: Arc::clone(&pump.shared),
        };
        let (reply, opened) = oneshot::channel();
        pump.thread.order(Command::Add(Box::new(add), reply));
        pump.answer("open the container log", options.open_limit, opened)
            .await?
            .context(|| "open the container log".to_owned())?;
        Ok(pump)
    }

    /// The thread of `pod`, started where there is none.
    fn thread(&self, pod: &SandboxId) -> Result<Arc<Thread>> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = threads.by_pod.get(pod).and_then(Weak::upgrade) {
            return Ok(thread);
        }
        threads.by_pod.retain(|_, thread| thread.strong_count() > 0);
        let clock = Arc::clone(&self.clock);
        let thread = Arc::new(Thread::start(pod, threads.quota, clock)?);
        let weak = Arc::downgrade(&thread);
        threads.by_pod.insert(pod.clone(), weak);
        Ok(thread)
    }
}

/// The way to a pod's thread, which ends with the last handle.
#[derive(Debug)]
struct Thread {
    orders: Sender<Command>,
    wake: Arc<EventFd>,
}

impl Thread {
    fn start(pod: &SandboxId, quota: LogQuota, clock: Arc<dyn Clock>) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags)
            .map(Arc::new)
            .classify(Kind::ResourceExhausted, || {
                "make an eventfd: raise LimitNOFILE".to_owned()
            })?;
        let (orders, inbox) = channel();
        let worker = Worker::new(Arc::clone(&wake), inbox, quota, clock)?;
        // Shown by ps and top; the kernel keeps 15 bytes.
        let name = format!("log-{}", pod.short().get(..8).unwrap_or_default());
        std::thread::Builder::new()
            .name(name)
            .stack_size(STACK)
            .spawn(|| worker.run())
            .classify(Kind::ResourceExhausted, || {
                "start a log thread: raise TasksMax or kernel.threads-max".to_owned()
            })?;
        Ok(Self { orders, wake })
    }

    /// Hands over an order; a thread that has ended drops it, and the caller sees its answer missing.
    fn order(&self, command: Command) {
        if self.orders.send(command).is_err() {
            return;
        }
        if let Err(error) = self.wake.write(1) {
            // Only a counter at its end refuses, and then a wake-up is due anyway.
            tracing::debug!(%error, "wake the log thread");
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.order(Command::Quit);
    }
}

/// The pump of one container. Dropping it stops the copying where it stands; what was not logged stays in the FIFO.
#[derive(Debug)]
pub struct LogPump {
    key: Key,
    path: Option<PathBuf>,
    shared: Arc<Shared>,
    thread: Arc<Thread>,
}

impl LogPump {
    /// Opens the log's name anew, creating the file. When this returns nothing goes to the old file any more, and no
    /// record is split. Whether the container's state allows it is the caller's to know.
    ///
    /// # Errors
    /// As for opening at the start; the old file is then still written to. `DeadlineExceeded` after `limit`.
    pub async fn reopen(&self, limit: Duration) -> Result<()> {
        let (reply, done) = oneshot::channel();
        self.thread.order(Command::Reopen(self.key, reply));
        self.answer("reopen the container log", limit, done)
            .await?
            .context(|| "reopen the container log".to_owned())
    }

    /// To be called once the process has exited: waits until its output is in the log, at most for `limit`, and then
    /// ends the pump. A stream that some other process holds open is waited for only until it falls silent.
    pub async fn finish(&self, limit: Duration) -> Drained {
        let (reply, done) = oneshot::channel();
        self.thread.order(Command::Finish(self.key, limit, reply));
        let answer = tokio::time::timeout(limit + GRACE, done).await;
        answer.ok().and_then(Result::ok).unwrap_or(Drained::Blocked)
    }

    /// The container's output from now on.
    pub fn subscribe(&self) -> Subscription {
        self.shared.fanout.subscribe()
    }

    /// What was counted so far.
    pub fn stats(&self) -> PumpStats {
        self.shared.counters.read()
    }

    async fn answer<T>(
        &self,
        step: &str,
        limit: Duration,
        answer: oneshot::Receiver<T>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_closed)) => Err(Error::internal(format!(
                "{step}: the pod's log thread has ended"
            ))),
            Err(_elapsed) => Err(Error::timed_out(
                format_args!("{step} {:?}", self.path),
                limit,
            )),
        }
    }
}

impl Drop for LogPump {
    fn drop(&mut self) {
        self.thread.order(Command::Remove(self.key));
    }
}
