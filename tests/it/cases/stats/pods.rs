//! Pods.

use std::collections::BTreeMap;
use std::time::Duration;

use podwright::wire::cri;
use tonic::Code;

use super::STALE;
use super::files::between;
use crate::case::Outcome;
use crate::ensure;
use crate::node::Node;
use crate::pods::{fails, namespaces, pod, shell, sleeper};

pub(super) async fn usage(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let id = node.run_pod(&config).await?;
    let first = node.pod_stats(&id).await?.linux.unwrap_or_default();
    ensure(rate(&first).is_none_or(|rate| rate > 0), || {
        format!("a rate of nothing: {first:?}")
    })?;
    let busy = shell("c", "while :; do :; done");
    let container = node.run(&id, &config, &busy).await?;
    let ping = "ping -c 3 -i 0.2 -s 1000 10.77.0.1 >/dev/null 2>&1; true";
    node.ask(&container, ping).await?;
    tokio::time::sleep(STALE).await;

    let told = node.pod_stats(&id).await?;
    let linux = told.linux.unwrap_or_default();
    let carried = sent(&node.ask(&container, "cat /proc/net/dev").await?)?;
    let network = linux.network.clone().unwrap_or_default();
    let eth0 = network.default_interface.unwrap_or_default();
    ensure(eth0.name == "eth0" && network.interfaces.len() == 1, || {
        format!("{:?}", linux.network)
    })?;
    between("sent", eth0.tx_bytes.as_ref(), carried, carried)?;
    let tasks = linux.process.and_then(|process| process.process_count);
    ensure(tasks.is_some_and(|count| count.value >= 2), || {
        format!("{tasks:?} tasks")
    })?;
    ensure(rate(&linux).is_some_and(|rate| rate > 300_000_000), || {
        format!("{:?}", linux.cpu)
    })?;
    let [own] = &linux.containers[..] else {
        return Err(format!("{:?}", linux.containers).into());
    };
    let total = |cpu: &Option<cri::CpuUsage>| {
        let total = cpu.as_ref()?.usage_core_nano_seconds.as_ref()?;
        Some(total.value)
    };
    ensure(
        linux.memory.is_some() && total(&own.cpu) <= total(&linux.cpu),
        || format!("{own:?} of {:?}", linux.cpu),
    )
}

pub(super) async fn listed(node: &Node) -> Outcome {
    let id = node.run_pod(&pod(node, "p")).await?;
    let mut host = pod(node, "host");
    namespaces(&mut host).network = cri::NamespaceMode::Node.into();
    host.labels = BTreeMap::from([(String::from("on"), String::from("host"))]);
    let host_id = node.run_pod(&host).await?;
    let ids_of = |stats: Vec<cri::PodSandboxStats>| -> Vec<String> {
        let attributes = stats.into_iter().filter_map(|one| one.attributes);
        attributes.map(|attributes| attributes.id).collect()
    };

    let on_host = node.pod_stats(&host_id).await?.linux.unwrap_or_default();
    ensure(on_host.network.is_none() && on_host.cpu.is_some(), || {
        format!("{on_host:?}")
    })?;
    let labels = cri::PodSandboxStatsFilter {
        label_selector: host.labels.clone(),
        ..Default::default()
    };
    let found = ids_of(node.list_pod_stats(Some(labels)).await?);
    ensure(found == [host_id.clone()], || format!("{found:?}"))?;
    let both = node.list_pod_stats(None).await?;
    ensure(both.len() == 2, || format!("{both:?}"))?;
    let by_id = cri::PodSandboxStatsFilter {
        id: id.chars().take(15).collect(),
        ..Default::default()
    };
    let found = ids_of(node.list_pod_stats(Some(by_id)).await?);
    ensure(found == [id.clone()], || format!("{found:?}"))?;

    node.stop_pod(&host_id).await?;
    let stopped = node.pod_stats(&host_id).await;
    fails("a stopped pod", stopped, Code::Unavailable)?;
    let unknown = node.pod_stats("nobody").await;
    fails("an unknown pod", unknown, Code::NotFound)?;
    let request = cri::StreamPodSandboxStatsRequest { filter: None };
    let mut client = node.cri.runtime.clone();
    let mut parts = client.stream_pod_sandbox_stats(request).await?.into_inner();
    let part = parts.message().await?.unwrap_or_default();
    let found = ids_of(part.pod_sandbox_stats);
    ensure(found == [id] && parts.message().await?.is_none(), || {
        format!("streamed {found:?}")
    })
}

fn rate(linux: &cri::LinuxPodSandboxStats) -> Option<u64> {
    let rate = linux.cpu.as_ref()?.usage_nano_cores.as_ref()?;
    Some(rate.value)
}

/// The bytes that eth0 sent.
fn sent(table: &str) -> Outcome<f64> {
    let mut lines = table.lines();
    let line = lines.find_map(|line| line.trim().strip_prefix("eth0:"));
    let number = line.and_then(|line| line.split_whitespace().nth(8));
    Ok(number.ok_or("no eth0")?.parse()?)
}

pub(super) async fn vanishing(node: &Node) -> Outcome {
    let mut pods = Vec::new();
    for at in 0..6 {
        let config = pod(node, &format!("p{at}"));
        let id = node.run_pod(&config).await?;
        node.run(&id, &config, &sleeper("c")).await?;
        pods.push(id);
    }
    let ending = async {
        for id in &pods {
            node.stop_pod(id).await?;
            node.remove_pod(id).await?;
        }
        Ok::<_, tonic::Status>(())
    };
    let asking = async {
        let mut answers = 0_u32;
        loop {
            let containers = node.list_stats(None).await?;
            let pods = node.list_pod_stats(None).await?;
            let whole = containers.iter().all(|one| one.attributes.is_some())
                && pods
                    .iter()
                    .all(|one| one.attributes.is_some() && one.linux.is_some());
            ensure(whole, || format!("{containers:?} {pods:?}"))?;
            answers += 1;
            if pods.is_empty() && containers.is_empty() {
                return Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answers);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (ended, answers) = tokio::join!(ending, asking);
    ended?;
    let answers = answers?;
    ensure(answers > 5, || {
        format!("only {answers} answers while six pods went")
    })
}
