//! What a caller asks of a container, typed. Checked at the door (`wire::convert`), so nothing below re-checks.

use std::collections::BTreeMap;

use super::pod::PodIdentity;
use super::resources::Resources;
use super::security::{
    ApparmorProfile, IdMapping, Namespaces, SeccompProfile, SelinuxOptions,
    SupplementalGroupsPolicy,
};
use super::signal::Signal;

/// Who a container is within its pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerIdentity {
    /// Container name.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
}

impl ContainerIdentity {
    /// The name that containerd's CRI plugin gives the container: `container_pod_namespace_uid_attempt`.
    pub fn reserved_name(&self, pod: &PodIdentity) -> String {
        format!(
            "{}_{}_{}_{}_{}",
            self.name, pod.name, pod.k8s_namespace, pod.uid, self.attempt
        )
    }
}

/// The container half of a CreateContainer request.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerConfig {
    /// Name and attempt.
    pub identity: ContainerIdentity,
    /// The image as PullImage named it: an id, or a reference; resolved locally, never pulled.
    pub image: String,
    /// The image as the user wrote it; empty where the caller did not say.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint where not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd where not empty.
    pub args: Vec<String>,
    /// Working directory; empty means the image's.
    pub working_dir: String,
    /// Environment in order; a key without value is kept as `key=`.
    pub envs: Vec<(String, String)>,
    /// Mounts in the caller's order.
    pub mounts: Vec<Mount>,
    /// Devices in the caller's order.
    pub devices: Vec<Device>,
    /// Fully qualified CDI device names.
    pub cdi_devices: Vec<String>,
    /// Labels, shown back unchanged.
    pub labels: BTreeMap<String, String>,
    /// Annotations, shown back unchanged.
    pub annotations: BTreeMap<String, String>,
    /// Log file below the pod's log directory; empty disables the log.
    pub log_path: String,
    /// Keep stdin open for attach.
    pub stdin: bool,
    /// Close stdin when the first attach ends.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Resource limits; `None` where the caller sent no message.
    pub resources: Option<Resources>,
    /// Security context.
    pub security: ContainerSecurity,
    /// Signal that asks the container to stop; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<Signal>,
}

/// The security context of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSecurity {
    /// Capability changes; `None` leaves the defaults.
    pub capabilities: Option<Capabilities>,
    /// Everything allowed.
    pub privileged: bool,
    /// Which namespaces the container joins.
    pub namespaces: Namespaces,
    /// SELinux options, if any.
    pub selinux: Option<SelinuxOptions>,
    /// User id.
    pub run_as_user: Option<u32>,
    /// Primary group id; needs a user.
    pub run_as_group: Option<u32>,
    /// User name from the image's passwd file; beats `run_as_user`.
    pub run_as_username: String,
    /// Root file system mounted read-only.
    pub readonly_rootfs: bool,
    /// Further group ids.
    pub supplemental_groups: Vec<u32>,
    /// How image groups join in.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Sets `no_new_privs`.
    pub no_new_privs: bool,
    /// Paths made unreadable.
    pub masked_paths: Vec<String>,
    /// Paths made read-only.
    pub readonly_paths: Vec<String>,
    /// Seccomp profile; `None` means unconfined.
    pub seccomp: Option<SeccompProfile>,
    /// AppArmor profile; `None` means the runtime's default.
    pub apparmor: Option<ApparmorProfile>,
}

/// Changes to the default capability set; names without `CAP_`, in any case, `ALL` included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Capabilities to add.
    pub add: Vec<String>,
    /// Capabilities to drop.
    pub drop: Vec<String>,
    /// Ambient capabilities to add.
    pub add_ambient: Vec<String>,
}

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// Where on the host; empty for image mounts.
    pub host_path: String,
    /// Mounted read-only.
    pub readonly: bool,
    /// Submounts read-only as well.
    pub recursive_read_only: bool,
    /// Relabel the source for SELinux.
    pub selinux_relabel: bool,
    /// Which way later mounts travel.
    pub propagation: Propagation,
    /// User ids of an idmapped mount.
    pub uid_mappings: Vec<IdMapping>,
    /// Group ids of an idmapped mount.
    pub gid_mappings: Vec<IdMapping>,
    /// An image to mount instead of a host path.
    pub image: Option<String>,
    /// Directory inside that image.
    pub image_sub_path: String,
    /// Further bind options (`noexec`, `nodev`, `nosuid`).
    pub options: Vec<String>,
}

/// Mount propagation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None either way.
    #[default]
    Private,
    /// Mounts made on the host appear in the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// One device of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Where in the container; empty means as on the host.
    pub container_path: String,
    /// A device node, or a directory of them, on the host.
    pub host_path: String,
    /// cgroup permissions out of `r`, `w`, `m`.
    pub permissions: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserved_name_leaves_the_attempt_of_the_pod_out() {
        let pod = PodIdentity {
            name: "web-1".into(),
            k8s_namespace: "default".into(),
            uid: "u-1".into(),
            attempt: 7,
        };
        let container = ContainerIdentity {
            name: "nginx".into(),
            attempt: 2,
        };

        assert_eq!(container.reserved_name(&pod), "nginx_web-1_default_u-1_2");
    }
}
