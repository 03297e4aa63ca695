//! The headers that carry a trace from one program to the next: W3C Trace Context and Baggage.
//!
//! They come from others: what is malformed or longer than it may be counts as not sent, and nothing fails over it.

use std::str::FromStr as _;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tonic::codegen::http::{HeaderMap, HeaderValue};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";
/// Longest `traceparent`; later versions may append to its 55 characters.
const PARENT_BYTES: usize = 256;
/// Longest `tracestate`, as much as everybody must pass on (W3C Trace Context, 3.3.1.5).
const STATE_BYTES: usize = 512;
/// Longest `baggage` (W3C Baggage, 3.3.2).
const BAGGAGE_BYTES: usize = 8_192;

/// Where the caller stands in its trace, if it says so.
pub(super) fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let (trace, span, flags) = parsed(&joined(headers, PARENT, PARENT_BYTES)?)?;
    let state = joined(headers, STATE, STATE_BYTES)
        .and_then(|state| TraceState::from_str(&state).ok())
        .unwrap_or_default();
    let context = SpanContext::new(trace, span, flags, true, state);
    context.is_valid().then_some(context)
}

/// What the caller wants passed on, as it wrote it.
pub(super) fn baggage(headers: &HeaderMap) -> Option<HeaderValue> {
    HeaderValue::try_from(joined(headers, BAGGAGE, BAGGAGE_BYTES)?).ok()
}

/// Puts `context` and `baggage` where the next program looks for them.
pub(super) fn write(context: &SpanContext, baggage: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let parent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags() & TraceFlags::SAMPLED
    );
    let mut put = |name, value: Option<HeaderValue>| {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    };
    put(PARENT, parent.try_into().ok());
    let state = context.trace_state().header();
    put(
        STATE,
        state
            .try_into()
            .ok()
            .filter(|it: &HeaderValue| !it.is_empty()),
    );
    put(BAGGAGE, baggage.cloned());
}

/// The header's values as one; `None` where it is missing, too long or no text.
fn joined(headers: &HeaderMap, name: &str, limit: usize) -> Option<String> {
    let mut all = String::new();
    for value in headers.get_all(name) {
        let value = value.to_str().ok()?;
        if all.len().saturating_add(value.len()) > limit {
            return None;
        }
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(value);
    }
    (!all.is_empty()).then_some(all)
}

/// `version-trace-span-flags` (W3C Trace Context, 3.2.2). Version 00 has these four; a later one may have more.
fn parsed(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.trim().split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let span = hex(parts.next()?, 16)?;
    let flags = hex(parts.next()?, 2)?;
    if version == 0xff || (version == 0 && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::try_from(flags).ok()?) & TraceFlags::SAMPLED;
    Some((
        TraceId::from(trace),
        SpanId::from(u64::try_from(span).ok()?),
        flags,
    ))
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.bytes().all(is_digit) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_comes_in_goes_out() {
        let came = headers(&[
            (PARENT, GOOD),
            (STATE, "a=1"),
            (STATE, "b=2"),
            (BAGGAGE, "user=x;p=1"),
            (BAGGAGE, "tenant=y"),
        ]);

        let context = parent(&came).unwrap();
        let mut sent = HeaderMap::new();
        write(&context, baggage(&came).as_ref(), &mut sent);

        assert!(context.is_remote() && context.is_sampled());
        assert_eq!(sent[PARENT], GOOD);
        assert_eq!(sent[STATE], "a=1,b=2");
        assert_eq!(sent[BAGGAGE], "user=x;p=1,tenant=y");
    }

    #[rstest]
    #[case::not_traced(&GOOD.replace("-01", "-00"), Some(false))]
    #[case::unknown_flags(&GOOD.replace("-01", "-ff"), Some(true))]
    #[case::a_later_version(&format!("cc{}-more", &GOOD[2..]), Some(true))]
    #[case::more_than_version_00_has(&format!("{GOOD}-more"), None)]
    #[case::version_ff(&format!("ff{}", &GOOD[2..]), None)]
    #[case::upper_case(&GOOD.to_uppercase(), None)]
    #[case::a_sign(&GOOD.replace("00f067", "+0f067"), None)]
    #[case::no_trace(&format!("00-{:032}-00f067aa0ba902b7-01", 0), None)]
    #[case::no_span(&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016}-01", 0), None)]
    #[case::short("00-1-2-01", None)]
    #[case::empty("", None)]
    #[case::endless(&format!("01{}-{}", &GOOD[2..], "x".repeat(PARENT_BYTES)), None)]
    fn a_parent_is_taken_only_where_it_is_whole(#[case] text: &str, #[case] taken: Option<bool>) {
        let parent = parent(&headers(&[(PARENT, text)]));

        assert_eq!(parent.map(|it| it.is_sampled()), taken);
    }

    #[test]
    fn two_parents_are_none() {
        assert_eq!(parent(&headers(&[(PARENT, GOOD), (PARENT, GOOD)])), None);
    }

    #[test]
    fn what_is_too_long_is_left_out_and_the_parent_stays() {
        let long = "x".repeat(BAGGAGE_BYTES + 1);
        let came = headers(&[(PARENT, GOOD), (STATE, &long), (BAGGAGE, &long)]);

        let context = parent(&came).unwrap();
        let mut sent = HeaderMap::new();
        write(&context, baggage(&came).as_ref(), &mut sent);

        assert_eq!(sent.len(), 1);
        assert_eq!(sent[PARENT], GOOD);
    }
}
