//! Reading calls and memory, with so many pods of one container each.

use std::time::{Duration, Instant};

use podwright::wire::cri;

use crate::Plan;
use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::report::{Budget, Report};
use crate::sample::Series;
use crate::{latency, memory};

/// From here on the size of a list is what its time is about.
const MANY: usize = 100;
/// Figures of usage are asked for so often, at most: the peer needs long for them.
const STATS_MOST: usize = 20;
/// The pause before, so that we read afresh as for a kubelet, which asks seldom.
const STALE: Duration = Duration::from_millis(1_100);

/// Adds the rows for `size` pods.
pub(crate) async fn measure(
    plan: &Plan,
    size: usize,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let our_pods = fill(ours, size).await?;
    let peer_pods = fill(peer, size).await?;
    for call in [
        Call::Pods,
        Call::Containers,
        Call::Status,
        Call::Images,
        Call::ContainerStats,
        Call::PodStats,
    ] {
        if call == Call::Status && size == 0 {
            continue;
        }
        let (mut mine, mut theirs) = (Series::default(), Series::default());
        let reads = if call.is_stats() {
            plan.reads.min(STATS_MOST)
        } else {
            plan.reads
        };
        for _ in 0..reads {
            if call.is_stats() {
                tokio::time::sleep(STALE).await;
            }
            call.time(ours, our_pods.first(), &mut mine).await?;
            call.time(peer, peer_pods.first(), &mut theirs).await?;
        }
        let name = format!("{} at {size} pods", call.name());
        report.row(&name, "ms", call.budget(size), &mine, &theirs);
    }
    memory::rows(size, ours, peer, report)?;
    if size > 0 {
        latency::restarts(size, ours, peer, report).await?;
    }
    empty(ours, our_pods).await?;
    empty(peer, peer_pods).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Pods,
    Containers,
    Status,
    Images,
    ContainerStats,
    PodStats,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Pods => "ListPodSandbox",
            Self::Containers => "ListContainers",
            Self::Status => "PodSandboxStatus",
            Self::Images => "ListImages",
            Self::ContainerStats => "ListContainerStats",
            Self::PodStats => "ListPodSandboxStats",
        }
    }

    fn is_stats(self) -> bool {
        matches!(self, Self::ContainerStats | Self::PodStats)
    }

    /// Lists are answered from what is published, figures of usage from the kernel's files.
    fn budget(self, size: usize) -> Budget {
        match self {
            Self::Pods | Self::Containers => Budget::Within(0.2),
            Self::ContainerStats if size >= MANY => Budget::AtMost(0.2),
            Self::Status | Self::Images | Self::ContainerStats | Self::PodStats => Budget::None,
        }
    }

    async fn time(self, endpoint: &Endpoint, pod: Option<&String>, series: &mut Series) -> Outcome {
        let mut runtime = endpoint.cri.runtime.clone();
        let began = Instant::now();
        match self {
            Self::Pods => drop(
                runtime
                    .list_pod_sandbox(cri::ListPodSandboxRequest::default())
                    .await?,
            ),
            Self::Containers => drop(
                runtime
                    .list_containers(cri::ListContainersRequest::default())
                    .await?,
            ),
            Self::Status => drop(
                runtime
                    .pod_sandbox_status(cri::PodSandboxStatusRequest {
                        pod_sandbox_id: pod.cloned().unwrap_or_default(),
                        verbose: false,
                    })
                    .await?,
            ),
            Self::ContainerStats => drop(
                runtime
                    .list_container_stats(cri::ListContainerStatsRequest::default())
                    .await?,
            ),
            Self::PodStats => drop(
                runtime
                    .list_pod_sandbox_stats(cri::ListPodSandboxStatsRequest::default())
                    .await?,
            ),
            Self::Images => drop(
                endpoint
                    .cri
                    .images
                    .clone()
                    .list_images(cri::ListImagesRequest::default())
                    .await?,
            ),
        }
        series.push(began.elapsed());
        Ok(())
    }
}

async fn fill(endpoint: &Endpoint, size: usize) -> Outcome<Vec<String>> {
    let mut pods = Vec::with_capacity(size);
    for number in 0..size {
        let (pod, _container) = endpoint.whole_pod(&format!("full-{size}-{number}")).await?;
        pods.push(pod);
    }
    Ok(pods)
}

async fn empty(endpoint: &Endpoint, pods: Vec<String>) -> Outcome {
    for pod in pods {
        endpoint.stop_pod(&pod).await?;
        endpoint.remove_pod(&pod).await?;
    }
    Ok(())
}
