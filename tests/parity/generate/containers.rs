//! Containers: process, environment, mounts, devices, resources, images, signals, streams.

use podwright::wire::cri;

use super::{
    Container, FILES, IMAGE, RICH_IMAGE, Request, VARIANTS, image, map, mappings, resources, texts,
    unified,
};

pub(super) fn all() -> Vec<Request> {
    let mut all = Vec::new();
    for (n, letter) in VARIANTS {
        let group = |name: &str, containers: Vec<Container>| {
            Request::new(format!("{name}-{letter}"), |_pod| {}).with(containers)
        };
        all.push(group("process", process(n)));
        all.push(group("streams", streams(n)));
        all.push(group("mounts", mounts(n)));
        all.push(group("devices", devices(n)));
        all.push(group("cdi", super::cdi::containers(n)));
        all.push(group("limits", limits(n)));
        all.push(group("images", images(n)));
        all.push(group("other", other(n)));
        all.push(group("signals", signals()));
        all.push(with_hostname(n, letter));
        all.push(annotated(n, letter));
    }
    all
}

fn process(n: i64) -> Vec<Container> {
    let variable = |key: &str, value: &str| cri::KeyValue {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
    };
    vec![
        Container::new("nothing", |c| c.command.clear()),
        Container::new("arguments-alone", |c| {
            c.command.clear();
            c.args = vec![String::from("/bin/echo"), format!("only {n}")];
        }),
        Container::new("command-and-arguments", |c| {
            c.command = vec![String::from("/bin/echo")];
            c.args = vec![format!("argument {n}"), String::new()];
        }),
        Container::new("working-directory", |c| {
            c.working_dir = format!("/made/for/{n}")
        }),
        Container::new("environment", |c| {
            c.envs = vec![
                variable("PLAIN", &format!("value {n}")),
                variable("EMPTY", ""),
                variable("TWICE", "first"),
                variable("TWICE", "second"),
            ];
        }),
        Container::new("environment-overrides", |c| {
            c.envs = vec![
                variable("PATH", &format!("/only/{n}")),
                variable("HOSTNAME", "other"),
                variable("TERM", "dumb"),
            ];
            c.tty = true;
        }),
        Container::new("identity", |c| {
            c.metadata = Some(cri::ContainerMetadata {
                name: format!("name-{n}"),
                attempt: u32::try_from(n).unwrap_or(1),
            });
            c.labels = map([
                ("io.kubernetes.container.name", format!("name-{n}")),
                ("app", format!("app-{n}")),
            ]);
            c.annotations = map([
                ("io.kubernetes.container.hash", format!("abc{n}")),
                ("io.example/note", format!("note {n}")),
            ]);
        }),
        Container::new("no-linux", |c| c.linux = None),
    ]
}

fn streams(n: i64) -> Vec<Container> {
    vec![
        Container::new("terminal", |c| {
            c.tty = true;
            c.stdin = n == 1;
        })
        .started(),
        Container::new("input", |c| c.stdin = true).started(),
        Container::new("input-once", |c| {
            c.stdin = true;
            c.stdin_once = true;
        }),
        Container::new("no-log", |c| c.log_path = String::new()).started(),
        Container::new("deep-log", |c| c.log_path = format!("deep/er/{n}.log")).started(),
        Container::new("brief", |c| {
            c.command = vec![
                String::from("/bin/sh"),
                String::from("-c"),
                format!("echo out; echo err >&2; exit {n}"),
            ];
        })
        .started(),
    ]
}

fn mounts(n: i64) -> Vec<Container> {
    let mount = |name: &str, edit: &dyn Fn(&mut cri::Mount)| {
        Container::new(format!("mount-{name}"), |c| {
            let mut mount = cri::Mount {
                container_path: format!("/mnt/{n}"),
                host_path: format!("{FILES}/volume-{n}"),
                ..Default::default()
            };
            edit(&mut mount);
            c.mounts = vec![mount];
        })
    };
    vec![
        mount("plain", &|_m| {}),
        mount("readonly", &|m| m.readonly = true),
        mount("relabelled", &|m| m.selinux_relabel = true),
        mount("from-host", &|m| {
            m.host_path = format!("{FILES}/shared-{n}");
            m.propagation = cri::MountPropagation::PropagationHostToContainer.into();
        }),
        mount("bidirectional", &|m| {
            m.host_path = format!("{FILES}/shared-{n}");
            m.propagation = cri::MountPropagation::PropagationBidirectional.into();
        }),
        mount("from-host-not-shared", &|m| {
            m.propagation = cri::MountPropagation::PropagationHostToContainer.into();
        }),
        mount("mapped", &|m| {
            m.uid_mappings = mappings(n, u32::try_from(n).unwrap_or(1));
            m.gid_mappings = mappings(3 - n, u32::try_from(n).unwrap_or(1));
        }),
        mount("recursively-readonly", &|m| {
            m.readonly = true;
            m.recursive_read_only = true;
        }),
        mount("recursively-readonly-alone", &|m| {
            m.recursive_read_only = true
        }),
        mount("missing", &|m| {
            m.host_path = format!("{FILES}/made-for-{n}")
        }),
        mount("link", &|m| m.host_path = format!("{FILES}/link-{n}")),
        mount("options", &|m| {
            let options: &[&str] = if n == 1 {
                &["noexec"]
            } else {
                &["nosuid", "nodev"]
            };
            m.mount_options = options.iter().map(ToString::to_string).collect();
        }),
        mount("image", &|m| {
            m.host_path = String::new();
            m.image = Some(full_image(n));
            m.readonly = true;
            m.image_sub_path = String::from(if n == 1 { "bin" } else { "etc" });
        }),
        mount("over-hosts", &|m| {
            m.container_path = String::from("/etc/hosts")
        }),
        mount("over-shm", &|m| m.container_path = String::from("/dev/shm")),
        mount("over-sys", &|m| m.container_path = String::from("/sys")),
        mount("relative", &|m| m.container_path = format!("relative/{n}")),
        Container::new("nested", |c| {
            let below = |path: &str| cri::Mount {
                container_path: path.to_owned(),
                host_path: format!("{FILES}/volume-{n}"),
                ..Default::default()
            };
            c.mounts = vec![below("/a/b/c"), below("/a"), below("/z"), below("/a/b")];
        }),
    ]
}

/// Every field of an image.
fn full_image(n: i64) -> cri::ImageSpec {
    cri::ImageSpec {
        image: IMAGE.to_owned(),
        annotations: map([("io.example/image", format!("image {n}"))]),
        user_specified_image: format!("busybox:{n}"),
        runtime_handler: format!("handler-{n}"),
        image_ref: format!("podwright.local/other:{n}"),
    }
}

fn images(n: i64) -> Vec<Container> {
    vec![
        Container::new("short-of-nothing", |c| c.image = Some(full_image(n))),
        Container::new("unknown", |c| {
            c.image = Some(image(&format!("unknown.local/no:{n}")))
        }),
        Container::new("none", |c| c.image = None),
        rich("rich", &|_c| {}),
        rich("rich-arguments", &|c| c.args = vec![format!("sleep {n}00")]),
        rich("rich-command", &|c| {
            c.command = vec![String::from("/bin/true")]
        }),
        rich("rich-overridden", &|c| {
            c.working_dir = format!("/other/{n}");
            c.stop_signal = cri::Signal::Sigint.into();
            c.labels = map([("io.example.image/label", format!("container's {n}"))]);
            c.envs = vec![cri::KeyValue {
                key: String::from("RICH"),
                value: format!("container's {n}").into_bytes(),
            }];
            c.mounts = vec![cri::Mount {
                container_path: String::from("/declared/"),
                host_path: format!("{FILES}/volume-{n}"),
                ..Default::default()
            }];
            let linux = c.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().run_as_user =
                Some(cri::Int64Value { value: n });
        }),
        // A container's image has no use for these, and a volume's image has no other request.
        Container::new("volume", |c| {
            c.mounts = vec![cri::Mount {
                container_path: String::from("/image"),
                readonly: true,
                image: Some(cri::ImageSpec {
                    image: format!("unknown.local/volume:{n}"),
                    ..full_image(n)
                }),
                ..Default::default()
            }];
        }),
    ]
}

/// A container of the image that says something about everything.
fn rich(name: &str, edit: &dyn Fn(&mut cri::ContainerConfig)) -> Container {
    Container::new(name, |c| {
        c.image = Some(image(RICH_IMAGE));
        c.command.clear();
        edit(c);
    })
}

fn devices(n: i64) -> Vec<Container> {
    let device = |name: &str, host_path: String, permissions: &str| {
        Container::new(format!("device-{name}"), |c| {
            c.devices = vec![cri::Device {
                container_path: format!("/dev/x{n}"),
                host_path,
                permissions: permissions.to_owned(),
            }];
        })
    };
    let permissions = if n == 1 { "rwm" } else { "r" };
    vec![
        device("node", String::from("/dev/null"), permissions),
        device("folder", format!("{FILES}/devices"), permissions),
        device("link", format!("{FILES}/device-link"), permissions),
        device("missing", format!("/dev/missing{n}"), permissions),
        device("no-device", format!("{FILES}/volume-{n}/file"), permissions),
    ]
}

fn limits(n: i64) -> Vec<Container> {
    let with = |name: &str, resources: cri::LinuxContainerResources| {
        Container::new(name, |c| {
            c.linux.get_or_insert_default().resources = Some(resources);
        })
    };
    let only = cri::LinuxContainerResources::default;
    let changed = cri::LinuxContainerResources {
        cpu_shares: 300 * n,
        memory_limit_in_bytes: (100 << 20) * n,
        ..only()
    };
    vec![
        with("nothing", only()),
        with("everything", resources(n)),
        with(
            "processor",
            cri::LinuxContainerResources {
                cpu_period: 200_000,
                cpu_quota: -1,
                cpu_shares: 2,
                ..only()
            },
        ),
        with(
            "memory-alone",
            cri::LinuxContainerResources {
                memory_limit_in_bytes: (50 << 20) * n,
                ..only()
            },
        ),
        with(
            "score",
            cri::LinuxContainerResources {
                oom_score_adj: -998 * (n - 1) + 2,
                ..only()
            },
        ),
        with("unified", unified(n)),
        with("updated", resources(n)).updated(changed.clone()),
        with("updated-from-nothing", only()).updated(resources(n)),
        with("updated-twice", only())
            .updated(resources(n))
            .updated(cri::LinuxContainerResources {
                oom_score_adj: 7,
                ..only()
            }),
        with("updated-unified", only()).updated(unified(n)),
        with("updated-running", only()).started().updated(changed),
    ]
}

/// What Linux has no use for.
fn other(n: i64) -> Vec<Container> {
    vec![Container::new("windows", |c| {
        c.windows = Some(cri::WindowsContainerConfig {
            resources: Some(cri::WindowsContainerResources {
                cpu_shares: 10 * n,
                cpu_count: n,
                cpu_maximum: 5_000 * n,
                memory_limit_in_bytes: (64 << 20) * n,
                rootfs_size_in_bytes: (1 << 30) * n,
                affinity_cpus: vec![cri::WindowsCpuGroupAffinity {
                    cpu_mask: n.unsigned_abs(),
                    cpu_group: u32::try_from(n).unwrap_or(1),
                }],
            }),
            security_context: Some(cri::WindowsContainerSecurityContext {
                run_as_username: format!("user{n}"),
                credential_spec: format!("{{\"n\":{n}}}"),
                host_process: true,
            }),
        });
    })]
}

fn signals() -> Vec<Container> {
    (0..)
        .map_while(|number| cri::Signal::try_from(number).ok())
        .map(|signal| {
            let name = signal.as_str_name().to_lowercase().replace('_', "-");
            Container::new(name, |c| c.stop_signal = signal.into())
        })
        .collect()
}

/// What a container takes from its pod.
fn with_hostname(n: i64, letter: &str) -> Request {
    Request::new(format!("inherited-{letter}"), |pod| {
        pod.hostname = format!("named-{n}");
        pod.annotations = map([("io.example/pod", format!("pod {n}"))]);
        pod.labels = map([("pod", format!("pod-{n}"))]);
    })
    .with(vec![Container::new("inheriting", |_config| {}).started()])
}

/// The containers of a handler that lets some annotations through.
fn annotated(n: i64, letter: &str) -> Request {
    Request::new(format!("annotated-{letter}"), |pod| {
        pod.annotations = map([
            ("io.example.pass/pod", format!("pod {n}")),
            ("io.other/pod", format!("pod {n}")),
        ]);
    })
    .handler("annotated")
    .with(vec![Container::new("annotated", |c| {
        c.annotations = map([
            ("io.example.pass/container", format!("container {n}")),
            ("io.other/container", format!("container {n}")),
        ]);
        c.args = texts(["1"]);
    })])
}
