//! A node, a pod and a container to start tests from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use serde_json::Value;

use crate::model::classes::Classes;
use crate::model::container::{Mount, Propagation};
use crate::model::host_facts::{
    Arch, CapabilityMask, CgroupVersion, DeviceNode, KernelVersion, SourcePropagation,
};
use crate::model::pod::PodSecurity;
use crate::model::security::{IdMapping, NamespaceMode, UserNamespace};
use crate::model::{
    ContainerConfig, ContainerIdentity, HostFacts, ImageDefaults, Pid, PodConfig, PodIdentity,
    Result,
};

use super::capabilities::CapabilitySet;
use super::input::{
    ContainerInput, ImageVolume, PauseInput, PauseProgram, ResolvedDevice, ResolvedMount,
    SandboxFiles, SelinuxLabels, SpecOptions,
};
use super::user::ProcessUser;

/// A cgroup v2 node with everything but the security modules.
pub(crate) fn host() -> HostFacts {
    HostFacts {
        hostname: "node-1".into(),
        cgroup: CgroupVersion::V2,
        cgroup_superblock_options: vec![
            "rw".into(),
            "nsdelegate".into(),
            "memory_recursiveprot".into(),
        ],
        kernel: KernelVersion::new(6, 1),
        arch: Arch::Amd64,
        has_seccomp: true,
        has_apparmor: false,
        selinux: None,
        has_swap_limit: true,
        has_hugetlb: true,
        in_user_namespace: false,
        capabilities: CapabilityMask(0x1ff_ffff_ffff),
        oom_score_adj: 0,
    }
}

/// The set of these names.
pub(super) fn capability_set(names: &[&str]) -> CapabilitySet {
    let set = names
        .iter()
        .map(|name| name.parse().expect("a capability"))
        .collect();
    CapabilitySet::from_oci(&set)
}

/// A pod with a network of its own and nothing special.
pub(crate) fn pod_config() -> PodConfig {
    PodConfig {
        identity: PodIdentity {
            name: "web".into(),
            k8s_namespace: "shop".into(),
            uid: "7f0c".into(),
            attempt: 0,
        },
        hostname: "web-0".into(),
        log_directory: "/var/log/pods/shop_web_7f0c".into(),
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        cgroup_parent: "/kubepods/pod7f0c".into(),
        sysctls: BTreeMap::new(),
        security: PodSecurity::default(),
        resources: None,
        overhead: None,
    }
}

/// A container that says nothing but its name.
pub(crate) fn container_config() -> ContainerConfig {
    ContainerConfig {
        identity: ContainerIdentity {
            name: "web".into(),
            attempt: 0,
        },
        image: "sha256:aa".into(),
        user_specified_image: String::new(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: "web/0.log".into(),
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: None,
        security: crate::model::container::ContainerSecurity::default(),
        stop_signal: None,
    }
}

/// A private, writable bind of `/src` on a shared mount point.
pub(crate) fn bind(container_path: &str) -> ResolvedMount {
    ResolvedMount {
        asked: Mount {
            container_path: container_path.into(),
            host_path: "/src".into(),
            readonly: false,
            recursive_read_only: false,
            selinux_relabel: false,
            propagation: Propagation::Private,
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            image: None,
            image_sub_path: String::new(),
            options: Vec::new(),
        },
        source: "/real/src".into(),
        propagation: SourcePropagation::Shared,
    }
}

/// A request for a user namespace of 65536 ids from 100000 on.
pub(crate) fn user_namespace() -> UserNamespace {
    let range = IdMapping {
        host_id: 100_000,
        container_id: 0,
        length: 65_536,
    };
    UserNamespace {
        mode: NamespaceMode::Pod,
        uids: vec![range],
        gids: vec![range],
    }
}

/// The sandbox's files where they all exist.
pub(crate) fn files() -> SandboxFiles {
    let file = |name: &str| PathBuf::from(format!("/state/sandboxes/s/{name}"));
    SandboxFiles {
        hostname: Some(file("hostname")),
        hosts: Some(file("hosts")),
        resolv_conf: Some(file("resolv.conf")),
        shm: file("shm"),
    }
}

/// Everything that a container's spec follows from; change a field, then ask for the spec.
pub(crate) struct Case {
    pub(crate) config: ContainerConfig,
    pub(crate) image: ImageDefaults,
    pub(crate) user: ProcessUser,
    pub(crate) pod: PodConfig,
    pub(crate) target_pid: Option<Pid>,
    pub(crate) files: SandboxFiles,
    pub(crate) mounts: Vec<ResolvedMount>,
    pub(crate) volumes: Vec<ImageVolume>,
    pub(crate) devices: Vec<ResolvedDevice>,
    pub(crate) host_devices: Vec<DeviceNode>,
    pub(crate) seccomp_profile: Option<String>,
    pub(crate) selinux: Option<SelinuxLabels>,
    pub(crate) classes: Classes,
    pub(crate) options: SpecOptions,
    pub(crate) host: HostFacts,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            config: container_config(),
            image: ImageDefaults {
                cmd: vec!["/bin/server".into()],
                env: vec!["LANG=C".into()],
                ..ImageDefaults::default()
            },
            user: ProcessUser {
                additional_gids: vec![0],
                ..ProcessUser::default()
            },
            pod: pod_config(),
            target_pid: None,
            files: files(),
            mounts: Vec::new(),
            volumes: Vec::new(),
            devices: Vec::new(),
            host_devices: Vec::new(),
            seccomp_profile: None,
            selinux: None,
            classes: Classes::default(),
            options: SpecOptions::default(),
            host: host(),
        }
    }
}

impl Case {
    pub(crate) fn spec(&self) -> Result<Spec> {
        super::container(&ContainerInput {
            id: &"c".repeat(64).parse().expect("an id"),
            config: &self.config,
            image_name: "registry.test/web:1",
            image: &self.image,
            user: &self.user,
            pod: &self.pod,
            sandbox_id: &"5".repeat(64).parse().expect("an id"),
            sandbox_pid: Pid(4242),
            target_pid: self.target_pid,
            files: &self.files,
            mounts: &self.mounts,
            volumes: &self.volumes,
            devices: &self.devices,
            host_devices: &self.host_devices,
            seccomp_profile: self.seccomp_profile.as_deref(),
            apparmor_loaded: &[],
            selinux: self.selinux.as_ref(),
            classes: &self.classes,
            options: &self.options,
            host: &self.host,
        })
    }

    pub(crate) fn json(&self) -> Value {
        json(&self.spec().expect("a spec"))
    }

    /// The JSON pointers whose values differ from those of an unchanged case.
    pub(crate) fn changes(&self) -> Value {
        difference(&Self::default().json(), &self.json())
    }
}

/// Everything that a pause container's spec follows from.
pub(crate) struct PauseCase {
    pub(crate) config: PodConfig,
    pub(crate) image: Option<ImageDefaults>,
    pub(crate) netns: Option<PathBuf>,
    pub(crate) userns: Option<PathBuf>,
    pub(crate) files: SandboxFiles,
    pub(crate) selinux: Option<SelinuxLabels>,
    pub(crate) options: SpecOptions,
    pub(crate) host: HostFacts,
}

impl Default for PauseCase {
    fn default() -> Self {
        Self {
            config: pod_config(),
            image: None,
            netns: Some("/var/run/netns/cni-1".into()),
            userns: None,
            files: files(),
            selinux: None,
            options: SpecOptions::default(),
            host: host(),
        }
    }
}

impl PauseCase {
    pub(crate) fn spec(&self) -> Result<Spec> {
        let program = match &self.image {
            None => PauseProgram::Embedded,
            Some(defaults) => PauseProgram::Image {
                name: "registry.test/pause:1",
                defaults,
                user: None,
            },
        };
        super::pause(&PauseInput {
            id: &"5".repeat(64).parse().expect("an id"),
            config: &self.config,
            program,
            netns: self.netns.as_deref(),
            userns: self.userns.as_deref(),
            files: &self.files,
            seccomp_profile: None,
            selinux: self.selinux.as_ref(),
            options: &self.options,
            host: &self.host,
        })
    }

    pub(crate) fn json(&self) -> Value {
        json(&self.spec().expect("a spec"))
    }

    /// As [`Case::changes`].
    pub(crate) fn changes(&self) -> Value {
        difference(&Self::default().json(), &self.json())
    }
}

/// A spec as JSON with its sets in order.
pub(crate) fn json(spec: &Spec) -> Value {
    let mut value = serde_json::to_value(spec).expect("a spec is JSON");
    for set in ["bounding", "effective", "permitted"] {
        let list = value.pointer_mut(&format!("/process/capabilities/{set}"));
        if let Some(Value::Array(list)) = list {
            list.sort_by_key(ToString::to_string);
        }
    }
    value
}

/// What `new` has otherwise than `old`, by path: objects are compared key by key, everything else as a whole. Mounts are
/// shown a line each.
fn difference(old: &Value, new: &Value) -> Value {
    let mut found = BTreeMap::new();
    collect("", old, new, &mut found);
    if let Some(Value::Array(mounts)) = found.get_mut("/mounts") {
        for mount in mounts {
            *mount = Value::String(line(mount));
        }
    }
    serde_json::to_value(found).expect("a map is JSON")
}

fn line(mount: &Value) -> String {
    let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
    let options: Vec<&str> = mount["options"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mapped = if mount["uidMappings"].is_null() {
        ""
    } else {
        ", mapped ids"
    };
    format!(
        "{} <- {}({}) {}{mapped}",
        text("destination"),
        text("type"),
        text("source"),
        options.join(",")
    )
}

fn collect(at: &str, old: &Value, new: &Value, found: &mut BTreeMap<String, Value>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys()) {
                let value = |of: &serde_json::Map<String, Value>| {
                    of.get(key).cloned().unwrap_or(Value::Null)
                };
                collect(&format!("{at}/{key}"), &value(old), &value(new), found);
            }
        }
        (_, new) => {
            found.insert(at.to_owned(), new.clone());
        }
    }
}
