//! Security contexts of pods and of containers.

use podwright::wire::cri;
use podwright::wire::cri::security_profile::ProfileType;

use super::pods::security;
use super::{Container, FILES, MODES, PROFILES, Request, VARIANTS, selinux, texts, user_namespace};

pub(super) fn all() -> Vec<Request> {
    let mut all = Vec::new();
    for (n, letter) in VARIANTS {
        let mut pod = |name: &str, edit: &dyn Fn(&mut cri::LinuxSandboxSecurityContext)| {
            all.push(Request::new(format!("pod-{name}-{letter}"), |pod| {
                edit(security(pod));
            }));
        };
        pod("selinux", &|s| s.selinux_options = Some(selinux(n)));
        pod("user", &|s| {
            s.run_as_user = Some(cri::Int64Value { value: 1000 + n })
        });
        pod("user-and-group", &|s| {
            s.run_as_user = Some(cri::Int64Value { value: 1000 + n });
            s.run_as_group = Some(cri::Int64Value { value: 3000 + n });
        });
        pod("group-alone", &|s| {
            s.run_as_group = Some(cri::Int64Value { value: n })
        });
        pod("readonly", &|s| s.readonly_rootfs = true);
        pod("groups", &|s| {
            s.supplemental_groups = vec![2000 + n, 5];
            s.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        });
        for (profile, name) in PROFILES {
            pod(&format!("seccomp-{name}"), &|s| {
                s.seccomp = Some(seccomp(profile, n))
            });
            pod(&format!("apparmor-{name}"), &|s| {
                s.apparmor = Some(apparmor(profile, n))
            });
        }
        let legacy = if n == 1 {
            "runtime/default"
        } else {
            "unconfined"
        };
        pod("seccomp-legacy", &|s| {
            s.seccomp_profile_path = legacy.to_owned()
        });
        all.push(privileged(letter));
        all.push(without_devices(letter));
        all.push(contexts(n, letter));
        all.push(namespaces(n, letter));
    }
    all
}

fn seccomp(profile: ProfileType, n: i64) -> cri::SecurityProfile {
    let localhost_ref = if profile == ProfileType::Localhost {
        format!("{FILES}/seccomp-{n}.json")
    } else {
        String::new()
    };
    cri::SecurityProfile {
        profile_type: profile.into(),
        localhost_ref,
    }
}

fn apparmor(profile: ProfileType, n: i64) -> cri::SecurityProfile {
    let localhost_ref = if profile == ProfileType::Localhost {
        format!("parity-profile-{n}")
    } else {
        String::new()
    };
    cri::SecurityProfile {
        profile_type: profile.into(),
        localhost_ref,
    }
}

/// A privileged pod: only in one may a container be privileged.
fn privileged(letter: &str) -> Request {
    let plain = Container::new("plain", |_config| {});
    let alone = Container::secure("alone", |s| s.privileged = true);
    let hedged = Container::secure("hedged", |s| {
        s.privileged = true;
        s.readonly_rootfs = true;
        s.no_new_privs = true;
        s.seccomp = Some(seccomp(ProfileType::RuntimeDefault, 1));
        s.masked_paths = texts(["/proc/kcore"]);
        s.capabilities = Some(cri::Capability {
            drop_capabilities: texts(["ALL"]),
            ..Default::default()
        });
    });
    Request::new(format!("pod-privileged-{letter}"), |pod| {
        security(pod).privileged = true
    })
    .with(vec![plain, alone, hedged])
}

/// A privileged pod of a handler that keeps the host's devices from it.
fn without_devices(letter: &str) -> Request {
    let edit = |pod: &mut cri::PodSandboxConfig| security(pod).privileged = true;
    Request::new(format!("pod-privileged-without-devices-{letter}"), edit)
        .handler("options")
        .with(vec![Container::secure("alone", |s| s.privileged = true)])
}

/// Containers of one plain pod, a field of the security context each.
fn contexts(n: i64, letter: &str) -> Request {
    let mut all = vec![
        Container::secure("nothing", |_context| {}),
        Container::secure("privileged-in-unprivileged", |s| s.privileged = true),
        Container::secure("selinux", |s| s.selinux_options = Some(selinux(n))),
        Container::secure("user", |s| {
            s.run_as_user = Some(cri::Int64Value { value: n })
        }),
        Container::secure("user-and-group", |s| {
            s.run_as_user = Some(cri::Int64Value { value: 1000 + n });
            s.run_as_group = Some(cri::Int64Value { value: 3000 + n });
        }),
        Container::secure("group-alone", |s| {
            s.run_as_group = Some(cri::Int64Value { value: 3000 + n });
        }),
        Container::secure("user-by-name", |s| {
            s.run_as_username = String::from(if n == 1 { "root" } else { "nobody" });
        }),
        Container::secure("user-unknown", |s| {
            s.run_as_username = format!("nobody-{n}")
        }),
        Container::secure("readonly", |s| s.readonly_rootfs = true),
        Container::secure("no-new-privileges", |s| s.no_new_privs = true),
        Container::secure("groups-merged", |s| {
            s.supplemental_groups = vec![2000 + n, 5];
        }),
        Container::secure("groups-strict", |s| {
            s.run_as_user = Some(cri::Int64Value { value: 1000 + n });
            s.supplemental_groups = vec![2000 + n, 5];
            s.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        }),
        Container::secure("masked", |s| {
            s.masked_paths = vec![format!("/proc/masked{n}"), String::from("/proc/kcore")];
        }),
        Container::secure("readonly-paths", |s| {
            s.readonly_paths = vec![format!("/proc/readonly{n}"), String::from("/tmp")];
        }),
        Container::secure("seccomp-legacy", |s| {
            s.seccomp_profile_path = if n == 1 {
                String::from("docker/default")
            } else {
                format!("localhost/{FILES}/seccomp-1.json")
            };
        }),
        Container::secure("apparmor-legacy", |s| {
            s.apparmor_profile = if n == 1 {
                String::from("unconfined")
            } else {
                String::from("localhost/parity-profile-1")
            };
        }),
        Container::secure("seccomp-with-capabilities", |s| {
            s.seccomp = Some(seccomp(ProfileType::RuntimeDefault, n));
            s.capabilities = Some(cri::Capability {
                add_capabilities: texts(["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYS_TIME"]),
                ..Default::default()
            });
        }),
    ];
    for (profile, name) in PROFILES {
        all.push(Container::secure(format!("seccomp-{name}"), |s| {
            s.seccomp = Some(seccomp(profile, n));
        }));
        all.push(Container::secure(format!("apparmor-{name}"), |s| {
            s.apparmor = Some(apparmor(profile, n));
        }));
    }
    all.extend(capabilities(n));
    Request::new(format!("contexts-{letter}"), |_pod| {}).with(all)
}

fn capabilities(n: i64) -> Vec<Container> {
    let container = |name: &str, add: &[&str], drop: &[&str], ambient: &[&str]| {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Container::secure(format!("capabilities-{name}"), |s| {
            s.capabilities = Some(cri::Capability {
                add_capabilities: names(add),
                drop_capabilities: names(drop),
                add_ambient_capabilities: names(ambient),
            });
        })
    };
    if n == 1 {
        vec![
            container("added", &["NET_ADMIN"], &[], &[]),
            container("dropped", &[], &["NET_RAW", "CHOWN"], &[]),
            container("all-but-one", &["ALL"], &["SYS_ADMIN"], &[]),
            container("one-of-none", &["SYS_TIME"], &["all"], &[]),
            container("ambient", &["NET_BIND_SERVICE"], &[], &["NET_BIND_SERVICE"]),
        ]
    } else {
        vec![
            container("both", &["SYS_PTRACE", "NET_ADMIN"], &["KILL"], &[]),
            container("all-and-none", &["ALL"], &["ALL"], &[]),
            container("in-small-letters", &["net_admin"], &["kill"], &[]),
            container("ambient", &["SYS_TIME"], &[], &["SYS_TIME"]),
        ]
    }
}

/// Containers with namespaces of their own, of the pod, of the node and of another container.
fn namespaces(n: i64, letter: &str) -> Request {
    let mut all = vec![Container::new("neighbour", |_config| {}).started()];
    for (mode, name) in MODES {
        let target = if mode == cri::NamespaceMode::Target {
            String::from(if n == 1 {
                super::NEIGHBOUR
            } else {
                "no-such-container"
            })
        } else {
            String::new()
        };
        let mut kind = |kind: &str, edit: &dyn Fn(&mut cri::NamespaceOption)| {
            all.push(Container::secure(format!("{kind}-{name}"), |s| {
                let mut options = cri::NamespaceOption {
                    target_id: target.clone(),
                    ..Default::default()
                };
                edit(&mut options);
                s.namespace_options = Some(options);
            }));
        };
        kind("network", &|o| o.network = mode.into());
        kind("pid", &|o| o.pid = mode.into());
        kind("ipc", &|o| o.ipc = mode.into());
        kind("userns", &|o| {
            o.userns_options = Some(user_namespace(mode, n))
        });
    }
    Request::new(format!("namespaces-{letter}"), |_pod| {}).with(all)
}
