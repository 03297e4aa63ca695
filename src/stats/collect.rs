//! The last reading of each container and pod.
//!
//! One sweep at a time reads groups, on a thread where system calls may wait: in the background every
//! `stats.collect_period`, of what is new two readings in its first seconds, and before an answer whatever is older than a
//! second. Callers that come meanwhile wait for
//! the sweep and share what it read, so many of them cost as much as one, and the two readings that a rate is made of
//! lie at least a second apart.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::index::{ContainerView, SandboxView, Snapshot};
use crate::model::{Clock, Timestamp};
use crate::sandbox::group::group_of;
use crate::sys;
use crate::sys::cgroup::{Cgroups, GroupFiles, path_of_parent};

use super::Stats;
use super::group::{Cpu, Usage};
use super::guests::is_guest;
use super::network::Network;

/// An answer is made of readings no older than this.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// How often to look for what is new.
const TICK: Duration = Duration::from_secs(1);
/// A container is new for so long: whatever is not measured of it by then waits for the next round.
const NEW: Duration = Duration::from_secs(30);
/// What a new writable layer may take to be measured, which is next to nothing as long as it is new.
const LAYER_WITHIN: Duration = Duration::from_secs(1);

/// What is read: the group of a container or of a pod.
#[derive(Clone)]
pub(super) enum Subject {
    /// One that runs.
    Container(Arc<ContainerView>),
    /// One that is ready.
    Pod(Arc<SandboxView>),
}

impl Subject {
    fn id(&self) -> &str {
        match self {
            Self::Container(view) => view.id.as_str(),
            Self::Pod(view) => view.id.as_str(),
        }
    }

    fn is_guest(&self) -> bool {
        match self {
            Self::Container(view) => is_guest(view),
            Self::Pod(_) => false,
        }
    }

    /// The path of the group: that of a pod is its parent, or where it has none, that of its pause container.
    fn group(&self) -> Option<String> {
        let spec = match self {
            Self::Container(view) => &view.spec,
            Self::Pod(view) => match path_of_parent(&view.config.cgroup_parent) {
                Some(parent) => return Some(parent),
                None => &view.spec,
            },
        };
        crate::spec::decode_spec(spec)
            .ok()
            .as_ref()
            .and_then(group_of)
    }
}

/// One reading, and where the next one is to be had.
#[derive(Clone)]
pub(super) struct Reading {
    files: Arc<GroupFiles>,
    made: Instant,
    /// Without one before it, there are no rates in it.
    is_first: bool,
    /// What was read.
    pub(super) usage: Usage,
    /// Of a pod with a network of its own.
    pub(super) network: Option<Arc<Network>>,
}

/// All of them.
pub(super) struct Readings {
    /// Nothing on a host without control groups.
    cgroups: Option<Cgroups>,
    clock: Arc<dyn Clock>,
    last: Mutex<HashMap<String, Reading>>,
    sweep: Arc<tokio::sync::Mutex<()>>,
}

impl Readings {
    pub(super) fn new(cgroups: Option<Cgroups>, clock: Arc<dyn Clock>) -> Self {
        Self {
            cgroups,
            clock,
            last: Mutex::default(),
            sweep: Arc::default(),
        }
    }

    /// Sees to it that no reading of these is older than `age`.
    pub(super) async fn refresh(self: &Arc<Self>, subjects: Vec<Subject>, age: Duration) {
        let sweep = Arc::clone(&self.sweep).lock_owned().await;
        let stale: Vec<Subject> = {
            let last = self.lock();
            let is_stale = |subject: &Subject| {
                if subject.is_guest() {
                    return false;
                }
                let reading = last.get(subject.id());
                reading.is_none_or(|reading| reading.made.elapsed() >= age)
            };
            subjects.into_iter().filter(is_stale).collect()
        };
        if stale.is_empty() {
            return;
        }
        let readings = Arc::clone(self);
        let read = sys::off_thread("read what containers use", move || {
            // A caller that hangs up must not let the next one read at the same time.
            let _sweep = sweep;
            for subject in stale {
                readings.read_blocking(&subject);
            }
            Ok(())
        });
        if let Err(error) = read.await {
            tracing::warn!(%error, "what containers use could not be read");
        }
    }

    /// Reads the group of a container whose shim tells nothing.
    pub(super) async fn read_anyway(self: &Arc<Self>, subject: Subject) {
        let readings = Arc::clone(self);
        let read = sys::off_thread("read what a container uses", move || {
            readings.read_blocking(&subject);
            Ok(())
        });
        drop(read.await);
    }

    /// Keeps what somebody else read.
    pub(super) fn note(&self, id: &str, mut usage: Usage) {
        let (before, made) = (self.of(id), Instant::now());
        if let Some(before) = &before {
            usage.follow(&before.usage, made.saturating_duration_since(before.made));
        }
        let reading = Reading {
            files: Arc::default(),
            made,
            is_first: before.is_none(),
            usage,
            network: None,
        };
        self.lock().insert(id.to_owned(), reading);
    }

    fn read_blocking(&self, subject: &Subject) {
        let before = self.of(subject.id());
        let files = self.files_of(subject, before.as_ref());
        let made = Instant::now();
        let mut usage = Usage::read_blocking(&files, self.clock.as_ref());
        if let Some(before) = &before {
            usage.follow(&before.usage, made.saturating_duration_since(before.made));
        }
        let reading = Reading {
            network: self.network_blocking(subject, before.as_ref()),
            is_first: before.is_none(),
            files,
            made,
            usage,
        };
        self.lock().insert(subject.id().to_owned(), reading);
    }

    /// The files of a container's group.
    pub(super) fn files(&self, view: &Arc<ContainerView>) -> Arc<GroupFiles> {
        let subject = Subject::Container(Arc::clone(view));
        self.files_of(&subject, self.of(subject.id()).as_ref())
    }

    fn files_of(&self, subject: &Subject, before: Option<&Reading>) -> Arc<GroupFiles> {
        match (before, &self.cgroups) {
            (Some(before), _) => Arc::clone(&before.files),
            (None, Some(cgroups)) => {
                let group = subject.group().unwrap_or_default();
                Arc::new(cgroups.files(&group))
            }
            (None, None) => Arc::default(),
        }
    }

    fn network_blocking(
        &self,
        subject: &Subject,
        before: Option<&Reading>,
    ) -> Option<Arc<Network>> {
        let Subject::Pod(view) = subject else {
            return None;
        };
        let mut network =
            Network::read_blocking(view.netns.as_deref()?, view.pause_pid, self.clock.as_ref())?;
        if let Some(before) = before.and_then(|before| before.network.as_ref()) {
            rise(&mut network.at, before.at);
        }
        Some(Arc::new(network))
    }

    /// The last reading of an object.
    pub(super) fn of(&self, id: &str) -> Option<Reading> {
        self.lock().get(id).cloned()
    }

    /// Whether fewer than two readings of an object were made.
    fn is_new(&self, id: &str) -> bool {
        let last = self.lock();
        last.get(id).is_none_or(|reading| reading.is_first)
    }

    /// Forgets what `now` does not list any more.
    fn forget_others(&self, now: &Snapshot) {
        let containers = now.containers().map(|view| view.id.as_str());
        let pods = now.pods().map(|pod| pod.sandbox.id.as_str());
        let known: HashSet<&str> = containers.chain(pods).collect();
        self.lock().retain(|id, _| known.contains(id.as_str()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Reading>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    /// Makes this the reading after `before`, `elapsed` later: how busy it was, and times that only rise.
    fn follow(&mut self, before: &Self, elapsed: Duration) {
        if let (Some(cpu), Some(before)) = (&mut self.cpu, &before.cpu) {
            cpu.rate_ns = rate(cpu, before, elapsed);
            rise(&mut cpu.at, before.at);
        }
        if let (Some(memory), Some(before)) = (&mut self.memory, &before.memory) {
            rise(&mut memory.at, before.at);
        }
        if let (Some(swap), Some(before)) = (&mut self.swap, &before.swap) {
            rise(&mut swap.at, before.at);
        }
        if let (Some(io), Some(before)) = (&mut self.io, &before.io) {
            rise(&mut io.at, before.at);
        }
        if let (Some(tasks), Some(before)) = (&mut self.tasks, &before.tasks) {
            rise(&mut tasks.at, before.at);
        }
    }
}

/// Nanoseconds of processor time a second. Unknown where the count went backwards: a zero would keep kubelet from
/// reckoning itself.
fn rate(now: &Cpu, before: &Cpu, elapsed: Duration) -> Option<u64> {
    let used = u128::from(now.total_ns.checked_sub(before.total_ns)?);
    let rate = used
        .checked_mul(1_000_000_000)?
        .checked_div(elapsed.as_nanos())?;
    u64::try_from(rate).ok()
}

/// Also where the host's clock was set back.
pub(super) fn rise(at: &mut Timestamp, before: Timestamp) {
    *at = (*at).max(Timestamp(before.0.saturating_add(1)));
}

impl Stats {
    /// Sees to it that what is told of these is fresh.
    pub(super) async fn freshen(&self, subjects: Vec<Subject>) {
        if !subjects.is_empty() {
            self.readings.refresh(subjects, FRESH).await;
        }
    }

    /// Reads everything again and again, and what is new a little earlier.
    pub(super) async fn keep_collecting(self) {
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(TICK).await;
            let period = self.deps.settings().stats.collect_period;
            if period.is_zero() {
                self.forget_others();
                continue;
            }
            if last.elapsed() >= period {
                last = Instant::now();
                self.readings.refresh(self.everything(), period / 2).await;
                self.forget_others();
            } else {
                self.attend_new().await;
            }
        }
    }

    fn forget_others(&self) {
        let now = self.deps.index.snapshot();
        self.readings.forget_others(&now);
        self.layers.forget_others(&now);
    }

    /// Makes the two readings that a rate needs, and has the layers of new containers measured.
    async fn attend_new(&self) {
        let mut new = self.everything();
        new.retain(|subject| self.readings.is_new(subject.id()));
        if !new.is_empty() {
            self.readings.refresh(new, FRESH).await;
        }
        let now = self.deps.clock.now();
        let snapshot = self.deps.index.snapshot();
        for view in snapshot.containers() {
            let (snapshotter, key) = (&view.snapshotter, view.snapshot_key());
            let is_new = now.since(view.created_at) < NEW && self.project_of(view).is_none();
            if is_new && self.images.measured(snapshotter, key).is_none() {
                let measuring = self.images.measure_new(snapshotter, key);
                if let Ok(Err(error)) = tokio::time::timeout(LAYER_WITHIN, measuring).await {
                    tracing::debug!(container.id = %view.id, %error, "a new layer is not measured yet");
                }
            }
        }
    }

    fn everything(&self) -> Vec<Subject> {
        let now = self.deps.index.snapshot();
        let mut subjects = Vec::new();
        for pod in now.pods() {
            if pod.sandbox.state.is_ready() {
                subjects.push(Subject::Pod(Arc::clone(&pod.sandbox)));
            }
            let running = pod.containers.values().filter(|view| view.is_running());
            subjects.extend(running.cloned().map(Subject::Container));
        }
        subjects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::SystemClock;
    use crate::stats::testing::{self, Tree, views};

    fn readings(tree: &Tree) -> (Arc<Readings>, Vec<Subject>) {
        let readings = Readings::new(Some(tree.cgroups().clone()), Arc::new(SystemClock));
        let subject = Subject::Container(Arc::new(views::container()));
        (Arc::new(readings), vec![subject])
    }

    #[tokio::test]
    async fn callers_that_come_together_share_one_reading() {
        let tree = testing::recorded_v2();
        let (readings, subjects) = readings(&tree);
        let id = subjects[0].id().to_owned();
        let refresh = |age| readings.refresh(subjects.clone(), age);

        assert!(readings.is_new(&id));
        futures::future::join_all((0..8).map(|_| refresh(FRESH))).await;
        let first = readings.of(&id).unwrap();
        assert!(first.is_first, "the others found it fresh");
        assert_eq!(first.usage.cpu.unwrap().rate_ns, None);

        tree.write("pod/c", "cpu.stat", "usage_usec 2514320\n");
        refresh(Duration::ZERO).await;
        let second = readings.of(&id).unwrap();
        assert!(!second.is_first && !readings.is_new(&id));
        let (before, after) = (first.usage.cpu.unwrap(), second.usage.cpu.unwrap());
        assert!(after.rate_ns > Some(0) && after.at > before.at);

        tree.vanish("pod/c");
        refresh(Duration::ZERO).await;
        assert_eq!(readings.of(&id).unwrap().usage, Usage::default());
        readings.forget_others(&Snapshot::default());
        assert!(readings.of(&id).is_none());
    }

    #[tokio::test]
    async fn the_group_of_a_pod_is_its_parent_or_else_that_of_its_pause_container() {
        let tree = testing::recorded_v2();
        tree.write("pod", "cpu.stat", "usage_usec 7\n");
        let (readings, _) = readings(&tree);
        let mut pod = views::sandbox();
        let total = async |view: &SandboxView| {
            let subject = Subject::Pod(Arc::new(view.clone()));
            readings.refresh(vec![subject], Duration::ZERO).await;
            let reading = readings.of(view.id.as_str()).unwrap();
            reading.usage.cpu.map(|cpu| cpu.total_ns)
        };

        assert_eq!(total(&pod).await, Some(7_000));
        let mut config = pod.config.as_ref().clone();
        config.cgroup_parent = String::new();
        pod.config = Arc::new(config);
        pod.id = "b".repeat(64).parse().unwrap();
        pod.spec = views::container().spec;
        assert_eq!(total(&pod).await, Some(2_514_319_000));
    }

    fn cpu(total_ns: u64, at: i64) -> Usage {
        Usage {
            cpu: Some(Cpu {
                at: Timestamp(at),
                total_ns,
                ..Cpu::default()
            }),
            ..Usage::default()
        }
    }

    #[test]
    fn two_readings_tell_how_busy_a_group_is() {
        let follow = |total_ns, elapsed| {
            let mut usage = cpu(total_ns, 5);
            usage.follow(&cpu(1_000_000_000, 9), elapsed);
            usage.cpu.unwrap()
        };

        let half = follow(2_000_000_000, Duration::from_secs(2));
        assert_eq!(half.rate_ns, Some(500_000_000));
        assert_eq!(half.at, Timestamp(10), "the clock was set back");
        assert_eq!(
            follow(1_000_000_000, Duration::from_secs(1)).rate_ns,
            Some(0)
        );
        assert_eq!(follow(999_999_999, Duration::from_secs(1)).rate_ns, None);
        assert_eq!(follow(2_000_000_000, Duration::ZERO).rate_ns, None);
        let mut first = cpu(7, 5);
        first.follow(&Usage::default(), Duration::from_secs(1));
        assert_eq!(first.cpu.unwrap().rate_ns, None);
    }
}
