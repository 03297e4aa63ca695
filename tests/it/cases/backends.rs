//! containerd dies, hangs and comes back, perhaps as another version: readers notice nothing, changes are refused at once.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Daemon, Node, layout};
use crate::pinned::containerd_folder;
use crate::pods::{fails, pod, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("backend.a_killed_containerd_comes_back", |node| {
        Box::pin(killed(node))
    }),
    Case::new("backend.a_frozen_containerd_freezes_nobody", |node| {
        Box::pin(frozen(node))
    })
    .within(240),
    Case::new("backend.another_version_takes_over", |node| {
        Box::pin(replaced(node))
    })
    .unless(|| containerd_folder().err().map(|e| e.to_string())),
];

/// What a node without its containerd does: it reads, and refuses changes before it has done any part of them.
async fn away(node: &Node, running: &str) -> Outcome {
    let began = Instant::now();
    for _ in 0..20 {
        let read = node.status(running).await?;
        ensure(
            read.state() == cri::ContainerState::ContainerRunning,
            || format!("{read:?}"),
        )?;
        node.containers(cri::ContainerFilter::default()).await?;
        node.pods(cri::PodSandboxFilter::default()).await?;
    }
    let reads = began.elapsed();
    let began = Instant::now();
    let late = node.run_pod(&pod(node, "late")).await;
    fails("a new pod", late, Code::Unavailable)?;
    let pull = super::images::pull(node, "podwright.local/none:1").await;
    fails("a pull", pull, Code::Unavailable)?;
    fails(
        "an exec",
        node.exec(running, &["true"], 5).await,
        Code::Unavailable,
    )?;
    let changes = began.elapsed();
    let second = Duration::from_secs(1);
    ensure(reads < second && changes < second, || {
        format!("60 reads took {reads:?}, 3 refusals {changes:?}")
    })
}

/// What it does once containerd is there again.
async fn back(node: &Node, running: &str) -> Outcome {
    node.until_ready().await?;
    until_it_works(|| node.exec(running, &["true"], 5)).await?;
    let late = node.run_pod(&pod(node, "late")).await?;
    node.remove_pod(&late).await?;
    node.stop(running, 5).await?;
    let status = node.status(running).await?;
    ensure(status.exit_code == 0, || format!("{status:?}"))
}

async fn killed(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;

    node.containerd.kill().await?;
    // The first call that meets the broken connection is how it is known.
    until_known(node, &id).await?;
    away(node, &id).await?;
    node.containerd.start().await?;

    back(node, &id).await
}

async fn frozen(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;

    node.containerd.signal(Signal::SIGSTOP).await?;
    let began = Instant::now();
    until_known(node, &id).await?;
    away(node, &id).await?;
    let soon = node.runtime_condition().await?;
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(began.elapsed())).await;
    away(node, &id).await?;
    let late = node.runtime_condition().await?;
    node.containerd.signal(Signal::SIGCONT).await?;

    ensure(!soon.contains("ContainerdUnavailable"), || {
        format!("a short absence must not show: {soon}")
    })?;
    ensure(late.contains("ContainerdUnavailable"), || late)?;
    back(node, &id).await
}

/// Waits until it is known that containerd is away: two questions of the probe must go unanswered.
async fn until_known(node: &Node, running: &str) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let asked =
            tokio::time::timeout(Duration::from_millis(500), node.exec(running, &["true"], 5));
        match asked.await {
            Ok(Err(status)) if status.code() == Code::Unavailable => return Ok(()),
            other => ensure(Instant::now() < deadline, || {
                format!("not noticed in 10 s: {other:?}")
            })?,
        }
    }
}

async fn replaced(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let first = node.run_pod(&config).await?;
    let id = node.run(&first, &config, &sleeper("c")).await?;
    let folder = containerd_folder()?;
    let newer = Daemon::new(&folder.join("containerd").to_string_lossy(), &node.home)
        .args(["--config".into(), node.home.join("containerd.toml")])
        .ready_when_answering(layout::CONTAINERD_SOCKET);

    node.containerd.stop().await?;
    // Its own shim must be found before the distribution's.
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    newer.start_with(&[("PATH", &path)]).await?;
    let outcome = with_newer(node, &id).await;
    newer.stop().await?;
    node.containerd.start().await?;
    node.until_ready().await?;
    outcome
}

async fn with_newer(node: &Node, id: &str) -> Outcome {
    back(node, id).await?;
    let config = node.home.join("podwright.toml");
    let text = node
        .cli(&["doctor", "--config", &config.to_string_lossy()])
        .await?;
    ensure(text.contains("2.3.4 answers"), || text)?;
    super::super::node::leaks::remove_pods(node).await
}

/// Repeats a call that may find containerd away for as long as it takes to notice that it is back.
async fn until_it_works<T, F>(call: impl Fn() -> F) -> Outcome
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match call().await {
            Ok(_) => return Ok(()),
            Err(e) if e.code() == tonic::Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}
