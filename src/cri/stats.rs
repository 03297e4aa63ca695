//! What is used, as messages; the bodies of the handlers that tell it.

use crate::index::{ContainerFilter, SandboxFilter};
use crate::model::ContainerId;
use crate::stats::metrics::{BASE, Kind, METRICS, Metric, PodSamples, Sample};
use crate::stats::{
    ContainerUsage, Cpu, Interface, Io, LayerUsage, Memory, Network, PodUsage, Pressure,
    PressureLine, Swap, Tasks,
};
use crate::wire::cri;

use super::Service;
use super::serve::{Answer, Replies, Weight, batches, within_limit};

impl Service {
    pub(super) async fn answer_list_metric_descriptors(
        &self,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        self.serve("ListMetricDescriptors", Weight::Always, async {
            let descriptors = METRICS.iter().map(|metric| descriptor(metric)).collect();
            Ok(cri::ListMetricDescriptorsResponse { descriptors })
        })
        .await
    }

    pub(super) async fn answer_list_pod_sandbox_metrics(
        &self,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        self.serve("ListPodSandboxMetrics", Weight::Read, async {
            let samples = self.stats.samples().await;
            let pod_metrics = samples.into_iter().map(pod_metrics).collect();
            within_limit(
                cri::ListPodSandboxMetricsResponse { pod_metrics },
                "StreamPodSandboxMetrics",
            )
        })
        .await
    }

    pub(super) async fn answer_stream_pod_sandbox_metrics(
        &self,
    ) -> Answer<Replies<cri::StreamPodSandboxMetricsResponse>> {
        self.serve("StreamPodSandboxMetrics", Weight::Read, async {
            let samples = self.stats.samples().await;
            let metrics: Vec<_> = samples.into_iter().map(pod_metrics).collect();
            Ok(batches(metrics, |pod_sandbox_metrics| {
                cri::StreamPodSandboxMetricsResponse {
                    pod_sandbox_metrics,
                }
            }))
        })
        .await
    }

    pub(super) async fn answer_container_stats(
        &self,
        request: cri::ContainerStatsRequest,
    ) -> Answer<cri::ContainerStatsResponse> {
        self.serve("ContainerStats", Weight::Read, async {
            self.span_container(&request.container_id);
            let usage = self.stats.container(&request.container_id).await?;
            Ok(cri::ContainerStatsResponse {
                stats: Some(container(&usage)),
            })
        })
        .await
    }

    pub(super) async fn answer_list_container_stats(
        &self,
        request: cri::ListContainerStatsRequest,
    ) -> Answer<cri::ListContainerStatsResponse> {
        self.serve("ListContainerStats", Weight::Read, async {
            let stats = self.containers_used(request.filter).await;
            within_limit(
                cri::ListContainerStatsResponse { stats },
                "StreamContainerStats",
            )
        })
        .await
    }

    pub(super) async fn answer_stream_container_stats(
        &self,
        request: cri::StreamContainerStatsRequest,
    ) -> Answer<Replies<cri::StreamContainerStatsResponse>> {
        self.serve("StreamContainerStats", Weight::Read, async {
            let stats = self.containers_used(request.filter).await;
            Ok(batches(stats, |container_stats| {
                cri::StreamContainerStatsResponse { container_stats }
            }))
        })
        .await
    }

    async fn containers_used(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<cri::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let filter = ContainerFilter {
            id: filter.id,
            sandbox: filter.pod_sandbox_id,
            state: None,
            labels: filter.label_selector,
        };
        let used = self.stats.containers(&filter).await;
        used.iter().map(container).collect()
    }

    pub(super) async fn answer_pod_sandbox_stats(
        &self,
        request: cri::PodSandboxStatsRequest,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        self.serve("PodSandboxStats", Weight::Read, async {
            self.span_sandbox(&request.pod_sandbox_id);
            let usage = self.stats.pod(&request.pod_sandbox_id).await?;
            Ok(cri::PodSandboxStatsResponse {
                stats: Some(pod(&usage)),
            })
        })
        .await
    }

    pub(super) async fn answer_list_pod_sandbox_stats(
        &self,
        request: cri::ListPodSandboxStatsRequest,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        self.serve("ListPodSandboxStats", Weight::Read, async {
            let stats = self.pods_used(request.filter).await;
            within_limit(
                cri::ListPodSandboxStatsResponse { stats },
                "StreamPodSandboxStats",
            )
        })
        .await
    }

    pub(super) async fn answer_stream_pod_sandbox_stats(
        &self,
        request: cri::StreamPodSandboxStatsRequest,
    ) -> Answer<Replies<cri::StreamPodSandboxStatsResponse>> {
        self.serve("StreamPodSandboxStats", Weight::Read, async {
            let stats = self.pods_used(request.filter).await;
            Ok(batches(stats, |pod_sandbox_stats| {
                cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }
            }))
        })
        .await
    }

    async fn pods_used(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<cri::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let filter = SandboxFilter {
            id: filter.id,
            ready: Some(true),
            labels: filter.label_selector,
        };
        let used = self.stats.pods(&filter).await;
        used.iter().map(pod).collect()
    }
}

fn descriptor(metric: &Metric) -> cri::MetricDescriptor {
    let labels = BASE.iter().chain(metric.labels);
    cri::MetricDescriptor {
        name: metric.name.to_owned(),
        help: metric.help.to_owned(),
        label_keys: labels.map(|label| (*label).to_owned()).collect(),
    }
}

fn pod_metrics(samples: PodSamples) -> cri::PodSandboxMetrics {
    let container = |(id, samples): (ContainerId, Vec<Sample>)| cri::ContainerMetrics {
        container_id: id.to_string(),
        metrics: samples.into_iter().map(metric).collect(),
    };
    cri::PodSandboxMetrics {
        pod_sandbox_id: samples.pod.to_string(),
        metrics: samples.own.into_iter().map(metric).collect(),
        container_metrics: samples.containers.into_iter().map(container).collect(),
    }
}

/// One sample. It always has a value: kubelet would crash without.
fn metric(sample: Sample) -> cri::Metric {
    let kind = match sample.metric.kind {
        Kind::Counter => cri::MetricType::Counter,
        Kind::Gauge => cri::MetricType::Gauge,
    };
    cri::Metric {
        name: sample.metric.name.to_owned(),
        timestamp: sample.at.map_or(0, |at| at.0),
        metric_type: kind.into(),
        label_values: sample.labels,
        value: number(sample.value),
    }
}

/// What a container uses. The attributes are always there: kubelet reads them unasked.
fn container(used: &ContainerUsage) -> cri::ContainerStats {
    let config = &used.view.config;
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: used.view.id.to_string(),
            metadata: Some((&config.identity).into()),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: used.usage.cpu.as_ref().map(cpu),
        memory: used.usage.memory.as_ref().map(memory),
        writable_layer: used.layer.as_ref().map(layer),
        swap: used.usage.swap.as_ref().map(swap),
        io: used.usage.io.as_ref().map(io),
    }
}

/// What a pod uses. `linux` is always there, also with nothing in it: kubelet reads it unasked.
fn pod(used: &PodUsage) -> cri::PodSandboxStats {
    let view = &used.pod.sandbox;
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: view.id.to_string(),
            metadata: Some((&view.config.identity).into()),
            labels: view.config.labels.clone(),
            annotations: view.config.annotations.clone(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: used.usage.cpu.as_ref().map(cpu),
            memory: used.usage.memory.as_ref().map(memory),
            network: used.network.as_deref().and_then(network),
            process: used.usage.tasks.as_ref().map(process),
            containers: used.containers.iter().map(container).collect(),
            io: used.usage.io.as_ref().map(io),
        }),
        windows: None,
    }
}

fn number(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn cpu(used: &Cpu) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: used.at.0,
        usage_core_nano_seconds: number(used.total_ns),
        usage_nano_cores: used.rate_ns.and_then(number),
        psi: used.pressure.as_ref().map(psi),
    }
}

fn memory(used: &Memory) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp: used.at.0,
        working_set_bytes: number(used.working_set_bytes),
        available_bytes: used.available_bytes.and_then(number),
        usage_bytes: number(used.usage_bytes),
        rss_bytes: used.rss_bytes.and_then(number),
        page_faults: used.faults.and_then(number),
        major_page_faults: used.major_faults.and_then(number),
        psi: used.pressure.as_ref().map(psi),
    }
}

fn swap(used: &Swap) -> cri::SwapUsage {
    cri::SwapUsage {
        timestamp: used.at.0,
        swap_available_bytes: used.available_bytes.and_then(number),
        swap_usage_bytes: number(used.usage_bytes),
    }
}

fn io(used: &Io) -> cri::IoUsage {
    cri::IoUsage {
        timestamp: used.at.0,
        psi: Some(psi(&used.pressure)),
    }
}

fn psi(pressure: &Pressure) -> cri::PsiStats {
    let line = |line: &PressureLine| {
        Some(cri::PsiData {
            total: line.total_ns,
            avg10: line.avg10,
            avg60: line.avg60,
            avg300: line.avg300,
        })
    };
    cri::PsiStats {
        full: line(&pressure.full),
        some: line(&pressure.some),
    }
}

fn layer(used: &LayerUsage) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: used.at.0,
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: used.mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: number(used.bytes),
        inodes_used: number(used.inodes),
    }
}

/// Kubelet wants the default interface among the others too.
fn network(used: &Network) -> Option<cri::NetworkUsage> {
    Some(cri::NetworkUsage {
        timestamp: used.at.0,
        default_interface: Some(interface(used.default_interface()?)),
        interfaces: used.interfaces.iter().map(interface).collect(),
    })
}

fn interface(used: &Interface) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: used.name.clone(),
        rx_bytes: number(used.received.bytes),
        rx_errors: number(used.received.errors),
        tx_bytes: number(used.sent.bytes),
        tx_errors: number(used.sent.errors),
    }
}

fn process(used: &Tasks) -> cri::ProcessUsage {
    cri::ProcessUsage {
        timestamp: used.at.0,
        process_count: number(used.count),
    }
}
