//! The place in a trace where some work stands, and the spans below it.
//!
//! A place goes with the work, not with the thread: whoever starts a task hands it on. Where nobody traces there is no
//! place, and everything here does nothing.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;
use tokio::task::futures::TaskLocalFuture;
use tonic::codegen::http::{HeaderMap, HeaderValue};

use super::super::page::cut;
use super::headers;
use crate::model::Timestamp;

/// Longest text of an attribute: others choose the names that end up there.
const TEXT_BYTES: usize = 256;
/// Longest text of what went wrong.
const WHY_BYTES: usize = 1_024;

tokio::task_local! {
    static HERE: Place;
}

/// Where in a trace some work stands; nowhere by default. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Place(Option<Arc<Spot>>);

struct Spot {
    tracer: SdkTracer,
    /// Has the span, or what is known of one that is not ours.
    context: Context,
    /// What the caller wants passed on.
    baggage: Option<HeaderValue>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self
            .0
            .as_ref()
            .map(|spot| spot.context.span().span_context().clone());
        f.debug_tuple("Place").field(&span).finish()
    }
}

impl Place {
    /// Where the work stands that asks.
    pub fn here() -> Self {
        HERE.try_with(Self::clone).unwrap_or_default()
    }

    /// At the beginning of what `tracer` is to trace: below the caller that `headers` tell of.
    pub(super) fn below_caller(tracer: SdkTracer, headers: &HeaderMap) -> Self {
        let context = match headers::parent(headers) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        Self(Some(Arc::new(Spot {
            tracer,
            context,
            baggage: headers::baggage(headers),
        })))
    }

    /// Whether there is a trace at all.
    pub fn is_somewhere(&self) -> bool {
        self.0.is_some()
    }

    /// Runs `work` here.
    pub fn hold<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        HERE.scope(self, work)
    }

    /// Begins a span below this place; nothing where the trace is not taken.
    pub fn begin(&self, name: impl Into<Cow<'static, str>>) -> Span {
        self.begin_at(name, None)
    }

    /// As [`Self::begin`], for what began at `when`.
    pub fn begin_at(&self, name: impl Into<Cow<'static, str>>, when: Option<Timestamp>) -> Span {
        match &self.0 {
            Some(spot) if spot.is_taken() => self.open(name.into(), SpanKind::Internal, when),
            _ => Span {
                place: self.clone(),
                is_own: false,
            },
        }
    }

    /// Begins a span, asking the sampler where the trace begins with it.
    pub(super) fn open(
        &self,
        name: Cow<'static, str>,
        kind: SpanKind,
        when: Option<Timestamp>,
    ) -> Span {
        let Some(spot) = &self.0 else {
            return Span::default();
        };
        let mut builder = SpanBuilder::from_name(name).with_kind(kind);
        builder.start_time = when.map(system_time);
        let span = spot.tracer.build_with_context(builder, &spot.context);
        Span {
            place: Self(Some(Arc::new(Spot {
                tracer: spot.tracer.clone(),
                context: spot.context.with_span(span),
                baggage: spot.baggage.clone(),
            }))),
            is_own: true,
        }
    }

    /// Whether what happens here is part of a trace that is taken.
    pub(super) fn is_taken(&self) -> bool {
        self.0.as_deref().is_some_and(Spot::is_taken)
    }

    /// Says of the span at this place that its `key` is `value`.
    pub fn note(&self, key: &'static str, value: &str) {
        if self.is_taken() {
            self.attribute(key, cut(value, TEXT_BYTES).to_owned());
        }
    }

    /// As [`Self::note`], for a number.
    pub fn count(&self, key: &'static str, value: u64) {
        if self.is_taken() {
            self.attribute(key, i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    fn attribute(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(spot) = &self.0 {
            let span = spot.context.span();
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Says of the span at this place that it failed, and why.
    pub fn fail(&self, why: &str) {
        if let Some(spot) = &self.0
            && spot.is_taken()
        {
            spot.context
                .span()
                .set_status(Status::error(printable(why)));
        }
    }

    /// Puts the place into the headers of a request, for the program that serves it.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Some(spot) = &self.0 {
            let span = spot.context.span();
            let context: &SpanContext = span.span_context();
            if context.is_valid() {
                headers::write(context, spot.baggage.as_ref(), headers);
            }
        }
    }
}

impl Spot {
    fn is_taken(&self) -> bool {
        self.context.span().span_context().is_sampled()
    }
}

/// Something that goes on; it ends when this is dropped, or at a time that is said.
#[derive(Debug, Default)]
pub struct Span {
    place: Place,
    /// Whether the span is ours to end.
    is_own: bool,
}

impl Span {
    /// The place that it makes.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it is taken.
    pub fn is_taken(&self) -> bool {
        self.is_own && self.place.is_taken()
    }

    /// Says of it that its `key` is `value`.
    pub fn note(&self, key: &'static str, value: &str) {
        if self.is_own {
            self.place.note(key, value);
        }
    }

    /// As [`Self::note`], for a number.
    pub fn count(&self, key: &'static str, value: u64) {
        if self.is_own {
            self.place.count(key, value);
        }
    }

    /// Says that it failed, and why.
    pub fn fail(&self, why: &str) {
        if self.is_own {
            self.place.fail(why);
        }
    }

    /// It ended at `when`.
    pub fn end_at(mut self, when: Timestamp) {
        if let Some(spot) = self.place.0.as_ref().filter(|_| self.is_own) {
            spot.context.span().end_with_timestamp(system_time(when));
        }
        self.is_own = false;
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(spot) = self.place.0.as_ref().filter(|_| self.is_own) {
            spot.context.span().end();
        }
    }
}

fn system_time(when: Timestamp) -> SystemTime {
    let since = Duration::from_nanos(u64::try_from(when.0).unwrap_or(0));
    UNIX_EPOCH + since
}

/// What a tenant could have put into a message, spelled out and cut.
fn printable(why: &str) -> String {
    let mut shown = String::new();
    for character in cut(why, WHY_BYTES).chars() {
        match character {
            '\n' | '\t' => shown.push(character),
            control if control.is_control() => shown.extend(control.escape_default()),
            plain => shown.push(plain),
        }
    }
    shown
}
