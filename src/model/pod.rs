//! What a caller asks of a pod sandbox, typed. Checked at the door (`wire::convert`), so nothing below re-checks.

use std::collections::BTreeMap;

use super::resources::Resources;
use super::security::{Namespaces, SeccompProfile, SelinuxOptions, SupplementalGroupsPolicy};

/// Who a pod is: the tuple that Kubernetes names it by, and the attempt that tells its sandboxes apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodIdentity {
    /// Pod name.
    pub name: String,
    /// Kubernetes namespace of the pod.
    pub k8s_namespace: String,
    /// Pod uid.
    pub uid: String,
    /// How many sandboxes this pod had before.
    pub attempt: u32,
}

impl PodIdentity {
    /// The name that containerd's CRI plugin gives the sandbox: `name_namespace_uid_attempt`.
    pub fn reserved_name(&self) -> String {
        format!(
            "{}_{}_{}_{}",
            self.name, self.k8s_namespace, self.uid, self.attempt
        )
    }
}

/// The whole of a RunPodSandbox request but the runtime handler.
#[derive(Clone, Debug, PartialEq)]
pub struct PodConfig {
    /// Who the pod is.
    pub identity: PodIdentity,
    /// Host name inside the pod's UTS namespace; empty means the node's.
    pub hostname: String,
    /// Absolute directory of the containers' log files; empty where the caller wants none.
    pub log_directory: String,
    /// `None`: take the node's resolv.conf.
    pub dns: Option<DnsConfig>,
    /// Ports that the pod publishes.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, shown back unchanged.
    pub labels: BTreeMap<String, String>,
    /// Annotations, shown back unchanged.
    pub annotations: BTreeMap<String, String>,
    /// Parent cgroup of the pod, in the configured driver's form; empty means the default.
    pub cgroup_parent: String,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Security settings of the pause container and of the pod as a whole.
    pub security: PodSecurity,
    /// Sum of the containers' resources; informative (annotations), no cgroup of ours follows it.
    pub resources: Option<Resources>,
    /// The pod's overhead; informative as `resources` is.
    pub overhead: Option<Resources>,
}

/// The security context of a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSecurity {
    /// Which namespaces the pod shares with the node.
    pub namespaces: Namespaces,
    /// SELinux options, if any.
    pub selinux: Option<SelinuxOptions>,
    /// User id of the pause process.
    pub run_as_user: Option<u32>,
    /// Primary group id of the pause process.
    pub run_as_group: Option<u32>,
    /// Further group ids of the pause process.
    pub supplemental_groups: Vec<u32>,
    /// How image groups join in.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether the pause root is read-only (it always is with the embedded pause).
    pub readonly_rootfs: bool,
    /// Whether privileged containers may be created in the pod.
    pub privileged: bool,
    /// Seccomp profile; `None` means unconfined.
    pub seccomp: Option<SeccompProfile>,
}

/// Resolver settings of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DnsConfig {
    /// Name servers, best first.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options such as `ndots:5`.
    pub options: Vec<String>,
}

/// One published port.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: PortProtocol,
    /// Port inside the pod.
    pub container_port: u16,
    /// Port on the node; `None` publishes nothing.
    pub host_port: Option<u16>,
    /// Address on the node to bind; empty means all.
    pub host_ip: String,
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}
