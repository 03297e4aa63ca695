//! Whether containerd answers, as a fact that others may watch: a probe asks for its version every two seconds.
//!
//! A call that finds the link known to be down fails at once instead of hanging in a queue. What a node reports
//! about a short absence is `node/`'s matter: nothing here waits for things to calm down.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{Introspection, ServerVersion};
use crate::model::{Error, Kind, Pid, Result};

/// How often a link that is up is probed.
const PERIOD: Duration = Duration::from_secs(2);
/// How long one probe may take: containerd answers it from memory, so longer means that it hangs or starves.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Probes in a row that may go unanswered: one is lost to a busy machine, the second says that containerd hangs.
const MISSES: u32 = 2;
/// First pause between attempts while containerd is away; doubles up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest pause between attempts: a connect to a local socket costs nothing, and pods wait for it.
const LONGEST_RETRY: Duration = Duration::from_secs(1);
/// Shortest distance of two probes that failed calls ask for.
const SUSPECT_PAUSE: Duration = Duration::from_millis(50);

/// What is known about the connection to containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not probed yet: calls are let through.
    Untried,
    /// It answers.
    Up {
        /// What it is.
        version: ServerVersion,
        /// Its process, where the socket tells.
        pid: Option<Pid>,
        /// Grows with each new connection and each changed process or version: whoever follows events asks anew.
        generation: u64,
    },
    /// It does not answer: calls fail at once.
    Down {
        /// Since when.
        since: Instant,
        /// What the last probe met.
        reason: Arc<str>,
    },
}

/// A handle on the link's state. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Link {
    state: watch::Receiver<LinkState>,
    suspect: Arc<Notify>,
}

impl Link {
    /// The state now.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// A receiver that sees each change.
    pub fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// Lets a call through unless containerd is known to be away.
    ///
    /// # Errors
    /// `Unavailable` while it is.
    pub fn ensure_up(&self) -> Result<()> {
        match &*self.state.borrow() {
            LinkState::Untried | LinkState::Up { .. } => Ok(()),
            LinkState::Down { since, reason } => Err(Error::unavailable(format!(
                "containerd has been away for {} s: {reason}",
                since.elapsed().as_secs()
            ))),
        }
    }

    /// Waits until containerd answers and says which generation of the connection this is.
    ///
    /// # Errors
    /// `Unavailable` where nobody probes any more.
    pub async fn until_up(&self) -> Result<u64> {
        let mut state = self.state.clone();
        let up = state
            .wait_for(|state| matches!(state, LinkState::Up { .. }))
            .await
            .map_err(|_closed| Error::unavailable("the probe of containerd has ended"))?;
        match *up {
            LinkState::Up { generation, .. } => Ok(generation),
            LinkState::Untried | LinkState::Down { .. } => Ok(0),
        }
    }

    /// Asks for a probe now: a call just met a broken connection.
    pub fn suspect(&self) {
        self.suspect.notify_one();
    }
}

/// The writing end of a [`Link`].
#[derive(Debug)]
pub struct LinkReporter {
    state: watch::Sender<LinkState>,
    suspect: Arc<Notify>,
}

impl LinkReporter {
    /// A new link, untried, and its writing end.
    pub fn new() -> (Self, Link) {
        let (sender, receiver) = watch::channel(LinkState::Untried);
        let suspect = Arc::new(Notify::new());
        let link = Link {
            state: receiver,
            suspect: Arc::clone(&suspect),
        };
        let reporter = Self {
            state: sender,
            suspect,
        };
        (reporter, link)
    }

    /// Publishes that containerd answers. `generation` counts as [`LinkState::Up`] says.
    pub fn up(&self, version: ServerVersion, pid: Option<Pid>, generation: u64) {
        let next = LinkState::Up {
            version,
            pid,
            generation,
        };
        self.state.send_if_modified(|state| {
            let changed = *state != next;
            if changed {
                *state = next;
            }
            changed
        });
    }

    /// Publishes that it does not answer; the time of the first such report stands.
    pub fn down(&self, reason: &str) {
        self.state.send_if_modified(|state| {
            let since = match state {
                LinkState::Down { reason: known, .. } if **known == *reason => return false,
                LinkState::Down { since, .. } => *since,
                LinkState::Untried | LinkState::Up { .. } => Instant::now(),
            };
            *state = LinkState::Down {
                since,
                reason: reason.into(),
            };
            true
        });
    }
}

/// Feeds a [`Link`]: asks containerd for its version again and again.
pub struct Prober {
    introspection: Arc<dyn Introspection>,
    report: LinkReporter,
    seen: Option<Seen>,
    generation: u64,
}

/// What told the last answering containerd from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    version: ServerVersion,
    pid: Option<Pid>,
    connection: u64,
}

impl Prober {
    /// A prober that asks through `introspection`.
    pub fn new(introspection: Arc<dyn Introspection>, report: LinkReporter) -> Self {
        Self {
            introspection,
            report,
            seen: None,
            generation: 0,
        }
    }

    /// Probes until the last [`Link`] is dropped. The caller gives it a task of its own.
    pub async fn run(mut self) {
        let mut misses = 0;
        let mut retry = FIRST_RETRY;
        loop {
            let pause = match self.probe().await {
                Ok(()) => {
                    (misses, retry) = (0, FIRST_RETRY);
                    PERIOD
                }
                Err(error) if error.kind() == Kind::DeadlineExceeded && misses + 1 < MISSES => {
                    misses += 1;
                    Duration::ZERO
                }
                Err(error) => {
                    self.report.down(&error.chain());
                    let pause = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    pause
                }
            };
            tokio::select! {
                () = self.report.state.closed() => return,
                () = sleep(pause) => {}
                () = self.suspected() => {}
            }
        }
    }

    async fn suspected(&self) {
        self.report.suspect.notified().await;
        sleep(SUSPECT_PAUSE).await;
    }

    async fn probe(&mut self) -> Result<()> {
        let version = timeout(PROBE_LIMIT, self.introspection.version())
            .await
            .unwrap_or_else(|_elapsed| {
                Err(Error::timed_out(
                    "ask containerd for its version",
                    PROBE_LIMIT,
                ))
            })?;
        let seen = Seen {
            version,
            pid: self.introspection.server_pid(),
            connection: self.introspection.connections(),
        };
        if self.seen.as_ref() != Some(&seen) {
            self.generation += 1;
            self.seen = Some(seen.clone());
        }
        self.report.up(seen.version, seen.pid, self.generation);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::fake::World;

    /// A prober over `world`, and the link that it feeds.
    fn probed(world: &World) -> (Link, impl Future<Output = ()>) {
        let (report, link) = LinkReporter::new();
        let prober = Prober::new(world.containerd().introspection, report);
        (link, prober.run())
    }

    /// Runs `story` beside the prober.
    async fn beside(prober: impl Future<Output = ()>, story: impl Future<Output = ()>) {
        tokio::select! {
            () = prober => panic!("the prober ended"),
            () = story => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_absence_is_known_at_once_and_ends_as_a_new_generation() {
        let world = World::new();
        let (link, prober) = probed(&world);
        assert_eq!(link.state(), LinkState::Untried);
        assert!(link.ensure_up().is_ok());

        beside(prober, async {
            assert_eq!(link.until_up().await.unwrap(), 1);
            world.go_away();
            link.suspect(); // as a call does that meets the broken connection
            let mut state = link.subscribe();
            let asked = Instant::now();
            state
                .wait_for(|state| matches!(state, LinkState::Down { .. }))
                .await
                .unwrap();
            assert!(asked.elapsed() < Duration::from_millis(100));
            assert_eq!(link.ensure_up().unwrap_err().kind(), Kind::Unavailable);
            sleep(Duration::from_secs(60)).await;
            world.come_back();
            let asked = Instant::now();
            assert_eq!(link.until_up().await.unwrap(), 2);
            assert!(asked.elapsed() <= LONGEST_RETRY);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_hang_is_known_after_two_probes_and_ends_in_the_same_generation() {
        let world = World::new();
        let (link, prober) = probed(&world);

        beside(prober, async {
            link.until_up().await.unwrap();
            world.hang();
            sleep(PERIOD + PROBE_LIMIT).await;
            assert!(link.ensure_up().is_ok());
            sleep(PROBE_LIMIT + SUSPECT_PAUSE).await;
            let LinkState::Down { since, .. } = link.state() else {
                panic!("{:?}", link.state());
            };
            sleep(Duration::from_secs(60)).await;
            assert!(matches!(link.state(), LinkState::Down { since: still, .. } if still == since));
            world.resume();
            assert_eq!(link.until_up().await.unwrap(), 1);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn another_version_is_another_generation() {
        let world = World::new();
        let (link, prober) = probed(&world);

        beside(prober, async {
            link.until_up().await.unwrap();
            world.set_version("v2.3.4", 2, 3);
            sleep(PERIOD * 2).await;
            let LinkState::Up {
                version,
                generation,
                ..
            } = link.state()
            else {
                panic!("{:?}", link.state());
            };
            assert_eq!((version.major, generation), (2, 2));
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_prober_ends_with_its_last_link() {
        let world = World::new();
        let (link, prober) = probed(&world);
        drop(link);

        timeout(PERIOD, prober).await.unwrap();
    }
}
