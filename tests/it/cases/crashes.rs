//! podwright and containerd die, hang and come back; the node reboots.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{pod, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("crash.a_restart_finds_everything_as_it_is", |node| {
        Box::pin(restart(node))
    }),
    Case::new("crash.an_exit_meanwhile_is_reported", |node| {
        Box::pin(exit_meanwhile(node))
    }),
    Case::new("crash.containerd_comes_back", |node| {
        Box::pin(containerd_dies(node))
    }),
    Case::new(
        "crash.a_frozen_containerd_does_not_freeze_readers",
        |node| Box::pin(containerd_frozen(node)),
    ),
    Case::new("crash.twenty_pods_are_back_within_a_second", |node| {
        Box::pin(twenty_pods(node))
    })
    .within(240),
    Case::new("crash.a_reboot_leaves_facts_and_no_address", |node| {
        Box::pin(reboot(node))
    }),
];

async fn restart(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;
    let before = (node.pod_status(&pod).await?, node.status(&id).await?);
    let pid = node.ask(&id, "cut -d' ' -f22 /proc/1/stat").await?;

    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;

    let after = (node.pod_status(&pod).await?, node.status(&id).await?);
    ensure(before == after, || format!("{before:?}\n{after:?}"))?;
    let same = node.ask(&id, "cut -d' ' -f22 /proc/1/stat").await?;
    ensure(pid == same, || {
        String::from("another process is in the container")
    })?;
    node.stop(&id, 10).await?;
    let status = node.status(&id).await?;
    ensure(status.exit_code == 0, || format!("{status:?}"))
}

async fn exit_meanwhile(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let container = shell("c", "echo before; sleep 1; echo after; exit 9");
    let id = node.run(&pod, &config, &container).await?;
    let started = node.status(&id).await?.started_at;
    tokio::time::sleep(Duration::from_millis(400)).await;

    node.podwright.kill().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.podwright.start().await?;
    node.until_ready().await?;

    let status = node.status(&id).await?;
    let lived = Duration::from_nanos(u64::try_from(status.finished_at - started)?);
    ensure(
        status.state() == cri::ContainerState::ContainerExited
            && status.exit_code == 9
            && lived < Duration::from_millis(2_500),
        || format!("lived {lived:?}: {status:?}"),
    )?;
    // What was written while nobody read goes with the shim's end of the FIFO; what was read before stays.
    let lines = Node::lines(&config, &container)?;
    ensure(!lines.is_empty(), || String::from("the log is empty"))
}

async fn containerd_dies(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;

    node.containerd.kill().await?;
    let read = node.status(&id).await?;
    let began = Instant::now();
    let refused = node.run_pod(&crate::pods::pod(node, "late")).await;
    let took = began.elapsed();
    node.containerd.start().await?;
    node.until_ready().await?;

    ensure(
        read.state() == cri::ContainerState::ContainerRunning,
        || format!("{read:?}"),
    )?;
    ensure(refused.is_err() && took < Duration::from_secs(15), || {
        format!("after {took:?}: {refused:?}")
    })?;
    until_it_works(|| node.exec(&id, &["true"], 5)).await?;
    let late = node.run_pod(&crate::pods::pod(node, "late")).await?;
    node.remove_pod(&late).await?;
    node.stop(&id, 5).await.map_err(Into::into)
}

async fn containerd_frozen(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;

    node.containerd.signal(Signal::SIGSTOP).await?;
    let began = Instant::now();
    for _ in 0..20 {
        node.status(&id).await?;
        node.containers(cri::ContainerFilter::default()).await?;
    }
    let took = began.elapsed();
    tokio::time::sleep(Duration::from_secs(20)).await;
    node.containerd.signal(Signal::SIGCONT).await?;
    node.until_ready().await?;

    ensure(took < Duration::from_secs(1), || {
        format!("40 reads took {took:?}")
    })?;
    until_it_works(|| node.stop(&id, 5)).await
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

async fn twenty_pods(node: &Node) -> Outcome {
    let mut before = Vec::new();
    for number in 0..20 {
        let config = pod(node, &format!("p{number}"));
        let pod = node.run_pod(&config).await?;
        node.run(&pod, &config, &sleeper("c")).await?;
        before.push(pod);
    }
    let shims = node.processes("containerd-shim")?;

    node.podwright.kill().await?;
    let began = Instant::now();
    node.podwright.start().await?;
    node.until_ready().await?;
    let took = began.elapsed();

    let mut after: Vec<String> = node
        .pods(cri::PodSandboxFilter::default())
        .await?
        .into_iter()
        .filter(|p| p.state() == cri::PodSandboxState::SandboxReady)
        .map(|p| p.id)
        .collect();
    after.sort();
    before.sort();
    ensure(before == after, || format!("{before:?}\n{after:?}"))?;
    ensure(shims == node.processes("containerd-shim")?, || {
        String::from("the shims are not the same")
    })?;
    ensure(took < Duration::from_millis(1_500), || {
        format!("it took {took:?}")
    })
}

async fn reboot(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;
    let before = node.status(&id).await?;

    node.reboot().await?;

    let sandbox = node.pod_status(&pod).await?;
    let after = node.status(&id).await?;
    ensure(
        sandbox.state() == cri::PodSandboxState::SandboxNotready
            && sandbox.network.as_ref().is_none_or(|n| n.ip.is_empty()),
        || format!("{sandbox:?}"),
    )?;
    ensure(
        after.state() == cri::ContainerState::ContainerExited
            && after.exit_code == 255
            && after.reason == "Unknown"
            && after.created_at == before.created_at
            && after.started_at == before.started_at,
        || format!("{after:?}"),
    )?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !node.addresses().is_empty() {
        ensure(Instant::now() < deadline, || {
            format!("{:?} are still taken", node.addresses())
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut next = config.clone();
    next.metadata.get_or_insert_default().attempt = 1;
    let next = node.run_pod(&next).await?;
    node.remove_pod(&next).await.map_err(Into::into)
}
