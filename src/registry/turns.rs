//! Whose turn it is: the hosts of one request in file order, those that are out of order passed over.
//!
//! They are asked in the end all the same where nobody else delivered, unless the last host of the list, which the others
//! mirror, refused by itself and they failed only moments ago. So a pull that could succeed never fails because of
//! what is remembered.

use std::collections::VecDeque;

use super::endpoint::Endpoint;
use super::failure::{Failure, Rank, Worst};
use super::health::Skip;
use crate::model::Error;

/// One host's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Place in the list of the repository's endpoints.
    pub(super) at: usize,
    /// No host that is in order follows.
    pub(super) is_last: bool,
}

/// The turns of one request.
#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: VecDeque<usize>,
    passed_over: Vec<(usize, Skip)>,
    /// The list's last host, which the others mirror.
    upstream: Option<usize>,
    is_alone: bool,
    is_second_round: bool,
    upstream_refused: bool,
    worst: Worst,
}

impl Turns {
    /// The turns of those `endpoints` that `may` be asked.
    pub(super) fn new(endpoints: &[Endpoint], may: impl Fn(&Endpoint) -> bool) -> Self {
        let queue: VecDeque<usize> = endpoints
            .iter()
            .enumerate()
            .filter(|(_, endpoint)| may(endpoint))
            .map(|(at, _)| at)
            .collect();
        Self {
            upstream: queue.back().copied(),
            is_alone: queue.len() == 1,
            queue,
            passed_over: Vec::new(),
            is_second_round: false,
            upstream_refused: false,
            worst: Worst::default(),
        }
    }

    /// Lets the host at `first` begin, and with `none_before` those before it have no turn.
    pub(super) fn begin_with(&mut self, first: usize, none_before: bool) {
        if none_before {
            self.queue.retain(|at| *at >= first);
        } else if self.queue.contains(&first) {
            self.queue.retain(|at| *at != first);
            self.queue.push_front(first);
        }
    }

    /// The next turn; `None` when every host had one.
    pub(super) fn next(&mut self, endpoints: &[Endpoint]) -> Option<Turn> {
        loop {
            let Some(at) = self.queue.pop_front() else {
                if self.passed_over.is_empty() || self.is_second_round {
                    return None;
                }
                self.begin_second_round();
                continue;
            };
            let endpoint = endpoints.get(at)?;
            if !self.is_alone
                && !self.is_second_round
                && let Err(skip) = endpoint.health().admits()
            {
                tracing::debug!(host = %skip.why, "registry host passed over");
                self.passed_over.push((at, skip));
                continue;
            }
            return Some(self.turn(endpoints, at));
        }
    }

    /// The host in order that would be next, if it may be asked while `waiting` keeps us waiting.
    pub(super) fn rival(&self, endpoints: &[Endpoint], waiting: Turn) -> Option<Turn> {
        let waiting = endpoints.get(waiting.at)?;
        let well = |at: &&usize| {
            endpoints
                .get(**at)
                .is_some_and(|rival| rival.health().is_well())
        };
        let at = *self.queue.iter().find(well)?;
        endpoints.get(at).filter(|rival| rival.may_join(waiting))?;
        Some(self.turn(endpoints, at))
    }

    /// Takes a rival's own turn away: it has had it.
    pub(super) fn take(&mut self, rival: Turn) {
        self.queue.retain(|at| *at != rival.at);
    }

    /// Notes that `turn` brought nothing.
    pub(super) fn failed(&mut self, turn: Turn, failure: Failure) {
        self.upstream_refused |= self.upstream == Some(turn.at) && is_verdict(&failure);
        self.worst.note(failure);
    }

    /// Every host that was asked answered that it does not have it.
    pub(super) fn all_not_found(&self) -> bool {
        self.worst.all_not_found()
    }

    /// The error to report: the most telling one, and who was not asked at all. `none` words the case that no host may
    /// be asked.
    pub(super) fn into_error(self, none: impl FnOnce() -> Error) -> Error {
        let error = self.worst.into_error(none);
        let reasons: Vec<String> = self
            .passed_over
            .into_iter()
            .map(|(_, skip)| skip.why)
            .collect();
        if reasons.is_empty() {
            return error;
        }
        error.context(format!("without {}", reasons.join(" and ")))
    }

    fn turn(&self, endpoints: &[Endpoint], at: usize) -> Turn {
        let follows = |next: &usize| {
            *next != at
                && (self.is_second_round
                    || endpoints.get(*next).is_some_and(|e| e.health().is_well()))
        };
        Turn {
            at,
            is_last: !self.queue.iter().any(follows),
        }
    }

    fn begin_second_round(&mut self) {
        self.is_second_round = true;
        let hopeless = self.upstream_refused;
        let (left_out, again): (Vec<_>, Vec<_>) = std::mem::take(&mut self.passed_over)
            .into_iter()
            .partition(|(_, skip)| hopeless && skip.is_fresh);
        self.passed_over = left_out;
        self.queue.extend(again.into_iter().map(|(at, _)| at));
    }
}

/// Whether a failure is the host's decision, which waiting would not change.
fn is_verdict(failure: &Failure) -> bool {
    let Some(status) = failure.status else {
        return failure.rank == Rank::TooLarge;
    };
    status.is_client_error() && !matches!(status.as_u16(), 408 | 429)
}
