//! An operation's part of its caller's trace: a span for the whole and one for each step, with the times that the live
//! table has.

use super::live::OpInfo;
use crate::model::Timestamp;
use crate::telemetry::traces::{Place, Span};

/// The spans of one operation; none where nobody traces it.
#[derive(Debug)]
pub(super) struct Spans {
    whole: Span,
    /// One for each step that the row keeps; `None` once it has ended.
    steps: Vec<Option<Span>>,
}

impl Spans {
    /// For the operation of `row`, which begins, as a part of what runs here.
    pub(super) fn begin(row: &OpInfo) -> Self {
        let whole = Place::here().begin_at(row.kind, Some(row.started_at));
        whole.note("object", &row.object);
        if let Some(pod) = &row.pod {
            whole.note("sandbox.id", pod);
        }
        let mut spans = Self {
            whole,
            steps: Vec::new(),
        };
        for step in &row.steps {
            spans.step(step.name, step.began);
        }
        spans
    }

    /// The row has one step more.
    pub(super) fn step(&mut self, name: &'static str, began: Timestamp) {
        if self.whole.is_taken() {
            let step = self.whole.place().begin_at(name, Some(began));
            self.steps.push(Some(step));
        }
    }

    /// The step with this number ended.
    pub(super) fn close(&mut self, at: usize, ended: Timestamp) {
        if let Some(step) = self.steps.get_mut(at).and_then(Option::take) {
            step.end_at(ended);
        }
    }

    /// Where parts of the step with this number stand, or those of the whole.
    pub(super) fn place(&self, at: Option<usize>) -> Place {
        let step = at.and_then(|at| self.steps.get(at)?.as_ref());
        step.unwrap_or(&self.whole).place().clone()
    }

    /// What the operation works on is known now.
    pub(super) fn object(&self, object: &str) {
        self.whole.note("object", object);
    }

    /// The operation failed.
    pub(super) fn fail(&self, why: &str) {
        self.whole.fail(why);
    }

    /// The operation ended, and whatever steps of it were open.
    pub(super) fn end(self, ended: Timestamp) {
        for step in self.steps.into_iter().flatten() {
            step.end_at(ended);
        }
        self.whole.end_at(ended);
    }
}
