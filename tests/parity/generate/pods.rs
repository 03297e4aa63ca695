//! Pods: identity, names, ports, cgroups, resources, sysctls, namespaces, Windows.

use podwright::wire::cri;

use super::{
    CGROUP, Container, LOGS, MODES, Request, VARIANTS, map, resources, unified, user_namespace,
};

pub(super) fn all() -> Vec<Request> {
    let mut all = vec![
        Request::new("bare", |pod| pod.linux = None),
        Request::new("plain", |_pod| {}),
        Request::new("no-logs", |pod| pod.log_directory = String::new()),
    ];
    for (n, letter) in VARIANTS {
        all.push(identity(n, letter));
        all.push(Request::new(format!("dns-{letter}"), |pod| {
            pod.dns_config = Some(cri::DnsConfig {
                servers: vec![format!("10.0.0.{n}"), String::from("8.8.8.8")],
                searches: vec![format!("search{n}.example"), String::from("example")],
                options: vec![format!("ndots:{n}"), String::from("edns0")],
            });
        }));
        all.push(ports(n, letter));
        all.push(Request::new(format!("cgroup-{letter}"), |pod| {
            linux(pod).cgroup_parent = format!("{CGROUP}/burstable/pod{n}");
        }));
        all.push(Request::new(format!("overhead-{letter}"), |pod| {
            linux(pod).overhead = Some(everything(n));
        }));
        all.push(Request {
            update: Some((everything(3 - n), resources(n))),
            ..Request::new(format!("resources-{letter}"), |pod| {
                linux(pod).resources = Some(everything(n));
            })
        });
        all.push(Request::new(format!("sysctls-{letter}"), |pod| {
            linux(pod).sysctls = map([
                ("kernel.shm_rmid_forced", (n - 1).to_string()),
                ("net.ipv4.ip_unprivileged_port_start", (n * 100).to_string()),
            ]);
        }));
    }
    all.push(Request::new("handler-named", |_pod| {}).handler("runc"));
    all.push(Request::new("handler-unknown", |_pod| {}).handler("nowhere"));
    all.push(annotated());
    all.push(without_userns());
    all.push(Request::new("handler-options", |_pod| {}).handler("options"));
    all.extend(namespaces());
    all
}

pub(super) fn linux(pod: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    pod.linux.get_or_insert_default()
}

pub(super) fn security(pod: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(pod).security_context.get_or_insert_default()
}

/// Sums of a pod, which go into annotations and no cgroup.
fn everything(n: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        unified: unified(n).unified,
        ..resources(n)
    }
}

fn identity(n: i64, letter: &str) -> Request {
    Request::new(format!("identity-{letter}"), |pod| {
        pod.metadata = Some(cri::PodSandboxMetadata {
            name: format!("name-{letter}"),
            uid: format!("uid-{letter}"),
            namespace: format!("namespace-{letter}"),
            attempt: u32::try_from(n).unwrap_or(1),
        });
        pod.hostname = format!("host-{letter}");
        pod.log_directory = format!("{LOGS}/elsewhere-{letter}");
        pod.labels = map([
            ("io.kubernetes.pod.name", format!("name-{letter}")),
            ("app", format!("app-{n}")),
        ]);
        pod.annotations = map([
            ("io.example/note", format!("note {n}")),
            (
                "kubernetes.io/config.seen",
                format!("2026-01-0{n}T00:00:00Z"),
            ),
        ]);
    })
}

/// A handler that lets annotations through to the OCI runtime, and another OCI runtime.
fn annotated() -> Request {
    Request::new("handler-annotated", |pod| {
        pod.annotations = map([
            ("io.example.pass/pod", String::from("through")),
            ("io.other/pod", String::from("not through")),
        ]);
    })
    .handler("annotated")
}

fn ports(n: i64, letter: &str) -> Request {
    let n = i32::try_from(n).unwrap_or(1);
    let port = |protocol: cri::Protocol, host_port: i32| cri::PortMapping {
        protocol: protocol.into(),
        container_port: 80 + n,
        host_port,
        host_ip: format!("127.0.0.{n}"),
    };
    Request::new(format!("ports-{letter}"), |pod| {
        pod.port_mappings = vec![
            port(cri::Protocol::Tcp, 8080 + n),
            port(cri::Protocol::Udp, 9090 + n),
            port(cri::Protocol::Sctp, 0),
        ];
    })
}

/// Windows' own fields, which neither server looks at on Linux.
fn windows(n: i64, mode: cri::NamespaceMode) -> cri::WindowsPodSandboxConfig {
    cri::WindowsPodSandboxConfig {
        security_context: Some(cri::WindowsSandboxSecurityContext {
            run_as_username: format!("user{n}"),
            credential_spec: format!("{{\"n\":{n}}}"),
            host_process: true,
            namespace_options: Some(cri::WindowsNamespaceOption {
                network: mode.into(),
            }),
        }),
    }
}

/// A pod that says that it wants no user namespace, a container that says so, too, and one that says nothing.
fn without_userns() -> Request {
    let options = cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Node.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let alike = options.clone();
    let alike = Container::secure("alike", move |s| s.namespace_options = Some(alike));
    Request::new("userns-none", |pod| {
        security(pod).namespace_options = Some(options)
    })
    .with(vec![alike, Container::new("silent", |_config| {})])
}

/// Each kind of namespace in each mode, and user namespaces, which few machines can make.
fn namespaces() -> Vec<Request> {
    let mut all = Vec::new();
    for (mode, name) in MODES {
        for (n, letter) in VARIANTS {
            // The second variant goes with the host's network, which changes what the other namespaces may be.
            let others = if n == 1 {
                cri::NamespaceMode::Pod
            } else {
                cri::NamespaceMode::Node
            };
            let target = if mode == cri::NamespaceMode::Target {
                format!("target-{letter}")
            } else {
                String::new()
            };
            let mut kind = |kind: &str, edit: &dyn Fn(&mut cri::NamespaceOption)| {
                let mut options = cri::NamespaceOption {
                    network: others.into(),
                    target_id: target.clone(),
                    ..Default::default()
                };
                edit(&mut options);
                let alike = options.clone();
                let has_users = mode == cri::NamespaceMode::Pod && alike.userns_options.is_some();
                let request = Request::new(format!("{kind}-{name}-{letter}"), |pod| {
                    security(pod).namespace_options = Some(options);
                    pod.windows = Some(windows(n, mode));
                });
                // A container is in its pod's user namespace or nowhere.
                let alike = Container::secure("alike", |s| s.namespace_options = Some(alike));
                all.push(if has_users {
                    request.with(vec![alike])
                } else {
                    request
                });
            };
            if n == 1 {
                kind("network", &|o| o.network = mode.into());
            } else {
                kind("network", &|o| {
                    (o.network, o.pid, o.ipc) = (mode.into(), mode.into(), mode.into());
                });
            }
            kind("pid", &|o| o.pid = mode.into());
            kind("ipc", &|o| o.ipc = mode.into());
            kind("userns", &|o| {
                o.userns_options = Some(user_namespace(mode, n))
            });
        }
    }
    all
}
