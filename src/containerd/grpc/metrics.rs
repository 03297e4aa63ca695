//! The few fields of the shims' cgroup metrics that we read (containerd/cgroups, `metrics.proto` of v1 and v2).

use prost::Message;

use crate::containerd::TaskUsage;

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

#[derive(Clone, PartialEq, Message)]
struct MetricsV1 {
    #[prost(message, optional, tag = "2")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "3")]
    cpu: Option<CpuV1>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV1>,
    #[prost(message, optional, tag = "9")]
    memory_oom_control: Option<OomControl>,
}

#[derive(Clone, PartialEq, Message)]
struct Pids {
    #[prost(uint64, tag = "1")]
    current: u64,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV1 {
    #[prost(message, optional, tag = "1")]
    usage: Option<CpuUsageV1>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuUsageV1 {
    #[prost(uint64, tag = "1")]
    total: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV1 {
    #[prost(uint64, tag = "19")]
    total_rss: u64,
    #[prost(uint64, tag = "26")]
    total_pg_fault: u64,
    #[prost(uint64, tag = "27")]
    total_pg_maj_fault: u64,
    #[prost(uint64, tag = "30")]
    total_inactive_file: u64,
    #[prost(message, optional, tag = "33")]
    usage: Option<MemoryEntry>,
    /// Memory and swap together.
    #[prost(message, optional, tag = "34")]
    swap: Option<MemoryEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryEntry {
    #[prost(uint64, tag = "1")]
    limit: u64,
    #[prost(uint64, tag = "2")]
    usage: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OomControl {
    #[prost(uint64, tag = "3")]
    oom_kill: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricsV2 {
    #[prost(message, optional, tag = "1")]
    pids: Option<Pids>,
    #[prost(message, optional, tag = "2")]
    cpu: Option<CpuV2>,
    #[prost(message, optional, tag = "4")]
    memory: Option<MemoryV2>,
    #[prost(message, optional, tag = "8")]
    memory_events: Option<MemoryEvents>,
}

#[derive(Clone, PartialEq, Message)]
struct CpuV2 {
    #[prost(uint64, tag = "1")]
    usage_usec: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryV2 {
    #[prost(uint64, tag = "1")]
    anon: u64,
    #[prost(uint64, tag = "13")]
    inactive_file: u64,
    #[prost(uint64, tag = "18")]
    pgfault: u64,
    #[prost(uint64, tag = "19")]
    pgmajfault: u64,
    #[prost(uint64, tag = "32")]
    usage: u64,
    #[prost(uint64, tag = "33")]
    usage_limit: u64,
    #[prost(uint64, tag = "34")]
    swap_usage: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MemoryEvents {
    #[prost(uint64, tag = "5")]
    oom_kill: u64,
}

/// How many processes the OOM killer took, where the metrics say.
pub(super) fn oom_kills(type_url: &str, value: &[u8]) -> Option<u64> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    match name {
        V1 => Some(MetricsV1::decode(value).ok()?.memory_oom_control?.oom_kill),
        V2 => Some(MetricsV2::decode(value).ok()?.memory_events?.oom_kill),
        _ => None,
    }
}

/// What a task uses, where the metrics say.
pub(super) fn usage(type_url: &str, value: &[u8]) -> Option<TaskUsage> {
    let name = type_url.rsplit('/').next().unwrap_or(type_url);
    match name {
        V1 => usage_v1(MetricsV1::decode(value).ok()?),
        V2 => usage_v2(MetricsV2::decode(value).ok()?),
        _ => None,
    }
}

fn usage_v1(metrics: MetricsV1) -> Option<TaskUsage> {
    let memory = metrics.memory?;
    let used = memory.usage?;
    let both = memory.swap.unwrap_or_default().usage;
    Some(TaskUsage {
        cpu_ns: metrics.cpu?.usage?.total,
        memory_bytes: used.usage,
        memory_limit: used.limit,
        inactive_file: memory.total_inactive_file,
        rss: memory.total_rss,
        faults: memory.total_pg_fault,
        major_faults: memory.total_pg_maj_fault,
        swap_bytes: both.saturating_sub(used.usage),
        tasks: metrics.pids.map(|pids| pids.current),
    })
}

fn usage_v2(metrics: MetricsV2) -> Option<TaskUsage> {
    const NS_PER_US: u64 = 1_000;
    let memory = metrics.memory?;
    Some(TaskUsage {
        cpu_ns: metrics.cpu?.usage_usec.saturating_mul(NS_PER_US),
        memory_bytes: memory.usage,
        memory_limit: memory.usage_limit,
        inactive_file: memory.inactive_file,
        rss: memory.anon,
        faults: memory.pgfault,
        major_faults: memory.pgmajfault,
        swap_bytes: memory.swap_usage,
        tasks: metrics.pids.map(|pids| pids.current),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_versions_tell_what_a_task_uses() {
        let entry = |usage| Some(MemoryEntry { limit: 100, usage });
        let v1 = MetricsV1 {
            pids: Some(Pids { current: 3 }),
            cpu: Some(CpuV1 {
                usage: Some(CpuUsageV1 { total: 5_000 }),
            }),
            memory: Some(MemoryV1 {
                total_rss: 10,
                total_pg_fault: 11,
                total_pg_maj_fault: 12,
                total_inactive_file: 13,
                usage: entry(50),
                swap: entry(58),
            }),
            memory_oom_control: None,
        };
        let v2 = MetricsV2 {
            pids: Some(Pids { current: 3 }),
            cpu: Some(CpuV2 { usage_usec: 5 }),
            memory: Some(MemoryV2 {
                anon: 10,
                inactive_file: 13,
                pgfault: 11,
                pgmajfault: 12,
                usage: 50,
                usage_limit: 100,
                swap_usage: 8,
            }),
            memory_events: None,
        };

        let told = usage(V1, &v1.encode_to_vec()).unwrap();

        assert_eq!(
            (told.cpu_ns, told.memory_bytes, told.swap_bytes),
            (5_000, 50, 8)
        );
        assert_eq!(
            (told.memory_limit, told.inactive_file, told.tasks),
            (100, 13, Some(3))
        );
        assert_eq!(usage(V2, &v2.encode_to_vec()), Some(told));
        assert_eq!(usage(V2, &[]), None);
        assert_eq!(usage("some.other.Metrics", &v2.encode_to_vec()), None);
    }

    #[test]
    fn both_cgroup_versions_tell_their_kills() {
        // Field 9 {field 3: 2} and field 8 {field 5: 7}, after a field that we skip.
        assert_eq!(
            oom_kills(V1, &[0x12, 0x00, 0x4a, 0x02, 0x18, 0x02]),
            Some(2)
        );
        assert_eq!(oom_kills(V2, &[0x42, 0x02, 0x28, 0x07]), Some(7));
    }

    #[test]
    fn metrics_without_the_field_or_of_another_kind_say_nothing() {
        assert_eq!(oom_kills(V1, &[]), None);
        assert_eq!(
            oom_kills("some.other.Metrics", &[0x42, 0x02, 0x28, 0x07]),
            None
        );
        assert_eq!(oom_kills(V2, &[0xff, 0xff]), None);
    }
}
