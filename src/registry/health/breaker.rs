//! The circuit breaker of one host. Pure: time is handed in.
//!
//! ```text
//!            unreachable once; erring or stalling three times
//!   Closed ────────────────────────────────────────────────────> Open
//!      ^                                                          │  the time for a trial has come
//!      │  an answer                                               v
//!      └────────────────────────────────────────────────────── HalfOpen ── none: Open again, and for longer
//! ```

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker, where the host could be reached.
const STRIKES: u32 = 3;
/// From an opening to the first trial.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between trials.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A host that was well for so long begins with the first pause again.
const CALM: Duration = Duration::from_secs(300);
/// A trial of which nothing was heard for so long counts for nothing: it was called off.
const TRIAL: Duration = Duration::from_secs(45);

/// What a failure says of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Fault {
    /// No connection came about.
    Unreachable,
    /// It answered with a server error, or broke off.
    Erring,
    /// It kept us waiting too long.
    Stalling,
}

/// Whether a host is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// It is asked.
    Closed,
    /// It is passed over.
    Open,
    /// It is passed over while a single trial is on its way.
    HalfOpen,
}

impl BreakerState {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { trial_at: Instant },
    HalfOpen { until: Instant },
}

#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// When it last went from closed to open or back.
    since: Instant,
    /// When the host last was at fault.
    failed_at: Option<Instant>,
    erring: u32,
    stalling: u32,
    /// Trials that failed in a row, and openings after a short calm.
    trials: u32,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Closed,
            since: now,
            failed_at: None,
            erring: 0,
            stalling: 0,
            trials: 0,
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn failed_at(&self) -> Option<Instant> {
        self.failed_at
    }

    /// When the next trial is due; `None` while it is closed.
    pub(super) fn trial_at(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Open { trial_at } => Some(trial_at),
            State::HalfOpen { until } => Some(until),
        }
    }

    /// Whether a trial has been due for `grace`; if so it has begun with this.
    pub(super) fn begin_trial(&mut self, now: Instant, grace: Duration) -> bool {
        let is_due = self.trial_at().is_some_and(|due| now >= due + grace);
        if is_due {
            self.state = State::HalfOpen { until: now + TRIAL };
        }
        is_due
    }

    /// It answered.
    pub(super) fn answered(&mut self, now: Instant) {
        self.erring = 0;
        self.close(now);
    }

    /// It delivered content, which an answer does not promise.
    pub(super) fn delivered(&mut self, now: Instant) {
        self.stalling = 0;
        self.answered(now);
    }

    /// It was at fault. Whether the breaker opened with this.
    pub(super) fn failed(&mut self, now: Instant, fault: Fault) -> bool {
        self.failed_at = Some(now);
        match fault {
            Fault::Unreachable => {}
            Fault::Erring => self.erring = self.erring.saturating_add(1),
            Fault::Stalling => self.stalling = self.stalling.saturating_add(1),
        }
        match self.state {
            State::Closed => {
                let is_worn = self.erring >= STRIKES || self.stalling >= STRIKES;
                if fault != Fault::Unreachable && !is_worn {
                    return false;
                }
                if now.duration_since(self.since) > CALM {
                    self.trials = 0;
                }
                self.since = now;
            }
            State::HalfOpen { .. } => {}
            // The last resort of a request, or one that began earlier.
            State::Open { .. } => return false,
        }
        let pause = pause(self.trials);
        self.trials = self.trials.saturating_add(1);
        self.state = State::Open {
            trial_at: now + pause,
        };
        true
    }

    fn close(&mut self, now: Instant) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.state = State::Closed;
        self.since = now;
        // On probation: an answer does not prove that content flows.
        self.stalling = self.stalling.min(STRIKES - 1);
    }
}

/// A quarter more or less than the doubled pause, so that a node's hosts are not tried in step with other nodes'.
fn pause(trials: u32) -> Duration {
    let base = FIRST_PAUSE
        .saturating_mul(1_u32 << trials.min(8))
        .min(LONGEST_PAUSE);
    let jitter = getrandom::u32().unwrap_or(0) % 1024;
    base.saturating_mul(3) / 4 + base.saturating_mul(jitter) / 2048
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(now);
        assert!(breaker.failed(now, Fault::Unreachable));
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn one_failed_connect_opens_and_an_answer_to_a_trial_closes() {
        let now = Instant::now();
        let mut breaker = opened(now);

        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.begin_trial(now + SECOND, Duration::ZERO));
        assert!(breaker.begin_trial(now + 7 * SECOND, Duration::ZERO));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(
            !breaker.begin_trial(now + 8 * SECOND, Duration::ZERO),
            "one trial at a time"
        );
        breaker.answered(now + 9 * SECOND);

        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.since(), now + 9 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn errors_open_at_the_third_in_a_row_and_an_answer_between_forgives_them() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);

        assert!(!breaker.failed(now, Fault::Erring));
        assert!(!breaker.failed(now, Fault::Erring));
        breaker.answered(now);
        assert!(!breaker.failed(now, Fault::Erring));
        assert!(!breaker.failed(now, Fault::Erring));
        assert!(breaker.failed(now, Fault::Erring));
    }

    #[tokio::test(start_paused = true)]
    async fn stalls_are_forgiven_by_content_alone_and_leave_a_host_on_probation() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for _ in 0..2 {
            assert!(!breaker.failed(now, Fault::Stalling));
            breaker.answered(now);
        }
        assert!(breaker.failed(now, Fault::Stalling));

        breaker.answered(now);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(breaker.failed(now, Fault::Stalling), "on probation");
        breaker.delivered(now);
        assert!(!breaker.failed(now, Fault::Stalling));
    }

    #[tokio::test(start_paused = true)]
    async fn trials_that_fail_come_ever_less_often_down_to_a_limit_until_a_long_calm() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let due = breaker.trial_at().unwrap();
            pauses.push(due - now);
            now = due;
            assert!(breaker.begin_trial(now, Duration::ZERO));
            assert!(breaker.failed(now, Fault::Unreachable));
        }

        assert!(pauses[0] >= 3 * SECOND && pauses[0] <= 7 * SECOND);
        assert!(pauses[2] > pauses[0]);
        assert!(pauses.iter().all(|pause| *pause <= 75 * SECOND));
        assert!(pauses[11] >= 45 * SECOND);
        breaker.answered(now);
        now += CALM + SECOND;
        breaker.failed(now, Fault::Unreachable);
        assert!(breaker.trial_at().unwrap() - now <= 7 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_was_called_off_makes_room_for_another() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert!(breaker.begin_trial(now + 10 * SECOND, Duration::ZERO));

        assert!(breaker.begin_trial(now + 10 * SECOND + TRIAL, Duration::ZERO));
    }
}
