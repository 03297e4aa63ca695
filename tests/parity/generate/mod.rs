//! The requests, a group of fields each, small enough that a difference says where it comes from.
//!
//! Almost every group comes twice, with other values, since one sighting of a field proves little: a constant would
//! pass as well. `descriptor` proves that nothing is left out.

mod cdi;
mod containers;
mod kubelet;
mod pods;
#[expect(
    deprecated,
    reason = "kubelets of today still send the deprecated fields"
)]
mod security;

use podwright::wire::cri;

/// Stands for what only the run knows: the folder of the server's logs, the cgroup parent, and the run's own files.
pub(crate) const LOGS: &str = "@logs@";
pub(crate) const CGROUP: &str = "@cgroup@";
pub(crate) const FILES: &str = "@files@";
/// Stands for the id of the container that the request created first.
pub(crate) const NEIGHBOUR: &str = "@neighbour@";
/// The image of every container that does not test images.
pub(crate) const IMAGE: &str = "podwright.local/busybox:1";

/// The image whose configuration sets everything that a container takes from it.
pub(crate) const RICH_IMAGE: &str = "podwright.local/rich:1";

/// A pod, and the containers that are created in it one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) pod: cri::PodSandboxConfig,
    pub(crate) handler: String,
    pub(crate) containers: Vec<Container>,
    /// Overhead and resources that the pod gets once it runs.
    pub(crate) update: Option<(cri::LinuxContainerResources, cri::LinuxContainerResources)>,
}

/// A container, and what happens to it once it is created.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) config: cri::ContainerConfig,
    /// It is started, looked at, stopped, and looked at again.
    pub(crate) is_started: bool,
    pub(crate) updates: Vec<cri::LinuxContainerResources>,
}

impl Request {
    /// A request with one plain container, so that its pod configuration also comes as `sandbox_config`.
    fn new(name: impl Into<String>, edit: impl FnOnce(&mut cri::PodSandboxConfig)) -> Self {
        let name = name.into();
        let mut pod = pod(&name);
        edit(&mut pod);
        let own = format!("of-{name}");
        Self {
            name,
            pod,
            update: None,
            handler: String::new(),
            containers: vec![Container::new("plain", |config| {
                // Where the pod is refused, many of these come to stand in one pod.
                config
                    .metadata
                    .get_or_insert_default()
                    .name
                    .clone_from(&own);
            })],
        }
    }

    fn handler(mut self, handler: &str) -> Self {
        self.handler = handler.to_owned();
        self
    }

    fn with(mut self, containers: Vec<Container>) -> Self {
        self.containers = containers;
        self
    }

    pub(crate) fn run(&self) -> cri::RunPodSandboxRequest {
        cri::RunPodSandboxRequest {
            config: Some(self.pod.clone()),
            runtime_handler: self.handler.clone(),
        }
    }

    pub(crate) fn create(&self, container: &Container, pod: &str) -> cri::CreateContainerRequest {
        cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(container.config.clone()),
            sandbox_config: Some(self.pod.clone()),
        }
    }
}

impl Container {
    fn new(name: impl Into<String>, edit: impl FnOnce(&mut cri::ContainerConfig)) -> Self {
        let name = name.into();
        let mut config = container(&name);
        edit(&mut config);
        Self {
            name,
            config,
            is_started: false,
            updates: Vec::new(),
        }
    }

    /// A container whose `linux.security_context` is edited.
    fn secure(
        name: impl Into<String>,
        edit: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> Self {
        Self::new(name, |config| {
            let linux = config.linux.get_or_insert_default();
            edit(linux.security_context.get_or_insert_default());
        })
    }

    fn started(mut self) -> Self {
        self.is_started = true;
        self
    }

    fn updated(mut self, resources: cri::LinuxContainerResources) -> Self {
        self.updates.push(resources);
        self
    }
}

/// What every pod has: an identity, logs, and a cgroup that goes away with the run.
fn pod(name: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: String::from("parity"),
            attempt: 0,
        }),
        log_directory: format!("{LOGS}/{name}"),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("{CGROUP}/{name}"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What every container has.
fn container(name: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image(IMAGE)),
        command: vec![String::from("/bin/sleep"), String::from("1000")],
        log_path: format!("{name}/0.log"),
        linux: Some(cri::LinuxContainerConfig::default()),
        ..Default::default()
    }
}

fn image(name: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

/// Both variants of a group: its number and its letter.
const VARIANTS: [(i64, &str); 2] = [(1, "a"), (2, "b")];
const MODES: [(cri::NamespaceMode, &str); 4] = [
    (cri::NamespaceMode::Pod, "pod"),
    (cri::NamespaceMode::Container, "container"),
    (cri::NamespaceMode::Node, "node"),
    (cri::NamespaceMode::Target, "target"),
];
const PROFILES: [(cri::security_profile::ProfileType, &str); 3] = [
    (
        cri::security_profile::ProfileType::RuntimeDefault,
        "default",
    ),
    (cri::security_profile::ProfileType::Unconfined, "unconfined"),
    (cri::security_profile::ProfileType::Localhost, "localhost"),
];

fn texts<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(String::from).to_vec()
}

fn map<const N: usize>(pairs: [(&str, String); N]) -> std::collections::BTreeMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

fn unified(n: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        unified: map([("memory.high", (n << 26).to_string())]),
        ..Default::default()
    }
}

/// Every field of a resources message but `unified`, which cgroup v1 does not have. The values are in the range that
/// the kernel takes.
fn resources(n: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: 100_000 * n,
        cpu_quota: 50_000 * n,
        cpu_shares: 512 * n,
        memory_limit_in_bytes: (64 << 20) * n,
        oom_score_adj: 100 * n,
        cpuset_cpus: String::from(if n == 1 { "0" } else { "0-1" }),
        cpuset_mems: String::from(if n == 1 { "0" } else { "0-0" }),
        hugepage_limits: vec![cri::HugepageLimit {
            page_size: String::from(if n == 1 { "2MB" } else { "1GB" }),
            limit: (1 << 30) * n.unsigned_abs(),
        }],
        unified: std::collections::BTreeMap::new(),
        memory_swap_limit_in_bytes: (128 << 20) * n,
    }
}

/// A mapping of `container_id` and what follows. User namespaces have to begin at 0.
fn mappings(n: i64, container_id: u32) -> Vec<cri::IdMapping> {
    let n = u32::try_from(n).unwrap_or(1);
    vec![cri::IdMapping {
        host_id: 100_000 * n,
        container_id,
        length: 65_535 + n,
    }]
}

/// The mode of the pod is the one that may succeed, so its mappings begin with root.
fn user_namespace(mode: cri::NamespaceMode, n: i64) -> cri::UserNamespace {
    let first = if mode == cri::NamespaceMode::Pod {
        0
    } else {
        u32::try_from(n).unwrap_or(1)
    };
    cri::UserNamespace {
        mode: mode.into(),
        uids: mappings(n, first),
        gids: mappings(3 - n, first),
    }
}

fn selinux(n: i64) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: format!("user{n}_u"),
        role: format!("role{n}_r"),
        r#type: format!("type{n}_t"),
        level: format!("s0:c{n},c9"),
    }
}

/// Every request of a run.
pub(crate) fn all() -> Vec<Request> {
    let mut all = pods::all();
    all.extend(security::all());
    all.extend(containers::all());
    all.extend(kubelet::all());
    all
}
