//! The table of live operations: what runs now, which step, since when, what it waits on and who waits for it. Those of a
//! pod's start go to its timeline once they have ended; where the caller traces them, they are spans as well.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::callers::Callers;
use super::spans::Spans;
use super::timeline::{Passage, Timelines};
use super::traffic::{Carried, Traffic};
use crate::model::{Clock, Pid, Timestamp};
use crate::telemetry::traces::Place;

/// The step of an operation that has named none yet: it waits for its turn.
const BEGIN: &str = "begin";
/// A step that takes longer than this is worth a look, unless it takes as long as others want.
const STUCK: Duration = Duration::from_secs(60);
/// So many steps of an operation are kept with their times.
const STEPS: usize = 32;

/// A step of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// Its name.
    pub name: &'static str,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; `None` while it goes on.
    pub ended: Option<Timestamp>,
}

/// One running operation as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpInfo {
    /// Number within this process's life.
    pub id: u64,
    /// E.g. `RunPodSandbox`.
    pub kind: &'static str,
    /// What it works on: an id, a name, a reference.
    pub object: String,
    /// The step it is in.
    pub step: &'static str,
    /// When it began.
    pub started_at: Timestamp,
    /// When its step began.
    pub step_started_at: Timestamp,
    /// The path, host, plugin, lock or process it waits on, where known.
    pub waits_on: Option<String>,
    /// The process that it waits for, where it does.
    pub process: Option<Pid>,
    /// The step takes as long as others want: a client, a command, a grace time.
    pub is_patient: bool,
    /// How many callers wait for it, where it runs apart from them.
    pub waiters: u32,
    /// Its steps so far, in the order in which they began; some overlap.
    pub steps: Vec<StepTime>,
    /// The sandbox whose start it is a part of.
    pub pod: Option<String>,
    /// What its stream has carried so far, where it serves one.
    pub carried: Option<Carried>,
}

impl OpInfo {
    /// Whether its step has taken longer than any should.
    pub fn is_stuck(&self, now: Timestamp) -> bool {
        !self.is_patient && now.since(self.step_started_at) > STUCK
    }

    /// Shows the step that began last of those which go on.
    fn show_step(&mut self) {
        self.waits_for_nothing();
        let open = self.steps.iter().rev();
        if let Some(step) = open.clone().find(|step| step.ended.is_none()) {
            (self.step, self.step_started_at) = (step.name, step.began);
        }
    }

    fn open(&mut self, name: &'static str, now: Timestamp) -> Option<usize> {
        let at = Some(self.steps.len()).filter(|at| *at < STEPS);
        if at.is_some() {
            self.steps.push(StepTime {
                name,
                began: now,
                ended: None,
            });
        }
        (self.step, self.step_started_at) = (name, now);
        self.waits_for_nothing();
        at
    }

    fn waits_for_nothing(&mut self) {
        (self.waits_on, self.process, self.is_patient) = (None, None, false);
    }

    fn close(&mut self, at: Option<usize>, now: Timestamp) {
        if let Some(step) = at.and_then(|at| self.steps.get_mut(at)) {
            step.ended.get_or_insert(now);
        }
    }
}

#[derive(Debug)]
struct Entry {
    info: OpInfo,
    callers: Option<Callers>,
    traffic: Option<Traffic>,
    spans: Spans,
}

impl Entry {
    fn open(&mut self, name: &'static str, now: Timestamp) -> Option<usize> {
        let at = self.info.open(name, now);
        if at.is_some() {
            self.spans.step(name, now);
        }
        at
    }

    fn close(&mut self, at: Option<usize>, now: Timestamp) {
        self.info.close(at, now);
        if let Some(at) = at {
            self.spans.close(at, now);
        }
    }
}

/// All running operations. Cloning gives another handle to the same table.
#[derive(Clone, Debug)]
pub struct LiveTable {
    clock: Arc<dyn Clock>,
    next: Arc<AtomicU64>,
    rows: Arc<Mutex<BTreeMap<u64, Entry>>>,
    timelines: Timelines,
}

impl LiveTable {
    /// An empty table that stamps with `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            next: Arc::default(),
            rows: Arc::default(),
            timelines: Timelines::default(),
        }
    }

    /// Enters an operation; it leaves the table when the last clone of the handle is dropped.
    pub fn begin(&self, kind: &'static str, object: impl Into<String>) -> Operation {
        self.enter(None, kind, object.into())
    }

    /// As [`Self::begin`], for a part of the start of the sandbox `pod`.
    pub fn begin_for(&self, pod: &str, kind: &'static str, object: impl Into<String>) -> Operation {
        self.enter(Some(pod.to_owned()), kind, object.into())
    }

    fn enter(&self, pod: Option<String>, kind: &'static str, object: String) -> Operation {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.now();
        let row = OpInfo {
            id,
            kind,
            object,
            step: BEGIN,
            started_at: now,
            step_started_at: now,
            waits_on: None,
            process: None,
            is_patient: false,
            waiters: 0,
            steps: vec![StepTime {
                name: BEGIN,
                began: now,
                ended: None,
            }],
            pod,
            carried: None,
        };
        let entry = Entry {
            spans: Spans::begin(&row),
            info: row,
            callers: Callers::of_this_task(),
            traffic: None,
        };
        self.with(|rows| rows.insert(id, entry));
        Operation(Arc::new(Row {
            id,
            following: Mutex::new(Some(0)),
            table: self.clone(),
        }))
    }

    /// What is known of the start of the sandbox `pod`, in the order in which it began; what runs still, too.
    pub fn timeline(&self, pod: &str) -> Vec<Passage> {
        let mut all = self.timelines.of(pod);
        all.extend(self.with(|rows| {
            let all = rows.values().map(|entry| &entry.info);
            let its = all.filter(|row| row.pod.as_deref() == Some(pod));
            its.map(|row| Passage::of(row.clone(), None))
                .collect::<Vec<_>>()
        }));
        all.sort_by_key(|passage| passage.began);
        all
    }

    /// Puts a part of the start of the sandbox `pod` into its timeline that was no operation of its own.
    pub fn note(&self, pod: &str, kind: &'static str, object: &str, began: Timestamp) {
        let passage = Passage {
            kind,
            object: object.to_owned(),
            began,
            ended: Some(self.clock.now()),
            steps: Vec::new(),
        };
        self.timelines.keep(pod, passage);
    }

    /// The ids of the sandboxes whose starts are remembered and whose id begins with `prefix`.
    pub fn remembered(&self, prefix: &str) -> Vec<String> {
        self.timelines.pods(prefix)
    }

    /// All rows, oldest first.
    pub fn snapshot(&self) -> Vec<OpInfo> {
        let shown = |entry: &Entry| OpInfo {
            waiters: entry.callers.as_ref().map_or(0, Callers::count),
            carried: entry.traffic.as_ref().map(Traffic::so_far),
            ..entry.info.clone()
        };
        self.with(|rows| rows.values().map(shown).collect())
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<u64, Entry>) -> T) -> T {
        work(&mut self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
struct Row {
    id: u64,
    /// Which step ends where the next one is said to begin.
    following: Mutex<Option<usize>>,
    table: LiveTable,
}

impl Drop for Row {
    fn drop(&mut self) {
        let Some(entry) = self.table.with(|rows| rows.remove(&self.id)) else {
            return;
        };
        let (row, now) = (entry.info, self.table.clock.now());
        entry.spans.end(now);
        if let Some(pod) = row.pod.clone() {
            self.table.timelines.keep(&pod, Passage::of(row, Some(now)));
        }
    }
}

/// A running operation's own row.
#[derive(Clone, Debug)]
pub struct Operation(Arc<Row>);

impl Operation {
    /// Says that the operation left its step and entered `step`; answers where that stands in the caller's trace.
    pub fn step(&self, step: &'static str) -> Place {
        let now = self.0.table.clock.now();
        let mut following = self.following();
        let mut place = Place::default();
        self.edit_entry(|entry| {
            entry.close(*following, now);
            *following = entry.open(step, now);
            place = entry.spans.place(*following);
        });
        place
    }

    /// Says that the operation is in `step` until the guard is dropped, beside whatever other step it is in. The one
    /// that was said to go on by [`Self::step`] is left.
    pub fn within(&self, step: &'static str) -> Within {
        let now = self.0.table.clock.now();
        let left = self.following().take();
        let mut at = None;
        self.edit_entry(|entry| {
            entry.close(left, now);
            at = entry.open(step, now);
        });
        Within {
            operation: self.clone(),
            at,
        }
    }

    fn following(&self) -> std::sync::MutexGuard<'_, Option<usize>> {
        let following = &self.0.following;
        following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what the operation waits on; `None` once it has it.
    pub fn waits_on(&self, what: Option<String>) {
        self.edit(|row| row.waits_on = what);
    }

    /// Says what the operation works on, once that is known.
    pub fn object(&self, object: impl Into<String>) {
        let object = object.into();
        self.edit_entry(|entry| {
            entry.spans.object(&object);
            entry.info.object = object;
        });
    }

    /// Where it stands in its caller's trace, whichever step it is in.
    pub fn place(&self) -> Place {
        self.place_of(None)
    }

    fn place_of(&self, at: Option<usize>) -> Place {
        let mut place = Place::default();
        self.edit_entry(|entry| place = entry.spans.place(at));
        place
    }

    /// Says that it failed, for its caller's trace.
    pub fn failed(&self, why: &str) {
        self.edit_entry(|entry| entry.spans.fail(why));
    }

    /// Says that the operation waits for a process.
    pub fn waits_on_process(&self, pid: Option<Pid>) {
        self.edit(|row| row.process = pid);
    }

    /// Says that the present step takes as long as others want, so that nobody calls it stuck.
    pub fn patiently(&self) {
        self.edit(|row| row.is_patient = true);
    }

    /// Shows from now on what is counted with the answer: the bytes of the stream that the operation serves.
    pub fn carries(&self) -> Traffic {
        let traffic = Traffic::default();
        self.edit_entry(|entry| entry.traffic = Some(traffic.clone()));
        traffic
    }

    /// Waits for `work`, which is to get hold of `what`.
    pub async fn waiting<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        self.waits_on(Some(what.to_owned()));
        let had = work.await;
        self.waits_on(None);
        had
    }

    fn edit(&self, work: impl FnOnce(&mut OpInfo)) {
        self.edit_entry(|entry| work(&mut entry.info));
    }

    fn edit_entry(&self, work: impl FnOnce(&mut Entry)) {
        let rows = &self.0.table;
        rows.with(|rows| rows.get_mut(&self.0.id).map(work));
    }
}

/// A step that goes on.
#[derive(Debug)]
pub struct Within {
    operation: Operation,
    at: Option<usize>,
}

impl Within {
    /// Where what it does stands in the caller's trace.
    pub fn place(&self) -> Place {
        self.operation.place_of(self.at)
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        let now = self.operation.0.table.clock.now();
        self.operation.edit_entry(|entry| {
            entry.close(self.at, now);
            entry.info.show_step();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::ManualClock;

    #[tokio::test]
    async fn a_row_stands_as_long_as_a_handle_and_counts_its_callers() {
        let table = LiveTable::new(Arc::new(ManualClock::at(Timestamp(7))));
        let callers = Callers::default();
        let operation = callers
            .scope(async { table.begin("RunPodSandbox", "web") })
            .await;
        operation.step("cni add");

        let caller = callers.enter();
        let rows = table.snapshot();
        assert_eq!(
            (rows[0].step, rows[0].waiters, rows[0].started_at),
            ("cni add", 1, Timestamp(7))
        );

        drop(caller);
        assert_eq!(table.snapshot()[0].waiters, 0);
        drop(operation);
        assert!(table.snapshot().is_empty());
    }

    #[test]
    fn a_step_is_stuck_after_a_while_unless_it_waits_for_others() {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let table = LiveTable::new(Arc::clone(&clock) as _);
        let operation = table.begin("StopContainer", "web");
        operation.step("grace");
        operation.patiently();
        operation.waits_on_process(Some(Pid(7)));
        clock.advance(STUCK * 2);
        let is_stuck = || table.snapshot()[0].is_stuck(clock.now());
        assert!(!is_stuck());

        operation.step("kill");
        assert!(!is_stuck());
        clock.advance(STUCK * 2);
        assert!(is_stuck());
        assert_eq!(table.snapshot()[0].process, None);
    }

    #[test]
    fn steps_that_overlap_show_the_last_one_that_goes_on() {
        let clock = Arc::new(ManualClock::at(Timestamp(0)));
        let table = LiveTable::new(Arc::clone(&clock) as _);
        let second = || clock.advance(std::time::Duration::from_nanos(1));
        let operation = table.begin_for("pod", "RunPodSandbox", "web");
        second();
        let network = operation.within("network");
        second();
        let task = operation.within("task");
        assert_eq!(table.snapshot()[0].step, "task");
        second();
        drop(task);
        let row = &table.snapshot()[0];
        assert_eq!((row.step, row.step_started_at), ("network", Timestamp(1)));
        second();
        drop(network);
        operation.step("publish");
        second();
        assert_eq!(table.timeline("pod")[0].ended, None);
        drop(operation);

        let kept = table.timeline("pod");
        let times: Vec<_> = kept[0]
            .steps
            .iter()
            .map(|step| (step.name, step.began.0, step.ended.map(|at| at.0)))
            .collect();
        assert_eq!(
            times,
            [
                ("begin", 0, Some(1)),
                ("network", 1, Some(4)),
                ("task", 2, Some(3)),
                ("publish", 4, Some(5)),
            ]
        );
        assert_eq!((kept.len(), kept[0].ended), (1, Some(Timestamp(5))));
        assert!(table.timeline("other").is_empty());
    }

    #[test]
    fn steps_beyond_the_limit_are_shown_and_not_kept() {
        let table = LiveTable::new(Arc::new(ManualClock::at(Timestamp(0))));
        let operation = table.begin("ExecSync", "web");
        for _ in 0..100 {
            operation.step("again");
        }
        drop(operation.within("last"));

        assert_eq!(table.snapshot()[0].steps.len(), STEPS);
    }
}
