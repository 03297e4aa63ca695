//! The closed choices that keys offer, spelled in the file as in the CRI world.

use serde::{Deserialize, Serialize};

/// How diagnostics are written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One human-readable line an event.
    Text,
    /// One JSON object a line.
    Json,
}

/// Who owns the cgroup tree of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// `systemd` where `/run/systemd/system` is a directory, else `cgroupfs`.
    Auto,
    /// systemd makes slices and scopes.
    Systemd,
    /// The OCI runtime makes the directories itself.
    Cgroupfs,
}

impl CgroupDriver {
    /// Whether the systemd driver is in use on a host where systemd was (or was not) booted.
    pub const fn is_systemd(self, systemd_booted: bool) -> bool {
        match self {
            Self::Auto => systemd_booted,
            Self::Systemd => true,
            Self::Cgroupfs => false,
        }
    }
}

/// Which of a pod's addresses is its primary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpPreference {
    /// The first IPv4 address, else the first of any kind.
    Ipv4,
    /// The first IPv6 address, else the first of any kind.
    Ipv6,
    /// The first one the plugins named.
    Cni,
}

/// Who unpacks the layers of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unpacker {
    /// podwright where a snapshot is a plain directory, else containerd.
    Auto,
    /// containerd's diff service, always.
    Containerd,
}

/// What becomes of output of a container that is over its quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverQuota {
    /// It is thrown away, and a line in the log says how much.
    Drop,
    /// It is not read, so that the container waits when it writes.
    Block,
}

/// How traces travel to their collector, as the OpenTelemetry specification calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    /// Protobuf in HTTP requests.
    #[serde(rename = "http/protobuf")]
    Http,
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
}

/// When PullImage goes to the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Resolves the tag afresh each time and fetches what is missing.
    Always,
    /// A local image answers.
    IfNotPresent,
    /// Only a local image answers; a missing one is an error.
    Never,
}
