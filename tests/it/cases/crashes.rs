//! podwright dies and comes back; the node reboots.

use std::time::{Duration, Instant};

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
    Case::new("crash.twenty_pods_go_on_through_restarts", |node| {
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

async fn twenty_pods(node: &Node) -> Outcome {
    let mut before = Vec::new();
    for number in 0..20 {
        let config = pod(node, &format!("p{number}"));
        let pod = node.run_pod(&config).await?;
        // A shell that forked would be two for the moment before its child becomes another program.
        node.run(&pod, &config, &shell("c", "exec sleep 600"))
            .await?;
        before.push(pod);
    }
    before.sort();
    node.until_processes("pause", 20).await?;
    node.until_processes("sleep", 20).await?;
    let processes = pod_processes(node)?;
    ensure(processes.iter().all(|(_, pids)| pids.len() == 20), || {
        format!("{processes:?}")
    })?;

    for _ in 0..3 {
        node.podwright.kill().await?;
        node.podwright.start().await?;
        node.until_ready().await?;

        let mut after: Vec<String> = node
            .pods(cri::PodSandboxFilter::default())
            .await?
            .into_iter()
            .filter(|p| p.state() == cri::PodSandboxState::SandboxReady)
            .map(|p| p.id)
            .collect();
        after.sort();
        ensure(before == after, || format!("{before:?}\n{after:?}"))?;
        let now = pod_processes(node)?;
        ensure(processes == now, || format!("{processes:?}\n{now:?}"))?;
    }
    Ok(())
}

/// Shims, pause processes and what runs in containers: whatever must not change when podwright does.
fn pod_processes(node: &Node) -> Outcome<Vec<(String, Vec<nix::unistd::Pid>)>> {
    let kinds = ["containerd-shim", "pause", "sleep"];
    kinds
        .into_iter()
        .map(|kind| Ok((kind.to_owned(), node.processes(kind)?)))
        .collect()
}

async fn reboot(node: &Node) -> Outcome {
    let mut config = pod(node, "p");
    config.metadata.get_or_insert_default().attempt = 2;
    let mut container = sleeper("c");
    container.metadata.get_or_insert_default().attempt = 3;
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &container).await?;
    let ended = node.run(&pod, &config, &shell("e", "exit 7")).await?;
    let idle = node.create(&pod, &config, &sleeper("idle")).await?;
    let second = node.run_pod(&crate::pods::pod(node, "q")).await?;
    let before = node.status(&id).await?;
    let ended_before = node.until_exited(&ended).await?;

    node.reboot().await?;

    // At once, whatever is still to be given back.
    let mut next = config.clone();
    next.metadata.get_or_insert_default().attempt = 3;
    let next = node.run_pod(&next).await?;
    let address = node.pod_ip(&next).await?;
    for pod in [&pod, &second] {
        let sandbox = node.pod_status(pod).await?;
        ensure(
            sandbox.state() == cri::PodSandboxState::SandboxNotready
                && sandbox.network.as_ref().is_none_or(|n| n.ip.is_empty()),
            || format!("{sandbox:?}"),
        )?;
    }
    let attempt = node.pod_status(&pod).await?.metadata.map(|m| m.attempt);
    ensure(attempt == Some(2), || format!("{attempt:?}"))?;
    let after = node.status(&id).await?;
    ensure(
        after.state() == cri::ContainerState::ContainerExited
            && after.exit_code == 255
            && after.reason == "Unknown"
            && after.metadata == before.metadata
            && after.created_at == before.created_at
            && after.started_at == before.started_at
            && after.finished_at >= after.started_at,
        || format!("{after:?}"),
    )?;
    let ended_after = node.status(&ended).await?;
    ensure(ended_before == ended_after, || {
        format!("{ended_before:?}\n{ended_after:?}")
    })?;
    let idle = node.status(&idle).await?;
    ensure(
        idle.state() == cri::ContainerState::ContainerCreated,
        || format!("{idle:?}"),
    )?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while node.addresses() != [address.clone()] {
        ensure(Instant::now() < deadline, || {
            format!("{:?} are still taken", node.addresses())
        })?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.remove_pod(&next).await.map_err(Into::into)
}
