//! Whole requests as a kubelet makes them, since fields also have to go together.

use podwright::wire::cri;
use podwright::wire::cri::security_profile::ProfileType;

use super::pods::{linux, security};
use super::{CGROUP, Container, FILES, IMAGE, Request, map, texts};

/// What kubelet hides and protects in a container's `/proc` and `/sys`.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
];
const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn all() -> Vec<Request> {
    vec![
        pod("burstable", cri::NamespaceMode::Pod, |_context| {}),
        pod("on-host", cri::NamespaceMode::Node, |_context| {}),
        pod("restricted", cri::NamespaceMode::Pod, |s| {
            s.run_as_user = Some(cri::Int64Value { value: 1000 });
            s.run_as_group = Some(cri::Int64Value { value: 3000 });
            s.supplemental_groups = vec![2000];
            s.no_new_privs = true;
            s.readonly_rootfs = true;
            s.seccomp = Some(cri::SecurityProfile {
                profile_type: ProfileType::RuntimeDefault.into(),
                ..Default::default()
            });
            s.capabilities = Some(cri::Capability {
                drop_capabilities: texts(["ALL"]),
                ..Default::default()
            });
        }),
    ]
}

/// A pod whose namespaces are all of `mode`, and a container of it that runs.
fn pod(
    name: &str,
    mode: cri::NamespaceMode,
    edit: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
) -> Request {
    let options = cri::NamespaceOption {
        network: mode.into(),
        // A PID namespace for each container is the default.
        pid: if mode == cri::NamespaceMode::Node {
            mode.into()
        } else {
            cri::NamespaceMode::Container.into()
        },
        ipc: mode.into(),
        ..Default::default()
    };
    let uid = "0f3c1c2e-0b7a-4f0e-9a53-3a3f1b1c7d11";
    let mut request = Request::new(format!("kubelet-{name}"), |pod| {
        pod.labels = map([
            ("app", String::from("web")),
            ("io.kubernetes.pod.name", name.to_owned()),
            ("io.kubernetes.pod.namespace", String::from("parity")),
            ("io.kubernetes.pod.uid", uid.to_owned()),
        ]);
        pod.annotations = map([("kubernetes.io/config.source", String::from("api"))]);
        if mode == cri::NamespaceMode::Pod {
            pod.hostname = name.to_owned();
        }
        pod.dns_config = Some(cri::DnsConfig {
            servers: texts(["10.96.0.10"]),
            searches: texts(["parity.svc.cluster.local", "svc.cluster.local"]),
            options: texts(["ndots:5"]),
        });
        linux(pod).cgroup_parent = format!("{CGROUP}/kubepods/burstable/pod{uid}");
        linux(pod).overhead = Some(cri::LinuxContainerResources::default());
        linux(pod).resources = Some(resources());
        security(pod).namespace_options = Some(options.clone());
        security(pod).seccomp = Some(cri::SecurityProfile {
            profile_type: ProfileType::RuntimeDefault.into(),
            ..Default::default()
        });
    });
    let mut context = cri::LinuxContainerSecurityContext {
        namespace_options: Some(options),
        run_as_user: Some(cri::Int64Value { value: 0 }),
        masked_paths: texts(MASKED),
        readonly_paths: texts(READONLY),
        seccomp: Some(cri::SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    edit(&mut context);
    request.containers = vec![
        container("web", context.clone()),
        container("sidecar", context),
    ];
    request
}

fn resources() -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 256,
        memory_limit_in_bytes: 128 << 20,
        // In Kubernetes between 2 and 999 for such a pod.
        oom_score_adj: 968,
        // Kubelet names each page size of the node.
        hugepage_limits: ["2MB", "1GB"]
            .map(|size| cri::HugepageLimit {
                page_size: size.to_owned(),
                limit: 0,
            })
            .to_vec(),
        ..Default::default()
    }
}

fn container(name: &str, context: cri::LinuxContainerSecurityContext) -> Container {
    let mount = |container_path: &str, host_path: &str, readonly: bool| cri::Mount {
        container_path: container_path.to_owned(),
        host_path: format!("{FILES}/{host_path}"),
        readonly,
        selinux_relabel: true,
        ..Default::default()
    };
    Container::new(name, |c| {
        c.image = Some(cri::ImageSpec {
            image: IMAGE.to_owned(),
            user_specified_image: IMAGE.to_owned(),
            annotations: map([("io.kubernetes.container.hash", String::from("7d1f"))]),
            ..Default::default()
        });
        c.envs = [
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
            "KUBERNETES_SERVICE_PORT=443",
        ]
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .map(|(key, value)| cri::KeyValue {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
        })
        .collect();
        c.mounts = vec![
            mount(
                "/var/run/secrets/kubernetes.io/serviceaccount",
                "volume-1",
                true,
            ),
            mount("/etc/hosts", "volume-2/file", false),
            mount("/dev/termination-log", "volume-1/file", false),
        ];
        c.labels = map([
            ("io.kubernetes.container.name", name.to_owned()),
            ("io.kubernetes.pod.namespace", String::from("parity")),
        ]);
        c.annotations = map([
            ("io.kubernetes.container.hash", String::from("7d1f")),
            ("io.kubernetes.container.restartCount", String::from("0")),
            (
                "io.kubernetes.container.terminationMessagePath",
                String::from("/dev/termination-log"),
            ),
        ]);
        c.linux = Some(cri::LinuxContainerConfig {
            resources: Some(resources()),
            security_context: Some(context),
        });
    })
    .started()
}
