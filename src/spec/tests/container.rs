use insta::assert_json_snapshot;

use crate::model::container::{Capabilities, Device, Propagation};
use crate::model::host_facts::{
    CgroupDriver, CgroupVersion, DeviceKind, DeviceNode, SourcePropagation,
};
use crate::model::resources::{HugepageLimit, Resources};
use crate::model::security::{NamespaceMode, SeccompProfile};
use crate::model::{Kind, Pid};
use crate::spec::testing::{Case, bind, user_namespace};
use crate::spec::{ImageVolume, ResolvedDevice, SelinuxLabels};

#[test]
fn plain() {
    assert_json_snapshot!(Case::default().json());
}

#[test]
fn on_cgroup_v1() {
    let mut case = Case::default();
    case.host.cgroup = CgroupVersion::V1;
    case.host.cgroup_superblock_options.clear();

    assert_json_snapshot!(case.changes());
}

#[test]
fn the_pods_network_mode_leaves_joined_namespaces_alone() {
    let mut case = Case::default();
    case.pod.security.namespaces.network = NamespaceMode::Node;
    case.config.security.namespaces.network = NamespaceMode::Node;
    case.config.security.namespaces.ipc = NamespaceMode::Node;
    case.config.security.namespaces.pid = NamespaceMode::Node;

    assert_eq!(case.changes(), serde_json::json!({}));
}

#[test]
fn pid_modes() {
    let mut case = Case::default();
    case.config.security.namespaces.pid = NamespaceMode::Container;
    assert_json_snapshot!("pid_of_its_own", case.changes());

    case.config.security.namespaces.pid = NamespaceMode::Target;
    assert_eq!(case.spec().unwrap_err().kind(), Kind::Internal);
    case.target_pid = Some(Pid(99));
    assert_json_snapshot!("pid_of_a_target", case.changes());
}

#[test]
fn user_namespaces() {
    let mut case = Case::default();
    case.config.security.namespaces.user = Some(user_namespace());
    assert_eq!(
        case.spec().unwrap_err().kind(),
        Kind::InvalidArgument,
        "the pod has none"
    );
    case.pod.security.namespaces.user = Some(user_namespace());
    case.volumes = vec![volume("/data")];
    assert_json_snapshot!("user_namespace", case.changes());

    case.volumes.clear();
    case.pod.security.namespaces.network = NamespaceMode::Node;
    let json = case.json();
    let mounts = json["mounts"].as_array().unwrap();
    assert_json_snapshot!("sys_on_the_nodes_network", mounts.last().unwrap());
}

fn volume(destination: &str) -> ImageVolume {
    ImageVolume {
        destination: destination.into(),
        source: "/state/volumes/1".into(),
    }
}

fn node(path: &str, kind: DeviceKind, minor: u32) -> DeviceNode {
    DeviceNode {
        path: path.into(),
        kind,
        major: 10,
        minor,
        mode: 0o640,
        uid: 3,
        gid: 4,
    }
}

fn device(container_path: &str, nodes: &[(&str, DeviceNode)]) -> ResolvedDevice {
    ResolvedDevice {
        asked: Device {
            container_path: container_path.into(),
            host_path: "/dev/link".into(),
            permissions: "rw".into(),
        },
        nodes: nodes
            .iter()
            .map(|(below, node)| (below.into(), node.clone()))
            .collect(),
    }
}

#[test]
fn privileged() {
    let mut case = Case {
        host_devices: vec![
            node("/dev/fuse", DeviceKind::Char, 229),
            node("/dev/sda", DeviceKind::Block, 0),
        ],
        devices: vec![device(
            "/dev/fuse",
            &[("", node("/dev/other", DeviceKind::Char, 1))],
        )],
        selinux: Some(SelinuxLabels {
            process: "u:r:container_t:s0:c1,c2".into(),
            mount: "u:r:container_file_t:s0:c1,c2".into(),
        }),
        ..Case::default()
    };
    let security = &mut case.config.security;
    security.privileged = true;
    security.masked_paths = vec!["/proc/kcore".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    security.seccomp = Some(SeccompProfile::RuntimeDefault);
    security.capabilities = Some(Capabilities {
        drop: vec!["ALL".into()],
        ..Capabilities::default()
    });
    assert_eq!(
        case.spec().unwrap_err().kind(),
        Kind::InvalidArgument,
        "the pod is not"
    );
    case.pod.security.privileged = true;
    assert_json_snapshot!("privileged", case.changes());

    case.options.privileged_without_host_devices = true;
    assert_json_snapshot!(
        "privileged_without_host_devices",
        [
            &case.json()["linux"]["devices"],
            &case.json()["linux"]["resources"]["devices"]
        ]
    );
    case.options.privileged_without_host_devices_all_allowed = true;
    assert_json_snapshot!(
        "privileged_without_host_devices_all_allowed",
        case.json()["linux"]["resources"]["devices"]
    );
}

#[test]
fn hardened() {
    let mut case = Case::default();
    case.config.tty = true;
    case.config.working_dir = "/app".into();
    case.config.envs = vec![("LANG".into(), "de".into())];
    case.config.command = vec!["/bin/sh".into()];
    case.config.args = vec!["-c".into(), "true".into()];
    let security = &mut case.config.security;
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.masked_paths = vec!["/proc/kcore".into()];
    security.readonly_paths = vec!["/proc/sys".into()];
    security.capabilities = Some(Capabilities {
        add: vec!["NET_ADMIN".into()],
        drop: vec!["ALL".into()],
        add_ambient: vec!["NET_ADMIN".into()],
    });
    case.user.uid = 1000;
    case.user.gid = 1000;
    case.user.additional_gids = vec![1000, 2000];

    assert_json_snapshot!(case.changes());
}

#[test]
fn seccomp() {
    let mut case = Case::default();
    let filter = |case: &Case| case.json()["linux"]["seccomp"].clone();
    case.config.security.seccomp = Some(SeccompProfile::RuntimeDefault);
    assert_json_snapshot!("seccomp_default", filter(&case));

    case.config.security.seccomp = Some(SeccompProfile::Unconfined);
    assert_eq!(filter(&case), serde_json::Value::Null);

    case.config.security.seccomp = Some(SeccompProfile::Localhost("/p.json".into()));
    assert_eq!(case.spec().unwrap_err().kind(), Kind::Internal);
    case.seccomp_profile = Some("no JSON".into());
    assert_eq!(case.spec().unwrap_err().kind(), Kind::InvalidArgument);
    case.seccomp_profile = Some(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#
            .into(),
    );
    assert_json_snapshot!("seccomp_localhost", filter(&case));
}

#[test]
fn mounts() {
    let mut case = Case::default();
    let mut deep = bind("/a/b/../c/");
    deep.asked.readonly = true;
    deep.asked.options = vec!["noexec".into()];
    let mut image = bind("/models");
    image.asked.host_path.clear();
    image.asked.image = Some("registry.test/models:1".into());
    image.asked.readonly = true;
    image.propagation = SourcePropagation::Private;
    let mut recursive = bind("/rro");
    recursive.asked.readonly = true;
    recursive.asked.recursive_read_only = true;
    case.options.runtime_has_rro = true;
    case.mounts = vec![
        deep,
        bind("/etc//hosts"),
        image,
        recursive,
        bind("/sys/fs/cgroup"),
    ];
    case.volumes = vec![volume("/z/data"), volume("cache"), volume("/a/c")];

    assert_json_snapshot!(case.changes());
}

#[test]
fn a_mounted_dev_displaces_what_lies_below_it() {
    let case = Case {
        mounts: vec![bind("/dev/")],
        ..Case::default()
    };

    let json = case.json();
    let below: Vec<&str> = json["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .filter(|path| path.starts_with("/dev"))
        .collect();
    assert_eq!(below, ["/dev/", "/dev/shm"], "the pod's own shm comes back");
}

#[test]
fn propagation() {
    use Propagation::{Bidirectional, HostToContainer, Private};
    let spec = |asked, source| {
        let mut mount = bind("/m");
        mount.asked.propagation = asked;
        mount.propagation = source;
        let case = Case {
            mounts: vec![mount],
            ..Case::default()
        };
        case.spec().map(|_| {
            let json = case.json();
            let mounts = json["mounts"].as_array().unwrap();
            let found = mounts.iter().find(|mount| mount["destination"] == "/m");
            (
                found.unwrap()["options"][1].clone(),
                json["linux"]["rootfsPropagation"].clone(),
            )
        })
    };
    let want = |option: &str, root: Option<&str>| (option.into(), root.into());

    for source in [
        SourcePropagation::Private,
        SourcePropagation::Slave,
        SourcePropagation::Shared,
    ] {
        assert_eq!(spec(Private, source).unwrap(), want("rprivate", None));
    }
    for source in [SourcePropagation::Slave, SourcePropagation::Shared] {
        let got = spec(HostToContainer, source).unwrap();
        assert_eq!(got, want("rslave", Some("rslave")));
    }
    assert_eq!(
        spec(Bidirectional, SourcePropagation::Shared).unwrap(),
        want("rshared", Some("rshared"))
    );
    for (asked, source) in [
        (HostToContainer, SourcePropagation::Private),
        (Bidirectional, SourcePropagation::Private),
        (Bidirectional, SourcePropagation::Slave),
    ] {
        assert_eq!(
            spec(asked, source).unwrap_err().kind(),
            Kind::FailedPrecondition
        );
    }
}

#[test]
fn mounts_that_break_a_rule_are_refused() {
    type Change = fn(&mut crate::model::container::Mount);
    let changes: [(Change, Kind); 11] = [
        (|m| m.container_path = "x".into(), Kind::InvalidArgument),
        (|m| m.container_path = "/a\0".into(), Kind::InvalidArgument),
        (
            |m| m.container_path = "/".repeat(4096),
            Kind::InvalidArgument,
        ),
        (|m| m.host_path = String::new(), Kind::InvalidArgument),
        (
            |m| m.options = vec!["lowerdir=/".into()],
            Kind::InvalidArgument,
        ),
        (|m| m.recursive_read_only = true, Kind::InvalidArgument),
        (
            |m| {
                m.recursive_read_only = true;
                m.readonly = true;
                m.propagation = Propagation::HostToContainer;
            },
            Kind::InvalidArgument,
        ),
        (
            |m| {
                m.recursive_read_only = true;
                m.readonly = true;
            },
            Kind::FailedPrecondition,
        ),
        (
            |m| {
                m.image = Some("x".into());
                m.readonly = true;
            },
            Kind::InvalidArgument,
        ),
        (
            |m| {
                m.image = Some("x".into());
                m.host_path.clear();
            },
            Kind::InvalidArgument,
        ),
        (
            |m| m.uid_mappings = user_namespace().uids,
            Kind::InvalidArgument,
        ),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut mount = bind("/m");
        change(&mut mount.asked);
        let case = Case {
            mounts: vec![mount],
            ..Case::default()
        };
        let error = case.spec().unwrap_err();
        assert_eq!(error.kind(), kind, "{number}");
        if kind == Kind::FailedPrecondition {
            assert!(error.chain().starts_with("RROUnsupported"));
        }
    }
}

#[test]
fn devices() {
    let mut case = Case {
        devices: vec![
            device("", &[("", node("/dev/real", DeviceKind::Char, 1))]),
            device(
                "/dev/dir",
                &[
                    ("a", node("/dev/link/a", DeviceKind::Block, 2)),
                    ("sub/b", node("/dev/link/sub/b", DeviceKind::Char, 3)),
                ],
            ),
        ],
        ..Case::default()
    };
    assert_json_snapshot!("devices", case.changes());

    case.options.device_ownership_from_security_context = true;
    case.config.security.run_as_user = Some(1000);
    case.config.security.run_as_group = Some(0);
    let owned = case.json()["linux"]["devices"][0].clone();
    assert_eq!((&owned["uid"], &owned["gid"]), (&1000.into(), &4.into()));

    for (path, permissions) in [("x", "rw"), ("/dev/x", ""), ("/dev/x", "rwx")] {
        case.devices[0].asked.container_path = path.into();
        case.devices[0].asked.permissions = permissions.into();
        assert_eq!(
            case.spec().unwrap_err().kind(),
            Kind::InvalidArgument,
            "{path} {permissions}"
        );
    }
}

#[test]
fn resources() {
    let mut case = Case::default();
    case.config.resources = Some(Resources {
        cpu_period: Some(100_000),
        cpu_quota: Some(-1),
        cpu_shares: Some(1024),
        memory_limit: Some(1 << 20),
        memory_swap_limit: None,
        oom_score_adj: 999,
        cpuset_cpus: "0-1".into(),
        cpuset_mems: "0".into(),
        hugepages: vec![HugepageLimit {
            page_size: "2MB".into(),
            limit: 0,
        }],
        unified: [("memory.high".to_owned(), "1000".to_owned())].into(),
    });
    assert_json_snapshot!("resources", case.changes());

    case.host.has_hugetlb = false;
    case.host.has_swap_limit = false;
    let json = case.json();
    let limits = &json["linux"]["resources"];
    assert_eq!(limits["memory"]["swap"], serde_json::Value::Null);
    assert_eq!(limits["hugepageLimits"], serde_json::Value::Null);
}

#[test]
fn cgroup_paths_and_annotations() {
    let mut case = Case::default();
    case.options.cgroup_driver = CgroupDriver::Systemd;
    case.pod.cgroup_parent = "/kubepods.slice/kubepods-podx.slice".into();
    case.options.pod_annotations = vec!["example.com/*".into()];
    case.options.container_annotations = vec!["*.com/*".into(), "io.kubernetes.cri.*".into()];
    let of = |keys: &[&str], value: &str| {
        keys.iter()
            .map(|key| (key.to_string(), value.to_owned()))
            .collect()
    };
    case.pod.annotations = of(&["example.com/a", "example.com/b", "x.com/c"], "pod");
    case.config.annotations = of(
        &[
            "example.com/b",
            "y.com/d",
            "run.oci.x",
            "io.kubernetes.cri.sandbox-id",
        ],
        "container",
    );
    case.config.user_specified_image = "web".into();

    assert_json_snapshot!(case.changes());
}

#[test]
fn a_base_spec_of_the_operator_is_kept_where_nothing_replaces_it() {
    let mut base = Case::default().spec().unwrap();
    base.set_annotations(Some([("kept".to_owned(), "1".to_owned())].into()));
    let mut process = base.process().clone().unwrap();
    process.set_oom_score_adj(Some(5));
    base.set_process(Some(process)).set_mounts(Some(vec![]));
    let mut case = Case::default();
    case.options.base = Some(Box::new(base));

    assert_json_snapshot!(case.changes());
}
