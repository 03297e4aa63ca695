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
use crate::pods::fails;

pub(super) const CASES: &[Case] = &[
    Case::new("metrics.pulls_and_mirrors_and_calls_are_counted", |node| {
        Box::pin(counted(node))
    })
    .needs(&["docker-registry"]),
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
