//! Readings as samples: pure.

use crate::index::{ContainerView, SandboxView};
use crate::model::Timestamp;
use crate::stats::network::Network;
use crate::stats::parse::Pressure;

use super::disks::Disk;
use super::reading::{CpuReading, MemoryReading, Reading};
use super::table::{self as t, Metric};

/// At and above this, a limit is none.
const UNLIMITED: i64 = 1 << 62;
const NS: u64 = 1_000_000_000;
/// The kernel's period where none was asked for, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// One value of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Of which metric.
    pub metric: &'static Metric,
    /// Values of the labels, in the order of [`t::BASE`] and then of the metric's own.
    pub labels: Vec<String>,
    /// When it was measured; `None` where that was just now.
    pub at: Option<Timestamp>,
    /// The value.
    pub value: u64,
}

/// The file system that holds a writable layer, and what the layer takes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) device: String,
    pub(super) used_bytes: u64,
    pub(super) at: Option<Timestamp>,
    pub(super) total_bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// Samples of one object.
struct Out {
    base: [String; 6],
    samples: Vec<Sample>,
}

impl Out {
    fn add<const N: usize>(&mut self, metric: &'static Metric, own: [&str; N], value: u64) {
        let own = own.into_iter().map(str::to_owned);
        self.samples.push(Sample {
            metric,
            labels: self.base.iter().cloned().chain(own).collect(),
            at: None,
            value,
        });
    }

    fn cpu(&mut self, cpu: &CpuReading) {
        self.add(&t::CPU_USAGE, ["total"], cpu.usage_s);
        self.add(&t::CPU_USER, [], cpu.user_s);
        self.add(&t::CPU_SYSTEM, [], cpu.system_s);
        self.add(&t::CFS_PERIODS, [], cpu.periods);
        self.add(&t::CFS_THROTTLED_PERIODS, [], cpu.throttled_periods);
        self.add(&t::CFS_THROTTLED, [], cpu.throttled_s);
    }

    fn memory(&mut self, memory: &MemoryReading) {
        self.add(&t::MEMORY_USAGE, [], memory.usage);
        self.add(&t::MEMORY_WORKING_SET, [], memory.working_set);
        self.add(&t::MEMORY_RSS, [], memory.rss);
        self.add(&t::MEMORY_CACHE, [], memory.cache);
        self.add(&t::MEMORY_MAPPED, [], memory.mapped);
        self.add(&t::MEMORY_SWAP, [], memory.swap);
        self.add(&t::MEMORY_KERNEL, [], memory.kernel);
        self.add(&t::MEMORY_MAX_USAGE, [], memory.max_usage);
        self.add(&t::MEMORY_FAILCNT, [], memory.limit_hits);
        let scopes = [
            ("container", memory.own_faults),
            ("hierarchy", memory.all_faults),
        ];
        for (scope, [all, major]) in scopes {
            self.add(&t::MEMORY_FAILURES, ["pgfault", scope], all);
            self.add(&t::MEMORY_FAILURES, ["pgmajfault", scope], major);
        }
        self.add(&t::MEMORY_ACTIVE_FILE, [], memory.active_file);
        self.add(&t::MEMORY_INACTIVE_FILE, [], memory.inactive_file);
        self.add(&t::OOM_EVENTS, [], memory.kills);
    }

    fn layer(&mut self, layer: &Layer) {
        let device = layer.device.as_str();
        self.add(&t::FS_USAGE, [device], layer.used_bytes);
        if let Some(sample) = self.samples.last_mut() {
            sample.at = layer.at;
        }
        self.add(&t::FS_LIMIT, [device], layer.total_bytes);
        self.add(&t::FS_INODES, [device], layer.inodes);
        self.add(&t::FS_INODES_FREE, [device], layer.inodes_free);
    }

    fn disk(&mut self, disk: &Disk, name: &str) {
        self.add(&t::FS_READS, [name], disk.reads);
        self.add(&t::FS_WRITES, [name], disk.writes);
        self.add(&t::FS_READ_BYTES, [name], disk.read_bytes);
        self.add(&t::FS_WRITE_BYTES, [name], disk.written_bytes);
        let (major, minor) = (disk.major.to_string(), disk.minor.to_string());
        for (operation, bytes) in &disk.by_operation {
            self.add(&t::BLKIO, [name, &major, &minor, operation], *bytes);
        }
    }

    fn processes(&mut self, reading: &Reading) {
        self.add(&t::PROCESSES, [], reading.processes);
        self.add(&t::THREADS, [], reading.threads);
        self.add(&t::THREADS_MAX, [], reading.threads_max);
        self.add(&t::FILE_DESCRIPTORS, [], reading.files);
        self.add(&t::SOCKETS, [], reading.sockets);
        if let Some(limit) = reading.files_max {
            self.add(&t::ULIMITS_SOFT, ["max_open_files"], limit);
        }
    }

    fn view(&mut self, view: &ContainerView, now: Timestamp) {
        let started = view.started_at.unwrap_or(view.created_at);
        self.add(&t::LAST_SEEN, [], seconds(now));
        self.add(&t::START_TIME, [], seconds(started));
        let limits = &view.resources;
        let period = limits.cpu_period.filter(|period| *period > 0);
        self.add(&t::SPEC_CPU_PERIOD, [], period.unwrap_or(CPU_PERIOD));
        let quota = limits.cpu_quota.map(u64::try_from);
        if let Some(Ok(quota @ 1..)) = quota {
            self.add(&t::SPEC_CPU_QUOTA, [], quota);
        }
        self.add(&t::SPEC_CPU_SHARES, [], limits.cpu_shares.unwrap_or(0));
        self.add(&t::SPEC_MEMORY_LIMIT, [], limit(limits.memory_limit));
        self.add(&t::SPEC_SWAP_LIMIT, [], limit(limits.memory_swap_limit));
        let kept = limits.unified.get("memory.min");
        let kept = kept.and_then(|text| text.trim().parse().ok());
        self.add(&t::SPEC_RESERVATION, [], kept.unwrap_or(0));
    }

    fn pressure(&mut self, of: Option<&Pressure>, full: &'static Metric, some: &'static Metric) {
        if let Some(pressure) = of {
            self.add(full, [], pressure.full.total_ns / NS);
            self.add(some, [], pressure.some.total_ns / NS);
        }
    }
}

/// What is told of one container. `device` names a disk by its numbers.
pub(super) fn of_container(
    (pod, view): (&SandboxView, &ContainerView),
    reading: &Reading,
    layer: &Layer,
    now: Timestamp,
    device: impl Fn(u32, u32) -> String,
) -> Vec<Sample> {
    let identity = &pod.config.identity;
    let images = [
        &view.config.user_specified_image,
        &view.image.name,
        &view.config.image,
    ];
    let image = images.into_iter().find(|name| !name.is_empty());
    let mut out = Out {
        base: [
            view.config.identity.name.clone(),
            view.id.to_string(),
            image.cloned().unwrap_or_default(),
            view.id.to_string(),
            identity.k8s_namespace.clone(),
            identity.name.clone(),
        ],
        samples: Vec::with_capacity(64),
    };
    out.cpu(&reading.cpu);
    out.memory(&reading.memory);
    out.layer(layer);
    for disk in &reading.disks {
        out.disk(disk, &device(disk.major, disk.minor));
    }
    out.processes(reading);
    out.view(view, now);
    for (size, used, most) in &reading.hugetlb {
        out.add(&t::HUGETLB, [size], *used);
        out.add(&t::HUGETLB_MAX, [size], *most);
    }
    let (cpu, memory, io) = (
        &reading.cpu_pressure,
        &reading.memory_pressure,
        &reading.io_pressure,
    );
    out.pressure(cpu.as_ref(), &t::PRESSURE_CPU_FULL, &t::PRESSURE_CPU_SOME);
    out.pressure(
        memory.as_ref(),
        &t::PRESSURE_MEMORY_FULL,
        &t::PRESSURE_MEMORY_SOME,
    );
    out.pressure(io.as_ref(), &t::PRESSURE_IO_FULL, &t::PRESSURE_IO_SOME);
    out.samples
}

/// What is told of a pod itself: its network.
pub(super) fn of_pod(pod: &SandboxView, network: &Network) -> Vec<Sample> {
    let identity = &pod.config.identity;
    let mut out = Out {
        base: [
            String::new(),
            pod.id.to_string(),
            String::new(),
            pod.id.to_string(),
            identity.k8s_namespace.clone(),
            identity.name.clone(),
        ],
        samples: Vec::new(),
    };
    for interface in &network.interfaces {
        let name = [interface.name.as_str()];
        let (received, sent) = (&interface.received, &interface.sent);
        out.add(&t::RECEIVED_BYTES, name, received.bytes);
        out.add(&t::RECEIVED_PACKETS, name, received.packets);
        out.add(&t::RECEIVED_DROPPED, name, received.dropped);
        out.add(&t::RECEIVED_ERRORS, name, received.errors);
        out.add(&t::SENT_BYTES, name, sent.bytes);
        out.add(&t::SENT_PACKETS, name, sent.packets);
        out.add(&t::SENT_DROPPED, name, sent.dropped);
        out.add(&t::SENT_ERRORS, name, sent.errors);
    }
    out.samples
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.parts().0).unwrap_or(0)
}

/// A limit as metrics show it: zero is none.
fn limit(asked: Option<i64>) -> u64 {
    let limit = asked.filter(|limit| *limit < UNLIMITED);
    limit
        .and_then(|limit| u64::try_from(limit).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::stats::network::{Interface, Traffic};
    use crate::stats::testing::views;
    use crate::stats::testing::{self, Tree};

    /// What a kernel may not tell, by the contract.
    const OPTIONAL: [&str; 16] = [
        "container_hugetlb_usage_bytes",
        "container_hugetlb_max_usage_bytes",
        "container_pressure_cpu_stalled_seconds_total",
        "container_pressure_cpu_waiting_seconds_total",
        "container_pressure_memory_stalled_seconds_total",
        "container_pressure_memory_waiting_seconds_total",
        "container_pressure_io_stalled_seconds_total",
        "container_pressure_io_waiting_seconds_total",
        "container_spec_cpu_quota",
        "container_spec_memory_reservation_limit_bytes",
        "container_ulimits_soft",
        "container_fs_reads_total",
        "container_fs_writes_total",
        "container_fs_reads_bytes_total",
        "container_fs_writes_bytes_total",
        "container_blkio_device_usage_total",
    ];

    fn samples(tree: &Tree) -> Vec<Sample> {
        let reading = Reading::make_blocking(&tree.files("/pod/c"), None).unwrap();
        let layer = Layer {
            device: "/dev/vda".into(),
            used_bytes: 7,
            at: Some(Timestamp(5)),
            total_bytes: 100,
            inodes: 50,
            inodes_free: 40,
        };
        let (pod, container) = (views::sandbox(), views::container());
        let now = Timestamp(9_000_000_000);
        let device = |major, minor| format!("/dev/{major}-{minor}");
        of_container((&pod, &container), &reading, &layer, now, device)
    }

    fn network() -> Vec<Sample> {
        let traffic = Traffic {
            bytes: 1,
            packets: 2,
            errors: 3,
            dropped: 4,
        };
        let network = Network {
            at: Timestamp(1),
            interfaces: vec![Interface {
                name: "eth0".into(),
                received: traffic,
                sent: traffic,
            }],
        };
        of_pod(&views::sandbox(), &network)
    }

    #[test]
    fn every_metric_has_a_sample_and_every_sample_its_labels() {
        for tree in [testing::recorded_v1(), testing::recorded_v2()] {
            let mut all = samples(&tree);
            all.extend(network());

            let named: BTreeSet<_> = all.iter().map(|sample| sample.metric.name).collect();
            for metric in t::METRICS {
                assert!(
                    named.contains(metric.name) || OPTIONAL.contains(&metric.name),
                    "{}",
                    metric.name
                );
            }
            let mut seen = BTreeSet::new();
            for sample in &all {
                assert_eq!(
                    sample.labels.len(),
                    t::BASE.len() + sample.metric.labels.len(),
                    "{sample:?}"
                );
                assert!(
                    seen.insert((sample.metric.name, sample.labels.clone())),
                    "twice: {sample:?}"
                );
            }
        }
    }

    #[test]
    fn with_v2_only_unlimited_files_are_not_told() {
        let named: BTreeSet<_> = samples(&testing::recorded_v2())
            .iter()
            .chain(&network())
            .map(|sample| sample.metric.name)
            .collect();
        let absent: Vec<_> = t::METRICS
            .iter()
            .map(|metric| metric.name)
            .filter(|name| !named.contains(name))
            .collect();
        assert_eq!(
            absent,
            ["container_ulimits_soft"],
            "the recorded process is gone"
        );
    }

    #[test]
    fn values_and_labels_are_what_the_contract_says() {
        let all = samples(&testing::recorded_v2());
        let by_name: BTreeMap<_, _> = all
            .iter()
            .map(|sample| (sample.metric.name, sample))
            .collect();
        let value = |name: &str| by_name[name].value;

        let cpu = by_name["container_cpu_usage_seconds_total"];
        let id = views::container().id.to_string();
        let labels = [
            "web",
            &id,
            "docker.io/library/nginx:1",
            &id,
            "shop",
            "web-1",
            "total",
        ];
        assert_eq!(cpu.labels, labels);
        assert_eq!((cpu.value, cpu.at), (2, None));
        assert_eq!(value("container_spec_cpu_period"), 100_000);
        assert_eq!(value("container_spec_cpu_quota"), 20_000);
        assert_eq!(value("container_spec_cpu_shares"), 1_024);
        assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
        assert_eq!(value("container_spec_memory_swap_limit_bytes"), 0);
        assert_eq!(
            value("container_spec_memory_reservation_limit_bytes"),
            4_096
        );
        assert_eq!(value("container_last_seen"), 9);
        assert_eq!(value("container_start_time_seconds"), 3);
        assert_eq!(value("container_pressure_cpu_waiting_seconds_total"), 1);
        let usage = by_name["container_fs_usage_bytes"];
        assert_eq!(
            (usage.at, usage.labels.last().unwrap().as_str()),
            (Some(Timestamp(5)), "/dev/vda")
        );
        let blkio = by_name["container_blkio_device_usage_total"];
        assert_eq!(blkio.labels[6..], ["/dev/259-3", "259", "3", "Write"]);

        let received = &network()[3];
        assert_eq!(
            (received.metric.name, received.value),
            ("container_network_receive_errors_total", 3)
        );
        let pod_id = views::sandbox().id.to_string();
        assert_eq!(
            received.labels,
            ["", &pod_id, "", &pod_id, "shop", "web-1", "eth0"]
        );
    }

    #[test]
    fn no_limit_is_zero() {
        for none in [None, Some(-1), Some(0), Some(i64::MAX)] {
            assert_eq!(limit(none), 0, "{none:?}");
        }
        assert_eq!(limit(Some(1)), 1);
    }
}
