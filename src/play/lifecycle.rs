//! What to do next with a pod's containers: pure decisions from what was seen, as kubelet would take them.
//!
//! ```text
//! init 1 -> sidecar 1 (started) -> init 2 -> ... -> all ordinary containers -> last one ended -> sidecars stop
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::defaults::{RestartPolicy, Role};
use crate::model::Timestamp;

/// The first wait between two starts of a container that ends again and again.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// The longest one.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// A container that ran this long starts afresh.
const CALM: Duration = Duration::from_secs(600);

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) finished_at: Timestamp,
}

/// What the runtime says of the newest attempt of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Missing,
    /// Made and never started: a leftover of a call that failed.
    Created {
        id: String,
        attempt: u32,
    },
    Running {
        id: String,
        attempt: u32,
        started_at: Timestamp,
        /// Whether its startup probe has passed; true without one.
        started: bool,
        /// Whether its readiness probe passes; true without one.
        ready: bool,
    },
    Exited {
        id: String,
        attempt: u32,
        exit: Exit,
    },
}

impl Seen {
    /// The attempt that was seen.
    pub(super) fn attempt(&self) -> Option<u32> {
        match self {
            Self::Missing => None,
            Self::Created { attempt, .. }
            | Self::Running { attempt, .. }
            | Self::Exited { attempt, .. } => Some(*attempt),
        }
    }
}

/// One thing to do; `index` is the container's place in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make and start it, after removing the leftover `replaces`.
    Start {
        index: usize,
        attempt: u32,
        replaces: Option<String>,
    },
    /// Stop it: the ordinary containers have ended.
    Stop { index: usize, id: String },
}

/// Where the pod as a whole stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Initializing { done: usize, total: usize },
    Running,
    Succeeded,
    Failed,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) phase: Phase,
    pub(super) steps: Vec<Step>,
    /// The containers that wait for a time before they are started, and the earliest such time.
    pub(super) waiting: BTreeMap<usize, Timestamp>,
}

/// Decides. `roles` and `seen` go by the plan's order; `not_before` holds back a container's next start.
pub(super) fn decide(
    restart: RestartPolicy,
    roles: &[Role],
    seen: &[Seen],
    not_before: &BTreeMap<usize, Timestamp>,
    now: Timestamp,
) -> Verdict {
    let mut pod = Deciding {
        restart,
        units: roles.iter().copied().zip(seen).collect(),
        not_before,
        now,
        verdict: Verdict {
            phase: Phase::Running,
            steps: Vec::new(),
            waiting: BTreeMap::new(),
        },
    };
    let begun = pod
        .units
        .iter()
        .any(|(role, seen)| *role == Role::App && **seen != Seen::Missing);
    if begun || pod.initialize() {
        pod.run();
    }
    pod.verdict
}

struct Deciding<'a> {
    restart: RestartPolicy,
    units: Vec<(Role, &'a Seen)>,
    not_before: &'a BTreeMap<usize, Timestamp>,
    now: Timestamp,
    verdict: Verdict,
}

impl Deciding<'_> {
    /// Walks the init containers up to the first one that is not through. True when all are.
    fn initialize(&mut self) -> bool {
        let units = self.units.clone();
        let early = || units.iter().filter(|(role, _)| *role != Role::App);
        let total = early().count();
        for (done, (index, (role, seen))) in units
            .iter()
            .enumerate()
            .filter(|(_, (role, _))| *role != Role::App)
            .enumerate()
        {
            self.verdict.phase = Phase::Initializing { done, total };
            match (role, seen) {
                (Role::Init, Seen::Exited { exit, .. }) if exit.code == 0 => {}
                (Role::Init, Seen::Exited { .. }) if self.restart == RestartPolicy::Never => {
                    self.end(false);
                    return false;
                }
                (Role::Sidecar, Seen::Running { started: true, .. }) => {}
                _ => {
                    self.start(index, seen);
                    return false;
                }
            }
        }
        true
    }

    /// Keeps the ordinary containers and the sidecars running, or ends the pod.
    fn run(&mut self) {
        self.verdict.phase = Phase::Running;
        let units = self.units.clone();
        let apps = || units.iter().filter(|(role, _)| *role == Role::App);
        if apps().all(|(_, seen)| self.is_final(seen)) {
            let succeeded =
                apps().all(|(_, seen)| matches!(seen, Seen::Exited { exit, .. } if exit.code == 0));
            self.end(succeeded);
            return;
        }
        for (index, (role, seen)) in units.iter().enumerate() {
            let wanted = match role {
                Role::Init => false,
                Role::Sidecar => true,
                Role::App => !self.is_final(seen),
            };
            if wanted {
                self.start(index, seen);
            }
        }
    }

    /// Stops the sidecars, the last one first; the pod has ended when none runs.
    fn end(&mut self, succeeded: bool) {
        let running = self
            .units
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, unit)| match unit {
                (Role::Sidecar, Seen::Running { id, .. }) => Some((index, id.clone())),
                _ => None,
            });
        match running {
            Some((index, id)) => self.verdict.steps.push(Step::Stop { index, id }),
            None if succeeded => self.verdict.phase = Phase::Succeeded,
            None => self.verdict.phase = Phase::Failed,
        }
    }

    fn is_final(&self, seen: &Seen) -> bool {
        match (seen, self.restart) {
            (Seen::Exited { .. }, RestartPolicy::Never) => true,
            (Seen::Exited { exit, .. }, RestartPolicy::OnFailure) => exit.code == 0,
            _ => false,
        }
    }

    /// Starts a container that does not run, once its time has come.
    fn start(&mut self, index: usize, seen: &Seen) {
        let (attempt, replaces) = match seen {
            Seen::Running { .. } => return,
            Seen::Missing => (0, None),
            Seen::Created { id, attempt } => (*attempt, Some(id.clone())),
            Seen::Exited { attempt, .. } => (attempt.saturating_add(1), None),
        };
        match self.not_before.get(&index) {
            Some(due) if *due > self.now => {
                self.verdict.waiting.insert(index, *due);
            }
            _ => self.verdict.steps.push(Step::Start {
                index,
                attempt,
                replaces,
            }),
        }
    }
}

/// Waits that double from start to start, one entry a container.
#[derive(Debug, Default)]
pub(super) struct Backoff(BTreeMap<usize, (Duration, Timestamp)>);

impl Backoff {
    /// When a container that ended or failed at `event` may be started.
    pub(super) fn due(&self, index: usize, event: Timestamp) -> Timestamp {
        match self.0.get(&index) {
            Some((wait, updated)) if event.since(*updated) <= CALM => event.after(*wait),
            _ => event,
        }
    }

    /// Notes a start after `event`: the next one waits longer.
    pub(super) fn note(&mut self, index: usize, event: Timestamp, now: Timestamp) {
        let wait = match self.0.get(&index) {
            Some((wait, updated)) if event.since(*updated) <= CALM => {
                wait.saturating_mul(2).min(LONGEST_WAIT)
            }
            _ => FIRST_WAIT,
        };
        self.0.insert(index, (wait, now));
    }

    /// Forgets a container that is well.
    pub(super) fn forget(&mut self, index: usize) {
        self.0.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SECOND: i64 = 1_000_000_000;

    /// `-` missing, `c` created, `s` running but not started, `r` running, `0` and `1` ended so.
    fn seen(word: &str) -> Vec<Seen> {
        let (id, attempt) = (String::from("id"), 4);
        word.chars()
            .map(|letter| match letter {
                '-' => Seen::Missing,
                'c' => Seen::Created {
                    id: id.clone(),
                    attempt,
                },
                's' | 'r' => Seen::Running {
                    id: id.clone(),
                    attempt,
                    started_at: Timestamp(0),
                    started: letter == 'r',
                    ready: true,
                },
                code => Seen::Exited {
                    id: id.clone(),
                    attempt,
                    exit: Exit {
                        code: i32::from(code == '1'),
                        reason: String::new(),
                        message: String::new(),
                        finished_at: Timestamp(0),
                    },
                },
            })
            .collect()
    }

    /// `i` init, `s` sidecar, `a` app.
    fn roles(word: &str) -> Vec<Role> {
        word.chars()
            .map(|letter| match letter {
                'i' => Role::Init,
                's' => Role::Sidecar,
                _ => Role::App,
            })
            .collect()
    }

    fn told(verdict: &Verdict) -> String {
        let steps: Vec<String> = verdict
            .steps
            .iter()
            .map(|step| match step {
                Step::Start {
                    index,
                    attempt,
                    replaces,
                } => {
                    let mark = if replaces.is_some() { "!" } else { "" };
                    format!("start {index}.{attempt}{mark}")
                }
                Step::Stop { index, .. } => format!("stop {index}"),
            })
            .collect();
        let phase = match verdict.phase {
            Phase::Initializing { done, total } => format!("init {done}/{total}"),
            other => format!("{other:?}").to_lowercase(),
        };
        format!("{phase}: {}", steps.join(", "))
    }

    use RestartPolicy::{Always, Never, OnFailure};

    #[rstest]
    #[case(Always, "iiaa", "----", "init 0/2: start 0.0")]
    #[case(Always, "iiaa", "r---", "init 0/2: ")]
    #[case(Always, "iiaa", "0---", "init 1/2: start 1.0")]
    #[case(Always, "iiaa", "1---", "init 0/2: start 0.5")]
    #[case(Never, "iiaa", "01--", "failed: ")]
    #[case(Always, "iiaa", "00--", "running: start 2.0, start 3.0")]
    #[case(Always, "iiaa", "--r-", "running: start 3.0")]
    #[case(Always, "sia", "s--", "init 0/2: ")]
    #[case(Always, "sia", "r--", "init 1/2: start 1.0")]
    #[case(Always, "sia", "0r-", "init 0/2: start 0.5")]
    #[case(Never, "sia", "r1-", "init 1/2: stop 0")]
    #[case(Always, "sia", "10r", "running: start 0.5")]
    #[case(Never, "ssa", "rr0", "running: stop 1")]
    #[case(Never, "ssa", "r00", "running: stop 0")]
    #[case(Never, "ssa", "000", "succeeded: ")]
    #[case(Never, "aa", "01", "failed: ")]
    #[case(Never, "aa", "1r", "running: ")]
    #[case(OnFailure, "aa", "01", "running: start 1.5")]
    #[case(OnFailure, "aa", "00", "succeeded: ")]
    #[case(Always, "a", "0", "running: start 0.5")]
    #[case(Always, "a", "c", "running: start 0.4!")]
    fn the_next_steps_follow_from_what_is_seen(
        #[case] restart: RestartPolicy,
        #[case] kinds: &str,
        #[case] states: &str,
        #[case] want: &str,
    ) {
        let verdict = decide(
            restart,
            &roles(kinds),
            &seen(states),
            &BTreeMap::new(),
            Timestamp(0),
        );

        assert_eq!(told(&verdict), want);
    }

    #[test]
    fn a_container_held_back_waits_until_its_time() {
        let due = Timestamp(5);
        let held = BTreeMap::from([(0, due)]);

        let early = decide(Always, &roles("a"), &seen("1"), &held, Timestamp(4));
        let late = decide(Always, &roles("a"), &seen("1"), &held, due);

        assert_eq!(early.waiting, held);
        assert_eq!(told(&early), "running: ");
        assert_eq!(told(&late), "running: start 0.5");
    }

    #[test]
    fn waits_double_up_to_five_minutes_and_a_calm_run_resets_them() {
        let mut backoff = Backoff::default();
        let at = |seconds: i64| Timestamp(seconds * SECOND);
        let mut waits = Vec::new();
        let mut now = 0;

        for _ in 0..8 {
            let wait = backoff.due(0, at(now)).since(at(now)).as_secs();
            waits.push(wait);
            backoff.note(0, at(now), at(now));
            now += i64::try_from(wait).unwrap();
        }

        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.due(0, at(now + 601)), at(now + 601));
    }
}
