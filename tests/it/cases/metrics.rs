//! The endpoint that Prometheus scrapes, over the loopback and over a unix socket.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use podwright::wire::cri;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;

use super::images::{pull, remove};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images::BUSYBOX;
use crate::node::{Node, layout, registry};
use crate::pods::{fails, pod, shell};

pub(super) const CASES: &[Case] = &[
    Case::new("metrics.pulls_and_mirrors_and_calls_are_counted", |node| {
        Box::pin(counted(node))
    })
    .needs(&["docker-registry"]),
    Case::new(
        "metrics.the_dashboard_asks_for_nothing_that_a_node_does_not_show",
        |node| Box::pin(dashboard(node)),
    ),
    Case::new("metrics.there_is_no_endpoint_unless_one_is_named", |node| {
        Box::pin(off(node))
    }),
];

const LOOPBACK: &str = "127.0.0.1:9464";
const SOCKET: &str = "/run/podwright-metrics.sock";
const DEAD: &str = "http://127.0.0.1:5009";
const REAL: &str = "http://127.0.0.1:5000";
const VERSIONS: &str = "rpc_duration_seconds_count{method=\"Version\",code=\"OK\"}";

async fn counted(node: &Node) -> Outcome {
    let registry = registry::start(node, "busybox", "library/busybox", "1").await?;
    registry::mirrors("mirrored.example", &[DEAD])?;
    listen_at(node, LOOPBACK).await?;
    remove(node, BUSYBOX).await?;

    let name = "mirrored.example/library/busybox:1";
    pull(node, name).await?;
    let absent = pull(node, "mirrored.example/library/absent:1").await;
    fails("pull of what is not there", absent, Code::NotFound)?;

    let page = Page::of(TcpStream::connect(LOOPBACK).await?, "/metrics").await?;
    page.has("image_pulls_ended_total{outcome=\"OK\"}", 1.0)?;
    page.has("image_pulls_ended_total{outcome=\"NotFound\"}", 1.0)?;
    page.has("image_pulls_in_flight", 0.0)?;
    page.exceeds("image_pulls_fetched_bytes_total", 1_000.0)?;
    page.has(
        &format!("registry_host_state{{host=\"{DEAD}\",state=\"closed\"}}"),
        0.0,
    )?;
    page.has(
        &format!("registry_host_answers_total{{host=\"{DEAD}\"}}"),
        0.0,
    )?;
    page.exceeds(
        &format!("registry_host_failures_total{{host=\"{DEAD}\"}}"),
        0.0,
    )?;
    page.exceeds(
        &format!("registry_host_skips_total{{host=\"{DEAD}\"}}"),
        0.0,
    )?;
    page.has(
        &format!("registry_host_state{{host=\"{REAL}\",state=\"closed\"}}"),
        1.0,
    )?;
    page.has(
        &format!("registry_host_failures_total{{host=\"{REAL}\"}}"),
        0.0,
    )?;
    page.exceeds(
        &format!("registry_host_received_bytes_total{{host=\"{REAL}\"}}"),
        1_000.0,
    )?;
    let pulls = "rpc_duration_seconds_count{method=\"PullImage\",code=";
    page.has(&format!("{pulls}\"OK\"}}"), 1.0)?;
    page.has(&format!("{pulls}\"NotFound\"}}"), 1.0)?;
    page.has("containerd_up", 1.0)?;
    page.has("task_panics_total", 0.0)?;
    asked_for(&page)?;
    let names_an_image = page.0.contains("busybox") || page.0.contains("absent");
    ensure(!names_an_image, || page.0.clone())?;

    listen_at(node, &format!("unix:{SOCKET}")).await?;
    let mode = fs::metadata(SOCKET)?.permissions().mode() & 0o777;
    ensure(mode == 0o600, || format!("mode {mode:o}"))?;
    let before = scrape().await?.value(VERSIONS).unwrap_or_default();
    for _ in 0..3 {
        let request = cri::VersionRequest::default();
        node.cri.runtime.clone().version(request).await?;
    }
    scrape().await?.has(VERSIONS, before + 3.0)?;
    pull(node, name).await?;
    scrape()
        .await?
        .has("image_pulls_ended_total{outcome=\"OK\"}", 1.0)?;

    node.podwright.stop().await?;
    ensure(!Path::new(SOCKET).exists(), || {
        String::from("the socket was left behind")
    })?;
    node.podwright.start().await?;
    node.until_ready().await?;
    remove(node, name).await?;
    registry.stop().await?;
    node.import("busybox").await
}

async fn off(node: &Node) -> Outcome {
    let refused = TcpStream::connect(LOOPBACK).await.is_err();
    ensure(refused && !Path::new(SOCKET).exists(), || {
        String::from("something answers although no address is configured")
    })?;
    listen_at(node, LOOPBACK).await?;
    let other = Page::of(TcpStream::connect(LOOPBACK).await?, "/").await;
    ensure(other.is_err(), || String::from("another path answers"))
}

/// For Grafana: what the README names.
const DASHBOARD: &str = include_str!("../../../deploy/grafana/podwright.json");

async fn dashboard(node: &Node) -> Outcome {
    listen_at(node, LOOPBACK).await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let container = shell("c", "echo one");
    let id = node.run(&pod, &config, &container).await?;
    node.until_exited(&id).await?;

    let page = Page::of(TcpStream::connect(LOOPBACK).await?, "/metrics").await?;
    asked_for(&page)?;
    page.has("log_records_total", 1.0)?;
    page.has("log_bytes_total", 4.0)?;
    page.exceeds("process_cpu_seconds_total", 0.0)?;
    page.exceeds("process_resident_bytes", 1e6)?;
    page.exceeds("process_descriptors", 3.0)?;

    // The check itself: a name, a type and a label that are not there.
    for wrong in [
        "podwright_log_lines_total",
        "rate(podwright_log_records)",
        "podwright_rpc_in_flight_total",
        "sum by (pod) (podwright_log_records_dropped_total)",
        "podwright_log_records_dropped_total{cause=\"rate\"}",
    ] {
        let found = page.answers(wrong);
        ensure(found.is_err(), || format!("{wrong} was let pass"))?;
    }
    Ok(())
}

/// Every metric and label in the dashboard's expressions is one that this page has.
fn asked_for(page: &Page) -> Outcome {
    let board: serde_json::Value = serde_json::from_str(DASHBOARD)?;
    let mut expressions = Vec::new();
    collect(&board, &mut expressions);
    ensure(expressions.len() > 40, || {
        format!("only {} expressions", expressions.len())
    })?;
    expressions
        .into_iter()
        .try_for_each(|expression| page.answers(expression))
}

/// The expressions of panels and variables.
fn collect<'v>(value: &'v serde_json::Value, out: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "definition" => out.push(text),
                    _ => collect(value, out),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
        _ => {}
    }
}

/// The labels that an expression groups by or chooses by, but those that Prometheus adds.
fn labels(expression: &str) -> Vec<&str> {
    let within = |open: &'static str, close: char| {
        expression
            .split(open)
            .skip(1)
            .filter_map(move |rest| rest.split_once(close))
            .flat_map(|(list, _)| list.split(','))
    };
    let chosen = within("{", '}').filter_map(|one| one.split(['=', '!', '~']).next());
    within("by (", ')')
        .chain(chosen)
        .map(str::trim)
        .filter(|label| !matches!(*label, "instance" | "le"))
        .collect()
}

async fn scrape() -> Outcome<Page> {
    Page::of(UnixStream::connect(SOCKET).await?, "/metrics").await
}

/// Has podwright start anew with its endpoint at `address`.
async fn listen_at(node: &Node, address: &str) -> Outcome {
    let settings = layout::podwright_config(&node.home);
    let text = fs::read_to_string(&settings)?;
    let rest = text.split("[metrics]").next().unwrap_or_default();
    fs::write(
        &settings,
        format!("{rest}[metrics]\naddress = \"{address}\"\n"),
    )?;
    node.podwright.stop().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    node.until_said("metrics can be scraped").await
}

/// What a scrape brought.
struct Page(String);

impl Page {
    async fn of(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Outcome<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let good = head.starts_with("HTTP/1.1 200 ")
            && head.contains("application/openmetrics-text")
            && body.ends_with("# EOF\n");
        ensure(good, || answer.clone())?;
        Ok(Self(body.to_owned()))
    }

    fn value(&self, name: &str) -> Option<f64> {
        let start = format!("podwright_{name} ");
        let mut lines = self.0.lines();
        lines.find_map(|line| line.strip_prefix(&start)?.parse().ok())
    }

    /// Whether the page has what a query in PromQL asks for.
    fn answers(&self, expression: &str) -> Outcome {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = expression.split(|c: char| !is_name(c));
        let names: Vec<_> = words
            .filter(|word| word.starts_with("podwright_"))
            .collect();
        ensure(!names.is_empty(), || format!("no metric: {expression}"))?;
        for name in &names {
            ensure(self.is_declared(name), || {
                format!("{name} is not there: {expression}")
            })?;
        }
        let samples: Vec<_> = self
            .0
            .lines()
            .filter(|line| names.iter().any(|name| line.starts_with(name)))
            .collect();
        for label in labels(expression) {
            let carried = format!("{label}=\"");
            let is_carried = samples.iter().any(|line| line.contains(&carried));
            ensure(is_carried || samples.is_empty(), || {
                format!("no sample has the label {label}: {expression}")
            })?;
        }
        Ok(())
    }

    /// Whether a metric has this name for Prometheus, which goes by its type.
    fn is_declared(&self, name: &str) -> bool {
        let is = |base: &str, kind: &str| {
            let declared = format!("# TYPE {base} {kind}");
            self.0.lines().any(|line| line == declared)
        };
        let histogram = ["_bucket", "_sum", "_count"].iter();
        is(name, "gauge")
            || name
                .strip_suffix("_total")
                .is_some_and(|base| is(base, "counter"))
            || histogram
                .filter_map(|end| name.strip_suffix(end))
                .any(|base| is(base, "histogram"))
    }

    fn has(&self, name: &str, wanted: f64) -> Outcome {
        ensure(self.value(name) == Some(wanted), || {
            format!("{name} is not {wanted}:\n{}", self.0)
        })
    }

    fn exceeds(&self, name: &str, least: f64) -> Outcome {
        ensure(self.value(name).is_some_and(|value| value > least), || {
            format!("{name} is not more than {least}:\n{}", self.0)
        })
    }
}
