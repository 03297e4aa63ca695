//! A trace from the headers of a call to the headers of the calls that it leads to.

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use opentelemetry::trace::{SpanKind, Status as SpanStatus, TraceId};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SpanData, SpanProcessor};
use std::sync::{Arc, Mutex};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Response;

use super::*;
use crate::model::Timestamp;

const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const METHOD: &str = "/runtime.v1.RuntimeService/RunPodSandbox";
const POLL: &str = "/runtime.v1.RuntimeService/ListContainers";

/// Keeps what ended.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Kept {
    fn tracer(&self) -> SdkTracer {
        let provider = SdkTracerProvider::builder()
            .with_sampler(CallSampler(Sampler::ParentBased(Box::new(
                Sampler::AlwaysOn,
            ))))
            .with_span_processor(self.clone());
        provider.build().tracer("test")
    }

    fn served(&self, path: &str, headers: &HeaderMap) -> Rpc {
        Rpc::served(&Place::below_caller(self.tracer(), headers), path)
    }

    fn all(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }

    fn one(&self) -> SpanData {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }
}

fn traced() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", PARENT.parse().unwrap());
    headers.insert("baggage", "tenant=x".parse().unwrap());
    headers
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let mut all = span.attributes.iter();
    let found = all.find(|it| it.key.as_str() == key)?;
    Some(found.value.to_string())
}

#[tokio::test]
async fn spans_hang_together_from_the_caller_to_what_we_call() {
    let kept = Kept::default();
    let call = kept.served(METHOD, &traced());
    let sent = call
        .place()
        .hold(async {
            let step = Place::here().begin_at("network", Some(Timestamp(5)));
            let sent = step
                .place()
                .clone()
                .hold(async {
                    let made =
                        Rpc::made(&Place::here(), "/containerd.services.tasks.v1.Tasks/Create");
                    let mut headers = HeaderMap::new();
                    made.place().write(&mut headers);
                    made.replied(Status::ok("").into_http());
                    headers
                })
                .await;
            step.end_at(Timestamp(9));
            sent
        })
        .await;
    call.replied(Status::ok("").into_http());

    let all = kept.all();
    let [made, step, served] = all.as_slice() else {
        panic!("{all:?}")
    };
    assert!(
        all.iter()
            .all(|span| span.span_context.trace_id() == TraceId::from(TRACE))
    );
    assert_eq!(served.name, "runtime.v1.RuntimeService/RunPodSandbox");
    assert_eq!(served.span_kind, SpanKind::Server);
    assert_eq!(
        format!("{:016x}", served.parent_span_id),
        "00f067aa0ba902b7"
    );
    assert_eq!(step.parent_span_id, served.span_context.span_id());
    assert_eq!(step.name, "network");
    assert_eq!(
        step.end_time.duration_since(step.start_time).unwrap(),
        Duration::from_nanos(4)
    );
    assert_eq!(made.parent_span_id, step.span_context.span_id());
    assert_eq!(made.span_kind, SpanKind::Client);
    let parent = format!("00-{TRACE:032x}-{}-01", made.span_context.span_id());
    assert_eq!(sent["traceparent"], parent.as_str());
    assert_eq!(sent["baggage"], "tenant=x");
}

#[tokio::test]
async fn a_call_that_is_not_traced_makes_no_spans_and_says_so_further_on() {
    let kept = Kept::default();
    let call = kept.served(POLL, &HeaderMap::new());
    let sent = call
        .place()
        .hold(async {
            drop(Place::here().begin("step"));
            let made = Rpc::made(&Place::here(), METHOD);
            let mut headers = HeaderMap::new();
            made.place().write(&mut headers);
            headers
        })
        .await;
    drop(call);

    assert!(kept.all().is_empty());
    assert!(sent["traceparent"].to_str().unwrap().ends_with("-00"));
}

#[tokio::test]
async fn where_nobody_traces_there_is_no_place() {
    let here = Place::here();
    let span = here.begin("step");
    span.note("key", "value");
    let mut headers = HeaderMap::new();
    span.place().write(&mut headers);

    assert!(!here.is_somewhere() && headers.is_empty());
}

#[test]
fn a_failure_has_its_code_and_words_without_control_characters() {
    let kept = Kept::default();
    let call = kept.served(METHOD, &traced());
    let failed = Status::internal(format!("no \u{1b}[2J{}", "x".repeat(9_999)));

    call.replied(failed.into_http());

    let span = kept.one();
    assert_eq!(
        attribute(&span, "rpc.response.status_code").as_deref(),
        Some("INTERNAL")
    );
    assert_eq!(
        attribute(&span, "rpc.grpc.status_code").as_deref(),
        Some("13")
    );
    let SpanStatus::Error { description } = &span.status else {
        panic!("{span:?}")
    };
    assert!(description.starts_with("no \\u{1b}[2Jxxx"), "{description}");
    assert!(description.len() < 1_100);
}

#[test]
fn a_thing_that_is_not_there_is_no_failure_and_a_dropped_call_was_left() {
    let kept = Kept::default();
    let reply = Status::not_found("no such pod").into_http();
    kept.served(METHOD, &traced()).replied(reply);
    drop(kept.served(METHOD, &traced()));

    let codes: Vec<_> = kept
        .all()
        .iter()
        .map(|span| {
            (
                attribute(span, "rpc.response.status_code"),
                span.status.clone(),
            )
        })
        .collect();
    let code = |name: &str| (Some(name.to_owned()), SpanStatus::Unset);
    assert_eq!(codes, [code("NOT_FOUND"), code("CANCELLED")]);
}

#[tokio::test]
async fn a_reply_that_streams_ends_with_its_trailers() {
    use http_body_util::BodyExt as _;

    let kept = Kept::default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "8".parse().unwrap());
    let frames = [
        Frame::data(Bytes::from_static(b"message")),
        Frame::trailers(trailers),
    ];
    let frames = futures::stream::iter(frames.map(Ok::<_, Status>));
    let reply = Response::new(Body::new(StreamBody::new(frames)));

    let reply = kept.served(METHOD, &traced()).replied(reply);
    assert!(kept.all().is_empty());
    let body = reply.into_body().collect().await.unwrap();

    assert_eq!(body.to_bytes(), "message");
    assert_eq!(
        attribute(&kept.one(), "rpc.response.status_code").as_deref(),
        Some("RESOURCE_EXHAUSTED")
    );
}

#[test]
fn a_name_that_a_client_made_up_is_not_repeated() {
    let kept = Kept::default();
    drop(kept.served(&format!("/runtime.v1.{}", "x".repeat(500)), &traced()));

    assert_eq!(kept.one().name, "_OTHER");
}

#[tokio::test]
async fn a_collector_that_is_not_there_keeps_nobody_from_starting_or_ending() {
    drop(rustls::crypto::ring::default_provider().install_default());
    for protocol in ["grpc", "http/protobuf"] {
        let settings = Settings::from_variables(|name| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://127.0.0.1:9".into()),
            "OTEL_EXPORTER_OTLP_PROTOCOL" => Some(protocol.into()),
            _ => None,
        });
        let settings = settings.unwrap().unwrap();

        let traces = Traces::start(settings, "node").await.unwrap();
        drop(traces.serve(METHOD, &HeaderMap::new()));
        traces.flush(Duration::from_millis(1)).await;
    }
}
