//! What people see of operations: what runs and what it waits for, and where the time of a pod's start went.

use std::fs;
use std::time::Duration;

use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{pod, shell, sleeper};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(super) const CASES: &[Case] = &[
    Case::new("operations.a_start_can_be_looked_at_afterwards", |node| {
        Box::pin(timeline(node))
    }),
    Case::new("operations.what_runs_says_what_it_waits_for", |node| {
        Box::pin(waits(node))
    }),
];

/// SPDY's PING of a client.
const PING: &[u8] = &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
/// What a start consists of, in the order in which it begins.
const PARTS: &[&str] = &[
    "RunPodSandbox",
    "netns",
    "network",
    "shim and create",
    "runtime start",
    "CNI ADD bridge",
    "CreateContainer",
    "snapshot",
    "StartContainer",
];

async fn timeline(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let id = node.run_pod(&config).await?;
    node.run(&id, &config, &sleeper("c")).await?;

    let bars = node.cli(&["timeline", "it/p"]).await?;
    for part in PARTS {
        ensure(bars.contains(part), || format!("no {part}:\n{bars}"))?;
    }
    let picture = node.home.join("start.svg");
    let file = picture.to_string_lossy();
    let start = id.get(..12).unwrap_or_default();
    node.cli(&["timeline", start, "--svg", &file]).await?;
    let drawn = fs::read_to_string(&picture)?;
    ensure(
        drawn.starts_with("<svg") && drawn.contains("RunPodSandbox"),
        || drawn,
    )?;

    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.clone(),
        verbose: true,
    };
    let reply = node.cri.runtime.clone().pod_sandbox_status(request).await?;
    let info = reply.into_inner().info.remove("info").unwrap_or_default();
    let info: serde_json::Value = serde_json::from_str(&info)?;
    let kinds = info.pointer("/timeline").and_then(|all| all.as_array());
    let kinds: Vec<_> = kinds
        .into_iter()
        .flatten()
        .filter_map(|part| part.get("operation")?.as_str())
        .collect();
    ensure(
        kinds.starts_with(&["RunPodSandbox"])
            && kinds.ends_with(&["CreateContainer", "StartContainer"]),
        || format!("{kinds:?}"),
    )?;
    node.remove_pod(&id).await?;
    let gone = node.cli(&["timeline", start]).await?;
    ensure(gone.contains("RunPodSandbox"), || gone)
}

async fn waits(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let id = node.run_pod(&config).await?;
    let deaf = shell("deaf", "trap '' TERM; while :; do sleep 0.1; done");
    let deaf = node.run(&id, &config, &deaf).await?;
    let idle = node.run(&id, &config, &sleeper("idle")).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let mut client = attach(node, &idle).await?;
    client.write_all(PING).await?;
    let look = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        node.cli(&["ops"]).await
    };
    let (stopped, shown) = tokio::join!(node.stop(&deaf, 3), look);
    let shown = shown?;
    stopped?;
    drop(client);

    let line = |kind: &str| shown.lines().find(|line| line.contains(kind)).unwrap_or("");
    let stop = line("StopContainer");
    ensure(
        stop.contains("deaf") && stop.contains("grace") && stop.contains("process "),
        || shown.clone(),
    )?;
    let open = line("Attach");
    let short = idle.get(..12).unwrap_or_default();
    // The ping, and its answer.
    ensure(
        open.contains(short) && open.contains("open") && open.contains(" 12 B  12 B"),
        || shown.clone(),
    )
}

/// A client of an attach, as far as the switch of protocols.
async fn attach(node: &Node, id: &str) -> Outcome<TcpStream> {
    let request = cri::AttachRequest {
        container_id: id.to_owned(),
        stdout: true,
        ..Default::default()
    };
    let reply = node.cri.runtime.clone().attach(request).await?;
    let url = reply.into_inner().url;
    let rest = url.strip_prefix("http://").ok_or("no http URL")?;
    let (host, path) = rest.split_once('/').ok_or("no path")?;
    let mut stream = TcpStream::connect(host).await?;
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure(answer.starts_with("HTTP/1.1 101"), || {
        format!("{length} bytes: {answer}")
    })?;
    Ok(stream)
}
