//! What each adjustment makes of a spec.

use oci_spec::runtime::{LinuxResources, PosixRlimitType};

use super::*;
use crate::model::Kind;
use crate::nri::testing::host;

fn text(value: &str) -> String {
    value.to_owned()
}

fn spec() -> Spec {
    serde_json::from_value(serde_json::json!({
        "ociVersion": "1.0.2",
        "annotations": {"keep": "1", "drop": "2"},
        "process": {
            "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1"],
            "env": ["PATH=/bin", "OLD=1", "GONE=1"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 10, "soft": 10}],
        },
        "mounts": [
            {"destination": "/a/b", "type": "bind", "source": "/x"},
            {"destination": "/gone", "type": "bind", "source": "/y"},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "uts", "path": "/proc/1/ns/uts"}],
            "resources": {
                "devices": [{"allow": false, "access": "rwm"}],
                "cpu": {"shares": 100, "cpus": "0"},
                "memory": {"limit": 5, "swap": 5},
            },
        },
    }))
    .unwrap()
}

fn made(change: impl FnOnce(&mut api::ContainerAdjustment)) -> Result<Spec> {
    let mut adjust = api::ContainerAdjustment::default();
    change(&mut adjust);
    adjusted(&spec(), &adjust, &host())
}

fn linux(adjust: &mut api::ContainerAdjustment) -> &mut api::LinuxContainerAdjustment {
    adjust.linux.get_or_insert_default()
}

#[test]
fn nothing_asked_changes_nothing() {
    assert_eq!(made(|_| ()).unwrap(), spec());
}

#[test]
fn annotations_variables_arguments_and_rlimits() {
    let variable = |key: &str, value: &str| api::KeyValue {
        key: text(key),
        value: text(value),
    };
    let made = made(|adjust| {
        adjust.annotations = [("-drop", ""), ("new", "3")]
            .map(|(key, value)| (text(key), text(value)))
            .into();
        adjust.env = vec![
            variable("-GONE", ""),
            variable("OLD", "2"),
            variable("NEW", "3"),
        ];
        adjust.args = vec![text("true")];
        adjust.rlimits = ["RLIMIT_NOFILE", "RLIMIT_CORE"]
            .map(|kind| api::PosixRlimit {
                r#type: text(kind),
                hard: 7,
                soft: 3,
            })
            .into();
    })
    .unwrap();

    let annotations = made.annotations().clone().unwrap();
    assert_eq!(annotations.len(), 2);
    assert_eq!((&*annotations["keep"], &*annotations["new"]), ("1", "3"));
    let process = made.process().clone().unwrap();
    assert_eq!(
        process.env().clone().unwrap(),
        ["PATH=/bin", "OLD=2", "NEW=3"]
    );
    assert_eq!(process.args().clone().unwrap(), ["true"]);
    let rlimits = process.rlimits().clone().unwrap();
    assert_eq!(rlimits.len(), 2);
    assert!(
        rlimits
            .iter()
            .all(|limit| (limit.hard(), limit.soft()) == (7, 3))
    );
    assert_eq!(rlimits[0].typ(), PosixRlimitType::RlimitNofile);
}

#[test]
fn mounts_are_removed_replaced_added_and_sorted() {
    let mount = |destination: &str, options: &[&str]| api::Mount {
        destination: text(destination),
        r#type: text("bind"),
        source: text("/new"),
        options: options.iter().map(|option| text(option)).collect(),
    };
    let made = made(|adjust| {
        adjust.mounts = vec![
            mount("-/gone", &[]),
            mount("/a/b", &["rbind", "rslave"]),
            mount("/a", &["rbind", "rshared"]),
        ];
    })
    .unwrap();

    let mounts = made.mounts().clone().unwrap();
    let shown: Vec<_> = mounts
        .iter()
        .map(|mount| {
            (
                mount.destination().to_str().unwrap(),
                mount.source().clone().unwrap(),
            )
        })
        .collect();
    assert_eq!(shown, [("/a", "/new".into()), ("/a/b", "/new".into())]);
    let linux = made.linux().clone().unwrap();
    assert_eq!(linux.rootfs_propagation().as_deref(), Some("rshared"));
}

#[test]
fn devices_come_with_the_right_to_use_them_and_namespaces_change() {
    let made = made(|adjust| {
        linux(adjust).devices = vec![api::LinuxDevice {
            path: text("/dev/x"),
            r#type: text("b"),
            major: 8,
            minor: 1,
            file_mode: Some(api::OptionalFileMode { value: 0o600 }),
            ..api::LinuxDevice::default()
        }];
        linux(adjust).namespaces = ["-uts", "ipc"]
            .map(|kind| api::LinuxNamespace {
                r#type: text(kind),
                path: String::new(),
            })
            .into();
    })
    .unwrap();

    let linux = made.linux().clone().unwrap();
    assert_eq!(linux.devices().clone().unwrap()[0].file_mode(), Some(0o600));
    let rules = linux
        .resources()
        .clone()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[1].access().as_deref(), Some("rwm"));
    let kinds: Vec<_> = linux
        .namespaces()
        .clone()
        .unwrap()
        .iter()
        .map(|n| n.typ())
        .collect();
    assert_eq!(kinds, [LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc]);
}

#[test]
fn limits_are_laid_over_those_that_are_there() {
    let made = made(|adjust| {
        linux(adjust).resources = Some(api::LinuxResources {
            memory: Some(api::LinuxMemory {
                limit: Some(api::OptionalInt64 { value: 9 }),
                reservation: Some(api::OptionalInt64 { value: 4 }),
                ..api::LinuxMemory::default()
            }),
            cpu: Some(api::LinuxCpu {
                quota: Some(api::OptionalInt64 { value: -1 }),
                mems: text("0"),
                ..api::LinuxCpu::default()
            }),
            pids: Some(api::LinuxPids { limit: 5 }),
            unified: [(text("memory.high"), text("8"))].into(),
            hugepage_limits: vec![api::HugepageLimit {
                page_size: text("2MB"),
                limit: 0,
            }],
            ..api::LinuxResources::default()
        });
        linux(adjust).oom_score_adj = Some(api::OptionalInt { value: 500 });
        linux(adjust).cgroups_path = text("/other");
        linux(adjust).sysctl = [(text("kernel.x"), text("1"))].into();
    })
    .unwrap();

    let linux = made.linux().clone().unwrap();
    let resources: LinuxResources = linux.resources().clone().unwrap();
    let (memory, cpu) = (
        resources.memory().unwrap(),
        resources.cpu().clone().unwrap(),
    );
    assert_eq!(
        (memory.limit(), memory.swap(), memory.reservation()),
        (Some(9), Some(9), Some(4))
    );
    assert_eq!((cpu.shares(), cpu.quota()), (Some(100), Some(-1)));
    assert_eq!(
        (cpu.cpus().as_deref(), cpu.mems().as_deref()),
        (Some("0"), Some("0"))
    );
    assert_eq!(resources.pids().unwrap().limit(), 5);
    assert_eq!(resources.unified().clone().unwrap()["memory.high"], "8");
    assert_eq!(resources.hugepage_limits().clone().unwrap().len(), 1);
    assert_eq!(
        linux.cgroups_path().clone().unwrap(),
        PathBuf::from("/other")
    );
    assert_eq!(linux.sysctl().clone().unwrap()["kernel.x"], "1");
    assert_eq!(made.process().clone().unwrap().oom_score_adj(), Some(500));
}

#[test]
fn scheduling_seccomp_cache_and_memory_policy() {
    let made = made(|adjust| {
        let linux = linux(adjust);
        linux.io_priority = Some(api::LinuxIoPriority {
            class: api::IoPrioClass::IoprioClassIdle.into(),
            priority: 3,
        });
        linux.scheduler = Some(api::LinuxScheduler {
            policy: api::LinuxSchedulerPolicy::SchedBatch.into(),
            nice: 5,
            flags: vec![
                api::LinuxSchedulerFlag::SchedFlagResetOnFork.into(),
                api::LinuxSchedulerFlag::SchedFlagDlOverrun.into(),
            ],
            ..api::LinuxScheduler::default()
        });
        linux.seccomp_policy = Some(api::LinuxSeccomp {
            default_action: text("SCMP_ACT_ALLOW"),
            architectures: vec![text("SCMP_ARCH_X86_64")],
            syscalls: vec![api::LinuxSyscall {
                names: vec![text("mkdir")],
                action: text("SCMP_ACT_ERRNO"),
                errno_ret: Some(api::OptionalUInt32 { value: 1 }),
                args: vec![api::LinuxSeccompArg {
                    op: text("SCMP_CMP_EQ"),
                    ..api::LinuxSeccompArg::default()
                }],
            }],
            ..api::LinuxSeccomp::default()
        });
        linux.rdt = Some(api::LinuxRdt {
            clos_id: Some(api::OptionalString { value: text("c") }),
            ..api::LinuxRdt::default()
        });
        linux.memory_policy = Some(api::LinuxMemoryPolicy {
            mode: api::MpolMode::MpolBind.into(),
            nodes: text("0"),
            flags: vec![api::MpolFlag::MpolFStaticNodes.into()],
        });
        let device = api::LinuxNetDevice { name: text("eth1") };
        linux.net_devices = [(text("host9"), device)].into();
    })
    .unwrap();

    let json = crate::spec::encode_spec(&made).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let flags = &json["process"]["scheduler"]["flags"];
    assert_eq!(flags[0], "SCHED_FLAG_RESET_ON_FORK");
    assert_eq!(flags[1], "SCHED_FLAG_DL_OVERRUN");
    assert_eq!(json["process"]["ioPriority"]["class"], "IOPRIO_CLASS_IDLE");
    assert_eq!(json["process"]["scheduler"]["policy"], "SCHED_BATCH");
    assert_eq!(json["linux"]["seccomp"]["syscalls"][0]["names"][0], "mkdir");
    assert_eq!(json["linux"]["intelRdt"]["closID"], "c");
    assert_eq!(json["linux"]["memoryPolicy"]["mode"], "MPOL_BIND");
    assert_eq!(json["linux"]["netDevices"]["host9"]["name"], "eth1");
    // What was put in is what the next plugin is shown.
    let filter = made.linux().clone().unwrap().seccomp().clone().unwrap();
    assert_eq!(seccomp::asked(&seccomp::of_spec(&filter)).unwrap(), filter);
}

#[test]
fn what_the_spec_cannot_say_and_what_the_node_lacks_is_refused() {
    type Change = fn(&mut api::ContainerAdjustment);
    let cases: [(Change, Kind); 3] = [
        (
            |adjust| {
                adjust.rlimits.push(api::PosixRlimit {
                    r#type: text("RLIMIT_X"),
                    hard: 1,
                    soft: 1,
                });
            },
            Kind::InvalidArgument,
        ),
        (
            |adjust| {
                linux(adjust).namespaces.push(api::LinuxNamespace {
                    r#type: text("net"),
                    path: String::new(),
                });
            },
            Kind::InvalidArgument,
        ),
        (
            |adjust| {
                linux(adjust).oom_score_adj = Some(api::OptionalInt { value: 1001 });
            },
            Kind::InvalidArgument,
        ),
    ];
    for (number, (change, kind)) in cases.into_iter().enumerate() {
        assert_eq!(made(change).unwrap_err().kind(), kind, "{number}");
    }
}

#[test]
fn classes_are_told_and_left_to_who_knows_them() {
    let mut adjust = api::ContainerAdjustment::default();
    assert_eq!(classes(&adjust).unwrap(), AskedClasses::default());

    let class = api::OptionalString {
        value: text("gold"),
    };
    let resources = linux(&mut adjust).resources.get_or_insert_default();
    resources.blockio_class = Some(class);

    assert_eq!(classes(&adjust).unwrap().block_io.as_deref(), Some("gold"));
    let made = adjusted(&spec(), &adjust, &host()).unwrap();
    assert_eq!(
        serde_json::to_value(made).unwrap()["linux"]["resources"],
        serde_json::to_value(spec()).unwrap()["linux"]["resources"]
    );
}
