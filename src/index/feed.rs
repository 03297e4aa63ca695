//! What happens to pods, told to subscribers in the moment and in the order in which it is published.
//!
//! What happened is read off two pictures of one pod, so nothing that changes states has to tell of it, and nothing can
//! be told that was not shown. A subscriber has a queue of its own with a limit: who falls behind by more is let go, and
//! nobody ever waits for it.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::filter::ListedState;
use super::{ContainerView, PodView, SandboxView, Snapshot, WholePod};
use crate::model::{Error, Result, Timestamp};

/// So many changes a subscriber may be behind (threats §4).
const BEHIND: usize = 1_000;
/// So many may subscribe at the same time.
const SUBSCRIBERS: usize = 32;

/// What happened to a sandbox or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is listed from now on.
    Created,
    /// Its process runs.
    Started,
    /// Its process ended, or never could start.
    Stopped,
    /// It is listed no more.
    Deleted,
}

/// One change of one pod.
#[derive(Clone, Debug)]
pub struct Change {
    /// The sandbox or container that changed.
    pub id: String,
    /// What happened to it.
    pub happened: Happened,
    /// When it was published; later changes never have an earlier time.
    pub at: Timestamp,
    /// The pod right after the change; one whose last sandbox went, as it was shown last.
    pub pod: Arc<WholePod>,
}

/// The receiving end of a subscription. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Arc<Change>>);

impl Subscription {
    /// The next change; `None` once the subscriber has fallen behind too far: from there on changes are missing.
    pub async fn next(&mut self) -> Option<Arc<Change>> {
        self.0.recv().await
    }
}

/// Who follows, and what was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Following {
    /// Subscribers that are there now.
    pub followers: usize,
    /// Changes that were put into queues.
    pub sent: u64,
    /// Subscribers that were let go because they were too far behind.
    pub lost: u64,
}

/// Whoever listens.
#[derive(Debug, Default)]
pub(super) struct Feed {
    ears: Vec<mpsc::Sender<Arc<Change>>>,
    sent: u64,
    lost: u64,
}

impl Feed {
    pub(super) fn subscribe(&mut self) -> Result<Subscription> {
        self.ears.retain(|ear| !ear.is_closed());
        if self.ears.len() >= SUBSCRIBERS {
            return Err(Error::exhausted(format!(
                "{SUBSCRIBERS} clients follow the events already; let one of them end"
            )));
        }
        let (ear, subscription) = mpsc::channel(BEHIND);
        self.ears.push(ear);
        Ok(Subscription(subscription))
    }

    pub(super) fn following(&self) -> Following {
        Following {
            followers: self.ears.iter().filter(|ear| !ear.is_closed()).count(),
            sent: self.sent,
            lost: self.lost,
        }
    }

    /// Tells of what made `before` into `after`, which are the same pod in the picture before and in `now`.
    pub(super) fn tell(
        &mut self,
        before: Option<&PodView>,
        after: Option<&PodView>,
        now: &Snapshot,
    ) {
        if self.ears.is_empty() {
            return;
        }
        let news = news(before, after);
        let Some(either) = after.or(before).filter(|_| !news.is_empty()) else {
            return;
        };
        let whole = now.whole_pod(&either.sandbox.config.identity);
        let pod = Arc::new(whole.unwrap_or_else(|| WholePod {
            sandbox: Arc::clone(&either.sandbox),
            containers: Vec::new(),
        }));
        for (id, happened) in news {
            let change = Arc::new(Change {
                id,
                happened,
                at: now.at,
                pod: Arc::clone(&pod),
            });
            let (sent, lost) = (&mut self.sent, &mut self.lost);
            self.ears.retain(|ear| {
                let told = ear.try_send(Arc::clone(&change));
                *sent = sent.saturating_add(u64::from(told.is_ok()));
                let is_full = matches!(told, Err(TrySendError::Full(_)));
                *lost = lost.saturating_add(u64::from(is_full));
                // A full queue and a closed one alike are given up.
                told.is_ok()
            });
        }
    }
}

/// How far an object is, as subscribers are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Absent,
    Created,
    Running,
    Ended,
}

/// What is told of an object that came from one stage to another: each stage on the way, in order.
fn way(from: Stage, to: Stage, has_run: bool) -> &'static [Happened] {
    use Happened::{Created, Deleted, Started, Stopped};
    match (from, to) {
        (Stage::Absent, Stage::Created) => &[Created],
        (Stage::Absent, Stage::Running) => &[Created, Started],
        (Stage::Absent, Stage::Ended) if has_run => &[Created, Started, Stopped],
        (Stage::Absent, Stage::Ended) => &[Created, Stopped],
        (Stage::Created, Stage::Running) => &[Started],
        (Stage::Created, Stage::Ended) if has_run => &[Started, Stopped],
        (Stage::Created | Stage::Running, Stage::Ended) => &[Stopped],
        (Stage::Running, Stage::Absent) => &[Stopped, Deleted],
        (Stage::Created | Stage::Ended, Stage::Absent) => &[Deleted],
        _ => &[],
    }
}

fn of_sandbox(view: Option<&Arc<SandboxView>>) -> Stage {
    match view {
        None => Stage::Absent,
        // A pod that is being stopped is not ready, yet has not ended while its pause process lives.
        Some(view) if view.pause_pid.is_some() => Stage::Running,
        Some(_) => Stage::Ended,
    }
}

fn of_container(view: Option<&Arc<ContainerView>>) -> Stage {
    match view.filter(|view| !view.parked) {
        None => Stage::Absent,
        Some(view) => match ListedState::of(view) {
            ListedState::Created => Stage::Created,
            // One that was lost may run; whether it does is told once it is known.
            ListedState::Unknown if view.started_at.is_none() => Stage::Created,
            ListedState::Running | ListedState::Unknown => Stage::Running,
            ListedState::Exited => Stage::Ended,
        },
    }
}

/// What made `before` into `after`. A sandbox comes before its containers and goes after them.
fn news(before: Option<&PodView>, after: Option<&PodView>) -> Vec<(String, Happened)> {
    let mut news = Vec::new();
    let sandboxes = (
        before.map(|pod| &pod.sandbox),
        after.map(|pod| &pod.sandbox),
    );
    let (from, to) = (of_sandbox(sandboxes.0), of_sandbox(sandboxes.1));
    let sandbox = sandboxes.1.or(sandboxes.0).map(|view| view.id.to_string());
    let of_it = way(from, to, true).iter();
    let of_it: Vec<_> = sandbox
        .into_iter()
        .flat_map(|id| of_it.clone().map(move |happened| (id.clone(), *happened)))
        .collect();
    let comes = from == Stage::Absent;
    if comes {
        news.extend(of_it.iter().cloned());
    }
    let old = before.into_iter().flat_map(|pod| pod.containers.keys());
    let new = after.into_iter().flat_map(|pod| pod.containers.keys());
    let ids =
        old.chain(new.filter(|id| before.is_none_or(|pod| !pod.containers.contains_key(*id))));
    for id in ids {
        let was = before.and_then(|pod| pod.containers.get(id));
        let is = after.and_then(|pod| pod.containers.get(id));
        if let (Some(was), Some(is)) = (was, is)
            && Arc::ptr_eq(was, is)
        {
            continue;
        }
        let has_run = is.or(was).is_some_and(|view| view.started_at.is_some());
        let told = way(of_container(was), of_container(is), has_run).iter();
        news.extend(told.map(|happened| (id.to_string(), *happened)));
    }
    if !comes {
        news.extend(of_it);
    }
    news
}
