use insta::assert_json_snapshot;

use crate::model::host_facts::{CapabilityMask, CgroupDriver};
use crate::model::pod::DnsConfig;
use crate::model::resources::Resources;
use crate::model::security::{NamespaceMode, SeccompProfile};
use crate::model::{ImageDefaults, Kind};
use crate::spec::testing::{PauseCase, user_namespace};
use crate::spec::{SelinuxLabels, check_pod};

#[test]
fn plain() {
    assert_json_snapshot!(PauseCase::default().json());
}

#[test]
fn host_network() {
    let mut case = PauseCase::default();
    case.config.security.namespaces.network = NamespaceMode::Node;
    case.netns = None;

    assert_json_snapshot!(case.changes());
}

#[test]
fn host_pid_and_ipc() {
    let mut case = PauseCase::default();
    case.config.security.namespaces.pid = NamespaceMode::Node;
    case.config.security.namespaces.ipc = NamespaceMode::Node;
    case.files.shm = "/dev/shm".into();

    assert_json_snapshot!(case.changes());
}

#[test]
fn user_namespaces() {
    let mut case = PauseCase::default();
    case.config.security.namespaces.user = Some(user_namespace());
    case.userns = Some("/run/podwright/s/user".into());
    assert_json_snapshot!("user_namespace_with_network", case.changes());

    case.config.security.namespaces.network = NamespaceMode::Node;
    case.netns = None;
    case.userns = None;
    assert_json_snapshot!("user_namespace_on_the_nodes_network", case.changes());
}

#[test]
fn privileged_with_labels() {
    let mut case = PauseCase {
        selinux: Some(SelinuxLabels {
            process: "u:r:container_t:s0:c1,c2".into(),
            mount: "u:r:container_file_t:s0:c1,c2".into(),
        }),
        ..PauseCase::default()
    };
    case.config.security.seccomp = Some(SeccompProfile::RuntimeDefault);
    case.config.security.privileged = true;

    assert_json_snapshot!(case.changes());
}

#[test]
fn everything_a_pod_can_say() {
    let mut case = PauseCase::default();
    case.options.cgroup_driver = CgroupDriver::Systemd;
    case.options.pod_annotations = vec!["example.com/*".into()];
    let config = &mut case.config;
    config.cgroup_parent = "/kubepods.slice/kubepods-podx.slice".into();
    config.sysctls.insert("kernel.shmmax".into(), "1".into());
    for key in ["example.com/a", "other.com/b", "org.systemd.property.X"] {
        config.annotations.insert(key.into(), "1".into());
    }
    config.resources = Some(Resources {
        cpu_shares: Some(512),
        memory_limit: Some(1 << 20),
        ..Resources::default()
    });
    config.security.run_as_user = Some(1000);
    config.security.run_as_group = Some(2000);
    config.security.supplemental_groups = vec![7];

    assert_json_snapshot!(case.changes());
}

#[test]
fn an_image_for_pause_brings_its_command_and_nothing_else() {
    let case = PauseCase {
        image: Some(ImageDefaults {
            entrypoint: vec!["/pause".into(), "-v".into()],
            env: vec!["A=1".into(), "A=2".into()],
            working_dir: "/work".into(),
            ..ImageDefaults::default()
        }),
        ..PauseCase::default()
    };

    assert_json_snapshot!(case.changes());
}

#[test]
fn the_oom_score_goes_as_low_as_containerd_can_set_it() {
    let mut case = PauseCase::default();
    case.host.capabilities.0 &= !(1 << CapabilityMask::SYS_RESOURCE);
    case.host.oom_score_adj = -500;

    assert_json_snapshot!(case.changes());
}

#[test]
fn requests_that_make_no_pod_are_refused() {
    type Change = fn(&mut PauseCase);
    let changes: [Change; 9] = [
        |case| {
            case.config.dns = Some(DnsConfig {
                searches: vec!["x\nnameserver 6.6.6.6".into()],
                ..DnsConfig::default()
            });
        },
        |case| case.config.security.run_as_group = Some(1),
        |case| case.config.security.namespaces.pid = NamespaceMode::Target,
        |case| case.config.cgroup_parent = "/a.slice".into(),
        |case| case.config.hostname = "a\nb".into(),
        |case| case.image = Some(ImageDefaults::default()),
        |case| {
            case.config
                .sysctls
                .insert("kernel.core_pattern".into(), "x".into());
        },
        |case| {
            case.config.security.selinux = Some(crate::model::security::SelinuxOptions {
                level: "wrong".into(),
                ..Default::default()
            });
        },
        |case| {
            let mut user = user_namespace();
            user.mode = NamespaceMode::Container;
            case.config.security.namespaces.user = Some(user);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut case = PauseCase::default();
        change(&mut case);
        let error = case.spec().unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument, "{number}");
        if case.image.is_none() {
            assert!(check_pod(&case.config, &case.options).is_err(), "{number}");
        }
    }
}
