//! Traces: what a collector of ours is sent of calls that carry a trace, and that none is missed where it is away.

mod collector;
mod tls;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use podwright::wire::cri;
use serde_json::Value;
use tokio::net::TcpListener;
use tonic::{Code, Request};

use super::images::{pull, remove};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images::BUSYBOX;
use crate::node::{Node, layout, registry};
use crate::pods::{fails, pod, sleeper};
use collector::{Collected, text};

pub(super) const CASES: &[Case] = &[
    Case::new("traces.a_pods_start_is_traced_below_its_caller", |node| {
        Box::pin(below_caller(node))
    }),
    Case::new("traces.go_over_grpc_and_are_sent_before_the_end", |node| {
        Box::pin(over_grpc(node))
    }),
    Case::new("traces.go_in_tls_to_whom_the_certificate_names", |node| {
        Box::pin(in_tls(node))
    }),
    Case::new(
        "traces.a_collector_that_is_away_or_silent_holds_nobody_up",
        |node| Box::pin(away(node)),
    ),
    Case::new("traces.a_pull_shows_its_layers", |node| {
        Box::pin(layers(node))
    })
    .needs(&["docker-registry"]),
    Case::new("traces.a_wrong_variable_is_named", |node| {
        Box::pin(wrong_variable(node))
    }),
];

const COLLECTOR: &str = "127.0.0.1:4318";
const URL: &str = "http://127.0.0.1:4318";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const COMPLAINT: &str = "traces do not reach their collector";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const RUNTIME: &str = "runtime.v1.RuntimeService";

/// `message` as kubelet sends it where it traces.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-01");
    if let Ok(parent) = parent.parse() {
        request.metadata_mut().insert("traceparent", parent);
    }
    request
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Has podwright start anew with `environment`.
async fn restart(node: &Node, environment: &[(&str, &str)]) -> Outcome {
    node.podwright.stop().await?;
    node.podwright.start_with(environment).await?;
    node.until_ready().await
}

/// The start of a pod with a container, each call below the caller's span.
async fn start_pod(node: &Node, config: &cri::PodSandboxConfig) -> Outcome<String> {
    let mut runtime = node.cri.runtime.clone();
    let run = traced(cri::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    });
    let pod = runtime.run_pod_sandbox(run).await?.into_inner();
    let create = traced(cri::CreateContainerRequest {
        pod_sandbox_id: pod.pod_sandbox_id.clone(),
        config: Some(sleeper("c")),
        sandbox_config: Some(config.clone()),
    });
    let made = runtime.create_container(create).await?.into_inner();
    let container_id = made.container_id;
    let start = traced(cri::StartContainerRequest { container_id });
    runtime.start_container(start).await?;
    Ok(pod.pod_sandbox_id)
}

async fn below_caller(node: &Node) -> Outcome {
    let collected = Collected::default();
    let listener = TcpListener::bind(COLLECTOR).await?;
    let collecting = collector::over_http(listener, collected.clone());
    let calling = async {
        restart(node, &[(ENDPOINT, URL)]).await?;
        node.pods(cri::PodSandboxFilter::default()).await?;
        let config = pod(node, "p");
        let id = start_pod(node, &config).await?;
        let list = traced(cri::ListContainersRequest::default());
        node.cri.runtime.clone().list_containers(list).await?;
        let last = format!("{RUNTIME}/ListContainers");
        let spans = collected.until(|span| span.name == last).await?;
        let told = format!("{:?}", collected.resource("service.name"));
        ensure(told == "Some(\"podwright\")", || told.clone())?;
        has_calls(&spans, &id)?;
        says_what_the_timeline_says(&spans, &timeline(node, &id).await?)?;
        has_calls_of_containerd(&spans)
    };
    tokio::select! {
        ended = collecting => ended?,
        called = calling => called?,
    }
    restart(node, &[]).await
}

/// One server span for each call that carried a trace, and none of another trace.
fn has_calls(spans: &[Span], sandbox: &str) -> Outcome {
    let strangers: Vec<_> = spans
        .iter()
        .filter(|it| hex(&it.trace_id) != TRACE)
        .collect();
    ensure(strangers.is_empty(), || format!("{strangers:?}"))?;
    let of_calls = spans.iter().filter(|it| it.kind() == SpanKind::Server);
    let of_calls: Vec<_> = of_calls.collect();
    let names: BTreeSet<_> = of_calls.iter().map(|span| span.name.clone()).collect();
    let methods = [
        "CreateContainer",
        "ListContainers",
        "RunPodSandbox",
        "StartContainer",
    ];
    let wanted = methods.map(|method| format!("{RUNTIME}/{method}"));
    ensure(
        names == BTreeSet::from(wanted) && of_calls.len() == methods.len(),
        || format!("{of_calls:?}"),
    )?;
    for span in of_calls {
        let good = hex(&span.parent_span_id) == CALLER
            && text(&span.attributes, "rpc.method").as_deref() == Some(&span.name)
            && text(&span.attributes, "rpc.response.status_code").as_deref() == Some("OK");
        let is_of_pod = span.name.ends_with("ListContainers")
            || text(&span.attributes, "sandbox.id").as_deref() == Some(sandbox);
        ensure(good && is_of_pod, || format!("{span:?}"))?;
    }
    Ok(())
}

async fn timeline(node: &Node, id: &str) -> Outcome<Vec<Value>> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: true,
    };
    let reply = node.cri.runtime.clone().pod_sandbox_status(request).await?;
    let info = reply.into_inner().info;
    let info: Value = serde_json::from_str(info.get("info").map_or("", String::as_str))?;
    let all = info.pointer("/timeline").and_then(Value::as_array);
    Ok(all.ok_or("no timeline")?.clone())
}

/// Each operation of the timeline is a span with the same beginning, and each of its steps one below, with the same times.
fn says_what_the_timeline_says(spans: &[Span], timeline: &[Value]) -> Outcome {
    let kinds: BTreeSet<_> = timeline
        .iter()
        .filter_map(|it| it["operation"].as_str())
        .collect();
    let expected = BTreeSet::from([
        "RunPodSandbox",
        "CNI ADD",
        "CreateContainer",
        "StartContainer",
    ]);
    ensure(kinds.is_superset(&expected), || format!("{timeline:?}"))?;
    for operation in timeline {
        let began = operation["startedAt"].as_u64();
        let name = operation["operation"].as_str();
        let mut found = spans.iter();
        let span = found
            .find(|it| Some(it.name.as_str()) == name && Some(it.start_time_unix_nano) == began)
            .ok_or_else(|| format!("no span for {operation}"))?;
        let above = spans.iter().find(|it| it.span_id == span.parent_span_id);
        let above = above.map(|it| it.name.as_str()).unwrap_or_default();
        let belongs = match name {
            Some("CNI ADD") => above == "network",
            Some(name) => above == format!("{RUNTIME}/{name}"),
            None => false,
        };
        ensure(belongs, || format!("{operation} is below {above:?}"))?;
        let micros = |from: u64, to: u64| to.saturating_sub(from) / 1_000;
        let mut below: Vec<_> = spans
            .iter()
            .filter(|it| it.parent_span_id == span.span_id && it.kind() == SpanKind::Internal)
            .filter(|it| it.name != "CNI ADD" && it.name != "NRI call")
            .map(|it| {
                let at = micros(span.start_time_unix_nano, it.start_time_unix_nano);
                let took = micros(it.start_time_unix_nano, it.end_time_unix_nano);
                (at, it.name.clone(), took)
            })
            .collect();
        below.sort();
        let steps = operation["steps"].as_array().ok_or("no steps")?.iter();
        let mut told: Vec<_> = steps
            .map(|step| {
                let number = |key: &str| step[key].as_u64().unwrap_or(u64::MAX);
                let name = step["step"].as_str().unwrap_or_default().to_owned();
                (number("atUs"), name, number("tookUs"))
            })
            .collect();
        told.sort();
        ensure(below == told, || format!("{operation}: {below:?}"))?;
    }
    Ok(())
}

/// The making of a task is a call of containerd's below the step that waits for it.
fn has_calls_of_containerd(spans: &[Span]) -> Outcome {
    let made = spans.iter().filter(|it| it.kind() == SpanKind::Client);
    let made = made.filter(|it| it.name == "containerd.services.tasks.v1.Tasks/Create");
    let above: Vec<_> = made
        .map(|it| {
            spans
                .iter()
                .find(|above| above.span_id == it.parent_span_id)
        })
        .map(|above| above.map(|it| it.name.as_str()))
        .collect();
    ensure(above == [Some("shim and create"); 2], || {
        format!("{above:?}")
    })
}

async fn over_grpc(node: &Node) -> Outcome {
    let collected = Collected::default();
    let listener = TcpListener::bind(COLLECTOR).await?;
    let collecting = collector::over_grpc(listener, collected.clone());
    let settings = layout::podwright_config(&node.home);
    let before = fs::read(&settings)?;
    let calling = async {
        let tracing = format!("[tracing]\nendpoint = {URL:?}\nprotocol = \"grpc\"");
        node.configure(&tracing).await?;
        restart(node, &[("OTEL_SERVICE_NAME", "node-runtime")]).await?;
        let nothing = traced(cri::RunPodSandboxRequest::default());
        let refused = node.cri.runtime.clone().run_pod_sandbox(nothing).await;
        let why = fails(
            "a pod without a configuration",
            refused,
            Code::InvalidArgument,
        )?;
        node.podwright.stop().await?;
        let spans = collected.spans();
        let [span] = spans.as_slice() else {
            return Err(format!("{spans:?}").into());
        };
        let status = span.status.clone().unwrap_or_default();
        let code = text(&span.attributes, "rpc.response.status_code");
        ensure(
            status.code() == StatusCode::Error
                && status.message == why
                && code.as_deref() == Some("INVALID_ARGUMENT"),
            || format!("{span:?}"),
        )?;
        let name = collected.resource("service.name");
        ensure(name.as_deref() == Some("node-runtime"), || {
            format!("{name:?}")
        })
    };
    tokio::select! {
        ended = collecting => ended?,
        called = calling => called?,
    }
    fs::write(&settings, before)?;
    node.podwright.start().await?;
    node.until_ready().await
}

async fn in_tls(node: &Node) -> Outcome {
    in_tls_over(node, "http/protobuf", "http/1.1").await?;
    in_tls_over(node, "grpc", "h2").await?;
    restart(node, &[]).await
}

/// A collector whose certificate nobody vouches for is sent nothing, and all once the operator does.
async fn in_tls_over(node: &Node, protocol: &str, below: &str) -> Outcome {
    const BEHIND: &str = "127.0.0.1:4319";
    let certificate = node.home.join("collector.crt");
    let acceptor = tls::acceptor(&certificate, below)?;
    let outside = tls::in_front_of(BEHIND, TcpListener::bind(COLLECTOR).await?, acceptor);
    let collected = Collected::default();
    let (listener, kept) = (TcpListener::bind(BEHIND).await?, collected.clone());
    let inside = async {
        match protocol {
            "grpc" => collector::over_grpc(listener, kept).await,
            _ => collector::over_http(listener, kept).await,
        }
    };
    let certificate = certificate.display().to_string();
    let told = [
        (ENDPOINT, "https://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &certificate),
    ];
    let [endpoint, spoken, _] = told;
    let calling = async {
        restart(node, &[endpoint, spoken]).await?;
        let before = node.podwright.log().matches(COMPLAINT).count();
        let list = || traced(cri::ListContainersRequest::default());
        node.cri.runtime.clone().list_containers(list()).await?;
        let mut tries = 0..100;
        while node.podwright.log().matches(COMPLAINT).count() == before {
            tries.next().ok_or("nobody complains of the certificate")?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        ensure(collected.spans().is_empty(), || {
            format!("{:?}", collected.spans())
        })?;
        restart(node, &told).await?;
        node.cri.runtime.clone().list_containers(list()).await?;
        let last = format!("{RUNTIME}/ListContainers");
        collected.until(|span| span.name == last).await.map(drop)
    };
    tokio::select! {
        ended = outside => ended,
        ended = inside => ended,
        called = calling => called.map_err(|e| format!("{protocol}: {e}").into()),
    }
}

async fn away(node: &Node) -> Outcome {
    restart(node, &[(ENDPOINT, URL)]).await?;
    start_pod(node, &pod(node, "away")).await?;
    node.until_said(COMPLAINT).await?;
    start_pod(node, &pod(node, "still-away")).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let complaints = node.podwright.log();
    let complaints = complaints.matches(COMPLAINT).count();
    ensure(complaints == 1, || {
        format!("{complaints} complaints within a minute")
    })?;

    // Takes connections, as far as the kernel does so by itself, and says nothing.
    let silent = TcpListener::bind(COLLECTOR).await?;
    let id = start_pod(node, &pod(node, "silent")).await?;
    node.stop_pod(&id).await?;
    node.podwright.stop().await?;
    drop(silent);
    node.podwright.start().await?;
    node.until_ready().await
}

async fn layers(node: &Node) -> Outcome {
    let registry = registry::start(node, "busybox", "library/busybox", "1").await?;
    registry::mirrors("mirrored.example", &["http://127.0.0.1:5000"])?;
    let name = "mirrored.example/library/busybox:1";
    let collected = Collected::default();
    let listener = TcpListener::bind(COLLECTOR).await?;
    let collecting = collector::over_http(listener, collected.clone());
    let calling = async {
        restart(node, &[(ENDPOINT, URL)]).await?;
        remove(node, BUSYBOX).await?;
        pull(node, name).await?;
        let call = "runtime.v1.ImageService/PullImage";
        let spans = collected.until(|span| span.name == call).await?;
        let named = |name: &'static str| spans.iter().filter(move |it| it.name == name);
        let calls: Vec<_> = named(call).collect();
        let is_root = |it: &&Span| {
            it.parent_span_id.is_empty()
                && text(&it.attributes, "image.ref").as_deref() == Some(name)
        };
        ensure(calls.len() == 1 && calls.iter().all(is_root), || {
            format!("{calls:?}")
        })?;
        for part in ["fetch layer", "unpack layer"] {
            let parts: Vec<_> = named(part).collect();
            let is_below = |it: &&Span| {
                let digest = text(&it.attributes, "digest").unwrap_or_default();
                let mut steps = named("layers");
                digest.starts_with("sha256:") && steps.any(|step| step.span_id == it.parent_span_id)
            };
            ensure(!parts.is_empty() && parts.iter().all(is_below), || {
                format!("{part}: {parts:?}")
            })?;
        }
        Outcome::Ok(())
    };
    tokio::select! {
        ended = collecting => ended?,
        called = calling => called?,
    }
    restart(node, &[]).await?;
    remove(node, name).await?;
    registry.stop().await?;
    node.import("busybox").await
}

async fn wrong_variable(node: &Node) -> Outcome {
    node.podwright.stop().await?;
    let environment = [(ENDPOINT, URL), ("OTEL_TRACES_SAMPLER", "dice")];
    let started = node.podwright.start_with(&environment).await;
    let complaint = "OTEL_TRACES_SAMPLER: \"dice\": want always_on";
    ensure(
        started.is_err() && node.podwright.log().contains(complaint),
        || node.podwright.log(),
    )?;
    node.podwright.start().await?;
    node.until_ready().await
}
