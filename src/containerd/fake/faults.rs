//! Which call is to break, and how.

use crate::model::Kind;

/// Before or after the work of a call is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Nothing has happened.
    Before,
    /// It has, but the caller does not know.
    After,
}

/// How a call breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `Unavailable`, and nothing has happened.
    Refused,
    /// An answer of this kind, and nothing has happened.
    Answers(Kind),
    /// `Unavailable`, but it has happened.
    ReplyLost,
    /// No answer until the call's limit, then `DeadlineExceeded`.
    Hangs(When),
    /// Our process dies here: neither this nor any later call of it returns.
    ProcessDies(When),
}

impl Fault {
    /// The ways that every call is to be broken in turn.
    pub(crate) const ALL: [Self; 6] = [
        Self::Refused,
        Self::ReplyLost,
        Self::Hangs(When::Before),
        Self::Hangs(When::After),
        Self::ProcessDies(When::Before),
        Self::ProcessDies(When::After),
    ];
}

/// One fault waiting to strike.
#[derive(Debug)]
struct Planned {
    /// `None` matches every call.
    call: Option<&'static str>,
    /// Matching calls to let pass first.
    countdown: usize,
    /// Whether it stays after it struck.
    standing: bool,
    fault: Fault,
}

/// All faults waiting to strike.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
    struck: bool,
}

impl Faults {
    pub(super) fn add(&mut self, call: Option<&'static str>, nth: usize, fault: Fault) {
        self.planned.push(Planned {
            call,
            countdown: nth,
            standing: false,
            fault,
        });
    }

    pub(super) fn add_standing(&mut self, call: &'static str, fault: Fault) {
        self.planned.push(Planned {
            call: Some(call),
            countdown: 0,
            standing: true,
            fault,
        });
    }

    pub(super) fn clear(&mut self) {
        self.planned.clear();
    }

    pub(super) fn struck(&self) -> bool {
        self.struck
    }

    /// The fault that strikes this call, if any; each call counts once for every planned fault that it matches.
    pub(super) fn next(&mut self, call: &str) -> Option<Fault> {
        let mut strikes = None;
        self.planned.retain_mut(|planned| {
            if planned.call.is_some_and(|wanted| wanted != call) {
                return true;
            }
            if planned.countdown > 0 {
                planned.countdown -= 1;
                return true;
            }
            strikes.get_or_insert(planned.fault);
            planned.standing
        });
        self.struck |= strikes.is_some();
        strikes
    }
}
