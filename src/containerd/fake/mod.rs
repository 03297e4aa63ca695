//! An in-memory world that behaves like containerd, with a failure point before and after every call.
//!
//! It holds rules, not canned answers: a task needs a container, a snapshot its parent, a lease keeps things from
//! being collected. A test takes [`World::containerd`], breaks a call with [`World::fail`], and asks
//! [`World::leftovers`] what was not taken back. Time is tokio's, so paused tests run at once.
//!
//! Where a fault kills the process, the call never returns, and neither does any later call of the same process:
//! await [`World::died`], drop everything, [`World::revive`], and run recovery on new handles.

mod faults;
mod garbage;
mod handle;
mod records;
mod services;
mod storage;
mod stores;
mod tasks;
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(crate) use faults::{Fault, When};
pub(crate) use tasks::Behaviour;

use super::{
    ContainerRecord, Containerd, Event, Exit, ImageRecord, LeaseId, Link, LinkReporter, Payload,
    ServerVersion,
};
use crate::model::{Digest, Error, Pid, Result, Timestamp};
use faults::Faults;
use garbage::Lease;
use storage::{Blob, Ingest, Snapshot};
use tasks::Task;

/// The first pid that the world hands out: above what the kernel ever gives, so that nothing real is meant.
const FIRST_PID: u32 = 5_000_000;
/// When the world begins, in seconds since the epoch.
const EPOCH: i64 = 1_700_000_000;

/// The world. Clones are the same world.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    link: Link,
    began: Instant,
    /// Ticks whenever the connection breaks or containerd answers again.
    connection: watch::Sender<u64>,
    dead: watch::Sender<bool>,
}

/// Everything that exists in the world, and how it is to behave.
struct State {
    containers: BTreeMap<String, ContainerRecord>,
    tasks: BTreeMap<String, Task>,
    snapshots: BTreeMap<(String, String), Snapshot>,
    blobs: BTreeMap<Digest, Blob>,
    ingests: BTreeMap<String, Ingest>,
    images: BTreeMap<String, ImageRecord>,
    leases: BTreeMap<LeaseId, Lease>,

    faults: Faults,
    trace: Vec<String>,
    subscribers: Vec<mpsc::UnboundedSender<Result<Event>>>,
    events_muted: bool,
    reporter: LinkReporter,
    generation: u64,
    server: Pid,
    version: ServerVersion,
    features: Option<Vec<u8>>,
    away: bool,
    hung: bool,
    life: u64,
    behaviours: BTreeMap<String, Behaviour>,
    exec_code: Option<u32>,
    pids: VecDeque<Pid>,
    next_pid: u32,
    rootfs: Option<PathBuf>,
    eager_gc: bool,
    now: Timestamp,
}

impl World {
    /// An empty world whose containerd answers.
    pub(crate) fn new() -> Self {
        let (reporter, link) = LinkReporter::new();
        let state = State {
            containers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            blobs: BTreeMap::new(),
            ingests: BTreeMap::new(),
            images: BTreeMap::new(),
            leases: BTreeMap::new(),
            faults: Faults::default(),
            trace: Vec::new(),
            subscribers: Vec::new(),
            events_muted: false,
            reporter,
            generation: 1,
            server: Pid(FIRST_PID - 1),
            version: ServerVersion {
                text: "1.6.20~ds1".into(),
                major: 1,
                minor: 6,
            },
            features: None,
            away: false,
            hung: false,
            life: 0,
            behaviours: BTreeMap::new(),
            exec_code: None,
            pids: VecDeque::new(),
            next_pid: FIRST_PID,
            rootfs: None,
            eager_gc: false,
            now: Timestamp::default(),
        };
        state.report_up();
        Self {
            state: Arc::new(Mutex::new(state)),
            link,
            began: Instant::now(),
            connection: watch::Sender::new(0),
            dead: watch::Sender::new(false),
        }
    }

    /// The seam of this world for the process that lives now.
    pub(crate) fn containerd(&self) -> Containerd {
        let life = self.lock().life;
        services::containerd(handle::Handle::new(self.clone(), life))
    }

    /// The link to this world's containerd.
    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    /// The world's clock: fixed at its beginning, then tokio's pace.
    pub(crate) fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        Timestamp(EPOCH * 1_000_000_000 + elapsed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let now = self.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = now;
        state
    }

    /// Breaks the `nth` call from now on, counting from 0 and whatever it is, once.
    pub(crate) fn fail(&self, nth: usize, fault: Fault) {
        self.lock().faults.add(None, nth, fault);
    }

    /// Breaks the `nth` call of the name `call` (such as `tasks.start`) from now on, counting from 0, once.
    pub(crate) fn fail_call(&self, call: &'static str, nth: usize, fault: Fault) {
        self.lock().faults.add(Some(call), nth, fault);
    }

    /// Breaks every call of the name `call` until [`Self::heal`].
    pub(crate) fn fail_every(&self, call: &'static str, fault: Fault) {
        self.lock().faults.add_standing(call, fault);
    }

    /// Forgets all faults that did not strike yet.
    pub(crate) fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Whether any fault has struck.
    pub(crate) fn fault_struck(&self) -> bool {
        self.lock().faults.struck()
    }

    /// The calls so far, as `service.method object`.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// Forgets the calls so far.
    pub(crate) fn clear_trace(&self) {
        self.lock().trace.clear();
    }

    /// Everything that exists, a line each: containers, tasks, execs, snapshots, blobs, ingests, images, leases.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        self.lock().inventory()
    }

    /// Returns once a fault has killed the process.
    pub(crate) async fn died(&self) {
        let mut dead = self.dead.subscribe();
        if dead.wait_for(|dead| *dead).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Starts a new process: handles made from now on work, older ones stay dead.
    pub(crate) fn revive(&self) {
        self.lock().life += 1;
        self.dead.send_replace(false);
    }

    /// containerd is gone: the link is down, calls fail at once, event streams and waits end. Tasks run on.
    pub(crate) fn go_away(&self) {
        let mut state = self.lock();
        state.away = true;
        state.reporter.down("connection refused");
        state.break_streams();
        drop(state);
        self.connection.send_modify(|count| *count += 1);
    }

    /// containerd answers again, as a new process and a new connection.
    pub(crate) fn come_back(&self) {
        let mut state = self.lock();
        state.away = false;
        state.hung = false;
        state.generation += 1;
        state.server = state.take_pid();
        state.report_up();
        drop(state);
        self.connection.send_modify(|count| *count += 1);
    }

    /// containerd is stopped and started: streams and waits end, tasks run on.
    pub(crate) fn restart(&self) {
        self.go_away();
        self.come_back();
    }

    /// containerd stops answering, unnoticed by the link: calls wait until [`Self::resume`] or their limit.
    pub(crate) fn hang(&self) {
        self.lock().hung = true;
    }

    /// The link notices what [`Self::hang`] did: calls fail at once.
    pub(crate) fn notice_hang(&self) {
        self.lock().reporter.down("no answer within 2s");
    }

    /// A hung containerd goes on: waiting calls proceed.
    pub(crate) fn resume(&self) {
        let mut state = self.lock();
        state.hung = false;
        state.report_up();
        drop(state);
        self.connection.send_modify(|count| *count += 1);
    }

    /// The machine restarts: every task is gone without a word, what is on disk stays.
    pub(crate) fn reboot(&self) {
        self.go_away();
        self.lock().tasks.clear();
        self.come_back();
    }

    /// Makes containerd another version.
    pub(crate) fn set_version(&self, text: &str, major: u32, minor: u32) {
        let mut state = self.lock();
        state.version = ServerVersion {
            text: text.to_owned(),
            major,
            minor,
        };
        state.generation += 1;
        state.report_up();
    }

    /// Gives every runtime this `features` document; without it the question is `Unimplemented`.
    pub(crate) fn set_runtime_features(&self, document: &[u8]) {
        self.lock().features = Some(document.to_vec());
    }

    /// Loses every event from now on, or delivers them again.
    pub(crate) fn mute_events(&self, muted: bool) {
        self.lock().events_muted = muted;
    }

    /// Says how the tasks of `id` take signals, those to come too.
    pub(crate) fn behave(&self, id: &str, behaviour: Behaviour) {
        self.lock().behaviours.insert(id.to_owned(), behaviour);
    }

    /// Makes every exec end with `code` as soon as it starts; `None` lets them run.
    pub(crate) fn execs_end_with(&self, code: Option<u32>) {
        self.lock().exec_code = code;
    }

    /// Hands `pid` out to the next process that starts.
    pub(crate) fn next_pid(&self, pid: Pid) {
        self.lock().pids.push_back(pid);
    }

    /// Makes snapshots' mounts binds of a real directory.
    pub(crate) fn set_rootfs(&self, directory: PathBuf) {
        self.lock().rootfs = Some(directory);
    }

    /// Ends the init process of `id`, with its execs, and says so in an event.
    pub(crate) fn exit(&self, id: &str, code: u32) {
        self.lock().end_init(id, code);
    }

    /// Ends an exec and says so in an event.
    pub(crate) fn exit_exec(&self, id: &str, exec: &str, code: u32) {
        self.lock().end_exec(id, exec, code);
    }

    /// The OOM killer takes the init process of `id`: counter, event, exit with 137.
    pub(crate) fn oom(&self, id: &str) {
        let mut state = self.lock();
        state.count_oom(id);
        state.end_init(id, 137);
    }

    /// The tasks that are frozen.
    pub(crate) fn frozen(&self) -> Vec<String> {
        self.lock().frozen()
    }

    /// The options that the task of `id` was created with.
    pub(crate) fn task_options(&self, id: &str) -> Option<Payload> {
        self.lock().options(id)
    }

    /// The resources that the last update gave the task of `id`.
    pub(crate) fn resources(&self, id: &str) -> Option<Payload> {
        self.lock().resources(id)
    }

    /// Puts a blob into the content store, as another client would.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Digest {
        self.lock().put_blob(bytes)
    }

    /// Leaves an ingest without a lease, as another client would.
    pub(crate) fn put_ingest(&self, name: &str, data: &[u8]) {
        self.lock().put_ingest(name, data);
    }

    /// Removes what nothing refers to, as containerd does when it likes.
    pub(crate) fn collect_garbage(&self) {
        self.lock().collect();
    }

    /// Collects garbage after every call: nothing survives that only a future call would have protected.
    pub(crate) fn collect_eagerly(&self) {
        self.lock().eager_gc = true;
    }
}

impl State {
    fn report_up(&self) {
        self.reporter
            .up(self.version.clone(), Some(self.server), self.generation);
    }

    fn take_pid(&mut self) -> Pid {
        self.pids.pop_front().unwrap_or_else(|| {
            let pid = Pid(self.next_pid);
            self.next_pid += 1;
            pid
        })
    }

    fn exit_now(&self, code: u32) -> Exit {
        Exit { code, at: self.now }
    }

    fn publish(&mut self, event: Event) {
        if self.events_muted {
            return;
        }
        self.subscribers
            .retain(|subscriber| subscriber.send(Ok(event.clone())).is_ok());
    }

    fn break_streams(&mut self) {
        for subscriber in self.subscribers.drain(..) {
            let end = Error::unavailable("follow containerd's events: the connection broke");
            subscriber.send(Err(end)).ok();
        }
    }

    fn inventory(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        all.extend(self.containers.keys().map(|id| format!("container {id}")));
        for (id, task) in &self.tasks {
            all.push(format!("task {id}"));
            all.extend(task.execs.keys().map(|exec| format!("exec {id}/{exec}")));
        }
        all.extend(
            self.snapshots
                .keys()
                .map(|(snapshotter, key)| format!("snapshot {snapshotter}/{key}")),
        );
        all.extend(self.blobs.keys().map(|digest| format!("blob {digest}")));
        all.extend(self.ingests.keys().map(|name| format!("ingest {name}")));
        all.extend(self.images.keys().map(|name| format!("image {name}")));
        all.extend(self.leases.keys().map(|id| format!("lease {}", id.0)));
        all
    }
}

/// How long the real client would wait for `call`; `None` for ever.
fn limit(call: &str) -> Option<Duration> {
    match call {
        "tasks.wait" => None,
        "tasks.get" | "tasks.oom_kills" | "tasks.usage" => Some(Duration::from_secs(5)),
        "tasks.create" | "tasks.start" | "tasks.delete" => Some(Duration::from_secs(120)),
        "introspection.version" => Some(Duration::from_secs(2)),
        _ => Some(Duration::from_secs(10)),
    }
}
