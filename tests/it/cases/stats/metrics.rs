//! The metrics that kubelet passes on: what upstream's conformance suite asks of them, and what a kubelet crashes over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use podwright::wire::cri;

use super::files::{Files, between};
use crate::case::Outcome;
use crate::ensure;
use crate::node::Node;
use crate::pods::{namespaces, pod, shell, sleeper};

/// What a kernel may not tell.
const OPTIONAL: [&str; 13] = [
    "container_hugetlb_usage_bytes",
    "container_hugetlb_max_usage_bytes",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "container_fs_reads_bytes_total",
    "container_fs_writes_bytes_total",
    "container_blkio_device_usage_total",
];

/// Descriptors by name.
type Known = BTreeMap<String, Vec<String>>;

impl Node {
    async fn descriptors(&self) -> Outcome<Known> {
        let request = cri::ListMetricDescriptorsRequest {};
        let mut client = self.cri.runtime.clone();
        let reply = client.list_metric_descriptors(request).await?.into_inner();
        let mut known = Known::new();
        for one in reply.descriptors {
            ensure(!one.name.is_empty() && !one.help.is_empty(), || {
                format!("{one:?}")
            })?;
            let before = known.insert(one.name.clone(), one.label_keys);
            ensure(before.is_none(), || format!("twice: {}", one.name))?;
        }
        Ok(known)
    }

    async fn metrics(&self) -> Outcome<Vec<cri::PodSandboxMetrics>> {
        let request = cri::ListPodSandboxMetricsRequest {};
        let mut client = self.cri.runtime.clone();
        let reply = client.list_pod_sandbox_metrics(request).await?;
        Ok(reply.into_inner().pod_metrics)
    }
}

/// Checks what a kubelet would stumble over, and tells the names that have samples.
fn sound<'m>(
    known: &Known,
    metrics: impl IntoIterator<Item = &'m cri::Metric>,
) -> Outcome<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for metric in metrics {
        let labels = known.get(&metric.name).map(Vec::len);
        ensure(
            labels == Some(metric.label_values.len()) && metric.value.is_some(),
            || format!("{metric:?}"),
        )?;
        ensure(
            seen.insert((metric.name.clone(), metric.label_values.clone())),
            || format!("twice: {metric:?}"),
        )?;
    }
    Ok(seen.into_iter().map(|(name, _labels)| name).collect())
}

fn value<'m>(metrics: &'m [cri::Metric], name: &str) -> Option<&'m cri::UInt64Value> {
    let found = metrics.iter().find(|metric| metric.name == name)?;
    found.value.as_ref()
}

pub(super) async fn scrape(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod_id = node.run_pod(&config).await?;
    let mut writer = shell(
        "c",
        "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i >/$i; done; sync; exec sleep 3600",
    );
    writer.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 20_000,
        cpu_shares: 1_024,
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = node.run(&pod_id, &config, &writer).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let known = node.descriptors().await?;
    let pods = node.metrics().await?;
    let [of_pod] = &pods[..] else {
        return Err(format!("{} pods", pods.len()).into());
    };
    let [of_container] = &of_pod.container_metrics[..] else {
        return Err(format!("{} containers", of_pod.container_metrics.len()).into());
    };
    ensure(
        of_pod.pod_sandbox_id == pod_id && of_container.container_id == id,
        || "of somebody else".to_owned(),
    )?;
    let all = of_pod.metrics.iter().chain(&of_container.metrics);
    let told = sound(&known, all)?;
    let absent: Vec<_> = known.keys().filter(|name| !told.contains(*name)).collect();
    ensure(
        absent.iter().all(|name| OPTIONAL.contains(&name.as_str())),
        || format!("no samples: {absent:?}"),
    )?;
    let metrics = &of_container.metrics;
    let memory = Files::of(&id).memory()?;
    let usage = value(metrics, "container_memory_usage_bytes");
    between("memory", usage, memory, memory)?;
    for (name, wanted) in [
        ("container_processes", 1),
        ("container_threads", 1),
        ("container_spec_cpu_period", 100_000),
        ("container_spec_cpu_quota", 20_000),
        ("container_spec_cpu_shares", 1_024),
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_spec_memory_swap_limit_bytes", 64 << 20),
    ] {
        let told = value(metrics, name).map(|value| value.value);
        ensure(told == Some(wanted), || format!("{name}: {told:?}"))?;
    }
    let limit = value(metrics, "container_fs_limit_bytes").map(|value| value.value);
    ensure(limit.is_some_and(|limit| limit > 1 << 20), || {
        format!("{limit:?}")
    })?;
    let received = value(&of_pod.metrics, "container_network_receive_bytes_total");
    ensure(received.is_some(), || format!("{:?}", of_pod.metrics))
}

pub(super) async fn scope(node: &Node) -> Outcome {
    let known = node.descriptors().await?;
    ensure(node.metrics().await?.is_empty(), || {
        "nothing runs".to_owned()
    })?;
    let mut host = pod(node, "host");
    namespaces(&mut host).network = cri::NamespaceMode::Node.into();
    let host_id = node.run_pod(&host).await?;
    let created = node.create(&host_id, &host, &sleeper("created")).await?;
    let own = node.run_pod(&pod(node, "own")).await?;

    let pods = node.metrics().await?;
    ensure(pods.len() == 2, || format!("{} pods", pods.len()))?;
    for pod in &pods {
        sound(&known, &pod.metrics)?;
        ensure(pod.container_metrics.is_empty(), || {
            format!("{created} does not run")
        })?;
        ensure(
            pod.metrics.is_empty() == (pod.pod_sandbox_id == host_id),
            || format!("network of {}: {:?}", pod.pod_sandbox_id, pod.metrics),
        )?;
    }
    node.stop_pod(&host_id).await?;
    let request = cri::StreamPodSandboxMetricsRequest {};
    let mut client = node.cri.runtime.clone();
    let mut parts = client
        .stream_pod_sandbox_metrics(request)
        .await?
        .into_inner();
    let part = parts
        .message()
        .await?
        .unwrap_or_default()
        .pod_sandbox_metrics;
    let ids: Vec<_> = part.iter().map(|pod| &pod.pod_sandbox_id).collect();
    ensure(ids == [&own] && parts.message().await?.is_none(), || {
        format!("streamed {ids:?}")
    })
}
