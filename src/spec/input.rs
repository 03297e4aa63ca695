//! What the builders are given: everything already looked up, resolved and read.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::model::classes::Classes;
use crate::model::container::{Device, Mount};
use crate::model::host_facts::{
    CgroupDriver, CgroupVersion, DeviceNode, HostFacts, SourcePropagation,
};
use crate::model::{
    Classify, ContainerConfig, ContainerId, ImageDefaults, Kind, Pid, PodConfig, Result, SandboxId,
};

use super::user::ProcessUser;

/// Settings of the node and of one runtime handler that shape specs.
#[derive(Clone, Debug)]
pub struct SpecOptions {
    /// Who makes cgroups for this handler's OCI runtime.
    pub cgroup_driver: CgroupDriver,
    /// Patterns of pod annotations that reach the OCI runtime.
    pub pod_annotations: Vec<String>,
    /// Patterns of container annotations that reach the OCI runtime.
    pub container_annotations: Vec<String>,
    /// Privileged containers get no device nodes of the host.
    pub privileged_without_host_devices: bool,
    /// With the former: they may still open every device that they make themselves.
    pub privileged_without_host_devices_all_allowed: bool,
    /// Containers may write to their cgroup file system.
    pub cgroup_writable: bool,
    /// The OCI runtime knows the mount option `rro`.
    pub runtime_has_rro: bool,
    /// Pods with their own network may bind ports below 1024 without privilege.
    pub unprivileged_ports: bool,
    /// Pods with their own network may send ICMP echo without privilege.
    pub unprivileged_icmp: bool,
    /// Device nodes belong to the container's user instead of their owner on the host.
    pub device_ownership_from_security_context: bool,
    /// Keep the default masked and read-only paths whatever a container asks.
    pub ignore_proc_mount: bool,
    /// Replaces the built-in defaults of workload containers.
    pub base: Option<Box<Spec>>,
}

impl SpecOptions {
    /// Takes the base of workload specs from the JSON of an OCI spec.
    ///
    /// # Errors
    /// `InvalidArgument` where it is none.
    pub fn read_base(&mut self, json: &[u8]) -> Result<()> {
        let what = || "an OCI spec in JSON".to_owned();
        let text = std::str::from_utf8(json).classify(Kind::InvalidArgument, what)?;
        let base = super::codec::decode_spec(text).classify(Kind::InvalidArgument, what)?;
        self.base = Some(Box::new(base));
        Ok(())
    }
}

impl Default for SpecOptions {
    fn default() -> Self {
        Self {
            cgroup_driver: CgroupDriver::Cgroupfs,
            pod_annotations: Vec::new(),
            container_annotations: Vec::new(),
            privileged_without_host_devices: false,
            privileged_without_host_devices_all_allowed: false,
            cgroup_writable: false,
            runtime_has_rro: false,
            unprivileged_ports: true,
            unprivileged_icmp: true,
            device_ownership_from_security_context: false,
            ignore_proc_mount: false,
            base: None,
        }
    }
}

/// What the pause container runs.
#[derive(Clone, Copy, Debug)]
pub enum PauseProgram<'a> {
    /// The embedded program, in its own read-only root.
    Embedded,
    /// An image chosen by the operator.
    Image {
        /// Name of the image, for annotations.
        name: &'a str,
        /// Its defaults.
        defaults: &'a ImageDefaults,
        /// Its `user`, resolved in its own root; `None` where it names none.
        user: Option<&'a ProcessUser>,
    },
}

/// Everything that the spec of a pause container follows from.
#[derive(Clone, Copy, Debug)]
pub struct PauseInput<'a> {
    /// Id of the sandbox.
    pub id: &'a SandboxId,
    /// What was asked.
    pub config: &'a PodConfig,
    /// What it runs.
    pub program: PauseProgram<'a>,
    /// The pinned network namespace; `None` on the node's network.
    pub netns: Option<&'a Path>,
    /// The pinned user namespace; `None` where the OCI runtime makes it, or where there is none.
    pub userns: Option<&'a Path>,
    /// The sandbox's files.
    pub files: &'a SandboxFiles,
    /// Text of the `Localhost` seccomp profile, where the config names one.
    pub seccomp_profile: Option<&'a str>,
    /// Labels of the pod, on nodes with SELinux.
    pub selinux: Option<&'a SelinuxLabels>,
    /// Settings.
    pub options: &'a SpecOptions,
    /// The node.
    pub host: &'a HostFacts,
}

/// Files of a sandbox that its containers mount. `None`: the file does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxFiles {
    /// `/etc/hostname`.
    pub hostname: Option<PathBuf>,
    /// `/etc/hosts`.
    pub hosts: Option<PathBuf>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// `/dev/shm`: the pod's own, or the host's where IPC is the node's.
    pub shm: PathBuf,
}

/// SELinux labels, computed and reserved by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelinuxLabels {
    /// Of processes.
    pub process: String,
    /// Of files.
    pub mount: String,
}

/// Everything that the spec of a workload container follows from.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInput<'a> {
    /// Id of the container.
    pub id: &'a ContainerId,
    /// What was asked.
    pub config: &'a ContainerConfig,
    /// Name of the image as resolved locally.
    pub image_name: &'a str,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// Who the process is, from [`super::user::resolve`].
    pub user: &'a ProcessUser,
    /// The pod as this request describes it: the authority on host name, cgroup parent and pod annotations.
    pub pod: &'a PodConfig,
    /// Id of the sandbox.
    pub sandbox_id: &'a SandboxId,
    /// Its pause process, whose namespaces the container joins.
    pub sandbox_pid: Pid,
    /// Init process of the container whose PID namespace is joined, where the config names one.
    pub target_pid: Option<Pid>,
    /// The sandbox's files.
    pub files: &'a SandboxFiles,
    /// The config's mounts in its order, sources resolved.
    pub mounts: &'a [ResolvedMount],
    /// Volumes that the image declares, sources made.
    pub volumes: &'a [ImageVolume],
    /// The config's devices in its order, looked up on the host.
    pub devices: &'a [ResolvedDevice],
    /// All device nodes of the host; read only for privileged containers.
    pub host_devices: &'a [DeviceNode],
    /// Text of the `Localhost` seccomp profile, where the config names one.
    pub seccomp_profile: Option<&'a str>,
    /// Names of the AppArmor profiles that the kernel holds.
    pub apparmor_loaded: &'a [String],
    /// Labels of the container, on nodes with SELinux.
    pub selinux: Option<&'a SelinuxLabels>,
    /// What the classes of service mean that annotations name.
    pub classes: &'a Classes,
    /// Settings.
    pub options: &'a SpecOptions,
    /// The node.
    pub host: &'a HostFacts,
}

impl ContainerInput<'_> {
    /// Whether the container sees only its own part of the cgroup tree.
    pub(super) fn has_cgroup_namespace(&self) -> bool {
        self.host.cgroup == CgroupVersion::V2 && !self.config.security.privileged
    }
}

/// A mount of the config beside what its source turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedMount {
    /// What was asked.
    pub asked: Mount,
    /// The host path with links resolved, or the directory of a mounted image.
    pub source: PathBuf,
    /// Peers of the mount point that holds the source.
    pub propagation: SourcePropagation,
}

/// A volume that the image declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageVolume {
    /// As the image spells it; relative paths count from `/`.
    pub destination: String,
    /// The directory made for it.
    pub source: PathBuf,
}

/// A device of the config beside the nodes that it turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedDevice {
    /// What was asked.
    pub asked: Device,
    /// The nodes, each with its path below the asked one: empty for the asked path itself.
    pub nodes: Vec<(PathBuf, DeviceNode)>,
}
