//! What is remembered of each registry host between pulls: whether it is worth asking, and what came of asking it.
//!
//! ```text
//! Health ── host() ──> HostHealth   one a scheme and authority, shared by all pulls
//!    │                   admits()             is it asked, or passed over?
//!    │                   answered(), failed() what came of it
//!    └─ keep_probing()                        tries those that are passed over, in the background
//! ```
//!
//! References are hostile, and so are the hosts that they name: the table has a limit, and those that no `hosts.toml`
//! names are forgotten first and never tried in the background.

mod breaker;
mod latency;
mod probe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use breaker::BreakerState;
pub(super) use breaker::Fault;
pub(super) use probe::Probe;

use breaker::Breaker;
use latency::Latencies;

use crate::model::Timestamp;

/// Hosts remembered at the same time.
const HOSTS: usize = 256;
/// Requests that ask two hosts at the same time, for the whole node.
const HEDGES: usize = 8;
/// A failure so fresh is believed without another look.
const FRESH: Duration = Duration::from_secs(10);
/// A trial that the background has not made for so long after its time is left to a request.
const OVERDUE: Duration = Duration::from_secs(30);
/// How long it is remembered that a host sends no parts of blobs.
const NO_PARTS: Duration = Duration::from_secs(3600);
/// Parts of blobs that one host is asked for ahead of their time, by all pulls together.
const PARTS: usize = 12;

/// A row of the table of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// Scheme and authority.
    pub host: String,
    /// Whether it is asked.
    pub state: BreakerState,
    /// Since when it is, or is not.
    pub since: Timestamp,
    /// What it last did wrong, and when.
    pub last_error: Option<(String, Timestamp)>,
    /// Requests that it answered, be it with a refusal.
    pub successes: u64,
    /// Requests that it did not, or with a server error.
    pub failures: u64,
    /// Requests that passed it over.
    pub skips: u64,
    /// Requests that asked another host as well because it kept them waiting.
    pub hedges: u64,
    /// From a request to the headers of its answer, the median of the last ones.
    pub median_latency: Option<Duration>,
    /// Bytes of bodies that came from it.
    pub bytes: u64,
    /// When it is tried again in the background, or, where nobody has asked for it lately, by the next request.
    pub next_trial: Option<Timestamp>,
}

/// All hosts. One for the process.
pub(super) struct Health {
    hosts: Mutex<HashMap<String, Arc<HostHealth>>>,
    hedges: Arc<Semaphore>,
    /// A breaker opened.
    opened: Arc<Notify>,
}

/// One host.
pub(super) struct HostHealth {
    name: String,
    ledger: Mutex<Ledger>,
    opened: Arc<Notify>,
    parts: Arc<Semaphore>,
}

struct Ledger {
    /// When it last answered with something else than the part that it was asked for.
    no_parts: Option<Instant>,
    breaker: Breaker,
    /// How to try it in the background; `None` for a host that no file names.
    probe: Option<Probe>,
    /// When a pull last had to do with it.
    wanted: Instant,
    last_error: Option<String>,
    successes: u64,
    failures: u64,
    skips: u64,
    hedges: u64,
    bytes: u64,
    latencies: Latencies,
}

/// A host that was passed over.
#[derive(Debug)]
pub(super) struct Skip {
    /// The host and the reason.
    pub(super) why: String,
    /// It failed so lately that asking it would only cost time.
    pub(super) is_fresh: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            hosts: Mutex::default(),
            hedges: Arc::new(Semaphore::new(HEDGES)),
            opened: Arc::default(),
        }
    }
}

impl Health {
    /// The host called `name`; with `probe` where a file names it.
    pub(super) fn host(&self, name: &str, probe: Option<Probe>) -> Arc<HostHealth> {
        let mut hosts = lock(&self.hosts);
        if let Some(known) = hosts.get(name) {
            let mut ledger = lock(&known.ledger);
            ledger.wanted = Instant::now();
            // The file may have changed since.
            if probe.is_some() {
                ledger.probe = probe;
            }
            return Arc::clone(known);
        }
        while hosts.len() >= HOSTS {
            let dispensable = hosts.values().min_by_key(|host| {
                let ledger = lock(&host.ledger);
                (ledger.probe.is_some(), ledger.wanted)
            });
            let Some(name) = dispensable.map(|host| host.name.clone()) else {
                break;
            };
            hosts.remove(&name);
        }
        let host = Arc::new(HostHealth::new(name, probe, Arc::clone(&self.opened)));
        hosts.insert(name.to_owned(), Arc::clone(&host));
        host
    }

    /// Leave to ask two hosts at once; `None` while enough others do.
    pub(super) fn hedge(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.hedges).try_acquire_owned().ok()
    }

    /// Every host, by its name, as of `now`.
    pub(super) fn report(&self, now: Timestamp) -> Vec<HostReport> {
        let mut rows: Vec<HostReport> = lock(&self.hosts)
            .values()
            .map(|host| host.report(now))
            .collect();
        rows.sort_by(|a, b| a.host.cmp(&b.host));
        rows
    }

    fn all(&self) -> Vec<Arc<HostHealth>> {
        lock(&self.hosts).values().cloned().collect()
    }
}

impl HostHealth {
    fn new(name: &str, probe: Option<Probe>, opened: Arc<Notify>) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            opened,
            parts: Arc::new(Semaphore::new(PARTS)),
            ledger: Mutex::new(Ledger {
                no_parts: None,
                breaker: Breaker::new(now),
                probe,
                wanted: now,
                last_error: None,
                successes: 0,
                failures: 0,
                skips: 0,
                hedges: 0,
                bytes: 0,
                latencies: Latencies::default(),
            }),
        }
    }

    /// Whether nothing speaks against asking it.
    pub(super) fn is_well(&self) -> bool {
        lock(&self.ledger).breaker.state() == BreakerState::Closed
    }

    /// Whether a request is to ask it; the request may be the trial of an open breaker.
    ///
    /// # Errors
    /// Why it is passed over.
    pub(super) fn admits(&self) -> Result<(), Skip> {
        let now = Instant::now();
        let mut ledger = lock(&self.ledger);
        ledger.wanted = now;
        if ledger.breaker.state() == BreakerState::Closed {
            return Ok(());
        }
        let grace = ledger.probe.as_ref().map_or(Duration::ZERO, |_| OVERDUE);
        if ledger.breaker.begin_trial(now, grace) {
            return Ok(());
        }
        ledger.skips = ledger.skips.saturating_add(1);
        let down = now.duration_since(ledger.breaker.since());
        let failed_at = ledger.breaker.failed_at();
        Err(Skip {
            why: format!(
                "{} (out of order for {} s: {})",
                self.name,
                down.as_secs(),
                ledger.last_error.as_deref().unwrap_or("no answer")
            ),
            is_fresh: failed_at.is_some_and(|at| now.duration_since(at) < FRESH),
        })
    }

    /// It answered within `latency`, be it with a refusal.
    pub(super) fn answered(&self, latency: Duration) {
        let mut ledger = lock(&self.ledger);
        ledger.successes = ledger.successes.saturating_add(1);
        ledger.latencies.note(latency);
        self.mended(&mut ledger, Breaker::answered);
    }

    /// It was asked for a part of a blob and sent something else.
    pub(super) fn sends_no_parts(&self) {
        let was = lock(&self.ledger).no_parts.replace(Instant::now());
        if was.is_none() {
            tracing::info!(host = %self.name, "registry host sends no parts of blobs: they come in one stream");
        }
    }

    /// Whether it is worth asking for a part of a blob.
    pub(super) fn may_send_parts(&self) -> bool {
        let no_parts = lock(&self.ledger).no_parts;
        no_parts.is_none_or(|at| at.elapsed() >= NO_PARTS)
    }

    /// Leave to ask it for a part ahead of its time; `None` while it is asked for enough of them.
    pub(super) fn part(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.parts).try_acquire_owned().ok()
    }

    /// `bytes` of a body came from it.
    pub(super) fn received(&self, bytes: u64) {
        let mut ledger = lock(&self.ledger);
        ledger.bytes = ledger.bytes.saturating_add(bytes);
    }

    /// Content flows.
    pub(super) fn delivered(&self) {
        self.mended(&mut lock(&self.ledger), Breaker::delivered);
    }

    fn mended(&self, ledger: &mut Ledger, good: impl FnOnce(&mut Breaker, Instant)) {
        let before = ledger.breaker.state();
        good(&mut ledger.breaker, Instant::now());
        if before != BreakerState::Closed && ledger.breaker.state() == BreakerState::Closed {
            tracing::info!(host = %self.name, "registry host is back");
        }
    }

    /// It was at fault, and how, in few words without a URL.
    pub(super) fn failed(&self, fault: Fault, what: String) {
        let mut ledger = lock(&self.ledger);
        ledger.failures = ledger.failures.saturating_add(1);
        let was_closed = ledger.breaker.state() == BreakerState::Closed;
        if ledger.breaker.failed(Instant::now(), fault) {
            self.opened.notify_one();
            // What no file names, a pod's image name does: that is no warning to the operator.
            if was_closed && ledger.probe.is_some() {
                tracing::warn!(
                    host = %self.name, error = %what,
                    "registry host is out of order: others are asked until it answers again"
                );
            }
        }
        ledger.last_error = Some(what);
    }

    /// Another host is asked because it keeps a request waiting.
    pub(super) fn hedged(&self) {
        let mut ledger = lock(&self.ledger);
        ledger.hedges = ledger.hedges.saturating_add(1);
    }

    fn report(&self, now: Timestamp) -> HostReport {
        let ledger = lock(&self.ledger);
        let here = Instant::now();
        let at = |instant: Instant| {
            let past = i64::try_from(here.duration_since(instant).as_nanos()).unwrap_or(i64::MAX);
            let ahead = i64::try_from(instant.duration_since(here).as_nanos()).unwrap_or(i64::MAX);
            Timestamp(now.0.saturating_sub(past).saturating_add(ahead))
        };
        let breaker = &ledger.breaker;
        HostReport {
            host: self.name.clone(),
            state: breaker.state(),
            since: at(breaker.since()),
            last_error: ledger.last_error.clone().zip(breaker.failed_at().map(at)),
            successes: ledger.successes,
            failures: ledger.failures,
            skips: ledger.skips,
            hedges: ledger.hedges,
            median_latency: ledger.latencies.median(),
            bytes: ledger.bytes,
            next_trial: breaker.trial_at().map(at),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
