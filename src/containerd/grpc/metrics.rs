//! The few fields of the shims' cgroup metrics that we read (containerd/cgroups, `metrics.proto` of v1 and v2).

use prost::Message;

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

#[derive(Clone, PartialEq, Message)]
struct MetricsV1 {
    #[prost(message, optional, tag = "9")]
    memory_oom_control: Option<OomControl>,
}

#[derive(Clone, PartialEq, Message)]
struct OomControl {
    #[prost(uint64, tag = "3")]
    oom_kill: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricsV2 {
    #[prost(message, optional, tag = "8")]
    memory_events: Option<MemoryEvents>,
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

#[cfg(test)]
mod tests {
    use super::*;

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
