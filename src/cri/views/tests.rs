use std::sync::Arc;
use std::time::Duration;

use rstest::rstest;

use super::*;
use crate::containerd::Payload;
use crate::index::{ContainerImage, ContainerUser};
use crate::logs::{Dropped, PumpStats};
use crate::model::state::{ContainerState, SandboxState};
use crate::model::{
    ContainerConfig, ContainerId, Kind, Pid, PodConfig, Resources, SandboxId, Signal, Termination,
};
use crate::ops::{Passage, StepTime};
use crate::sandbox::RuntimeHandler;
use crate::wire::{record, runc};

fn id<T: std::str::FromStr<Err = Error>>(digit: &str) -> T {
    digit.repeat(64).parse().unwrap()
}

fn sandbox() -> SandboxView {
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        labels: [("app".into(), "web".into())].into(),
        ..Default::default()
    };
    SandboxView {
        id: id::<SandboxId>("a"),
        record: record::pod_record(&config).unwrap().into(),
        config: Arc::new(PodConfig::try_from(config).unwrap()),
        handler: "crun".into(),
        state: SandboxState::Ready,
        created_at: Timestamp(7),
        ips: vec!["10.0.0.5".into(), "fd00::5".into()],
        netns: Some("/run/netns/x".into()),
        pause_pid: Some(Pid(42)),
        runtime_type: "io.containerd.runc.v2".into(),
        pause_image: None,
        spec: r#"{"ociVersion":"1.2.0"}"#.into(),
        cni_result: "null".into(),
        updated: None,
        stuck: Vec::new(),
    }
}

fn container() -> ContainerView {
    let config = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "nginx".into(),
            attempt: 1,
        }),
        image: Some(cri::ImageSpec {
            image: "sha256:1".into(),
            user_specified_image: "nginx".into(),
            ..Default::default()
        }),
        mounts: vec![cri::Mount {
            container_path: "/data".into(),
            host_path: "/srv/link".into(),
            propagation: cri::MountPropagation::PropagationBidirectional.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    ContainerView {
        id: id::<ContainerId>("c"),
        sandbox: id::<SandboxId>("a"),
        record: record::container_record(&config).unwrap().into(),
        config: Arc::new(ContainerConfig::try_from(config).unwrap()),
        state: ContainerState::Running,
        created_at: Timestamp(8),
        started_at: Some(Timestamp(9)),
        ended: None,
        pid: Some(Pid(43)),
        image: ContainerImage {
            id: "sha256:1".into(),
            reference: "docker.io/library/nginx@sha256:2".into(),
            name: "docker.io/library/nginx:latest".into(),
        },
        volume_images: Vec::new(),
        project: None,
        restored_from: None,
        log_path: "/var/log/pods/x/0.log".into(),
        resources: Resources {
            cpu_shares: Some(512),
            ..Resources::default()
        },
        user: ContainerUser {
            uid: 1000,
            gid: 1001,
            groups: vec![1001, 2000],
        },
        stop_signal: Signal::TERM,
        runtime_type: "io.containerd.runc.v2".into(),
        snapshotter: "overlayfs".into(),
        spec: "{}".into(),
        parked: false,
        oom_killed: false,
    }
}

#[test]
fn a_ready_sandbox_shows_its_addresses_and_the_asked_namespaces() {
    let status = sandbox_status(&sandbox());

    let network = status.network.unwrap();
    assert_eq!(network.ip, "10.0.0.5");
    assert_eq!(network.additional_ips[0].ip, "fd00::5");
    assert_eq!(status.state, cri::PodSandboxState::SandboxReady as i32);
    assert_eq!(status.metadata.unwrap().attempt, 2);
    assert_eq!(status.runtime_handler, "crun");
    assert_eq!(
        status.linux.unwrap().namespaces.unwrap().options,
        Some(cri::NamespaceOption::default())
    );
}

#[test]
fn whatever_is_not_ready_is_listed_not_ready() {
    for state in SandboxState::ALL {
        let item = sandbox_item(&SandboxView { state, ..sandbox() });

        let ready = item.state == cri::PodSandboxState::SandboxReady as i32;
        assert_eq!(ready, state == SandboxState::Ready, "{state:?}");
    }
}

#[test]
fn a_running_container_shows_its_mounts_user_and_limits_as_they_were_asked() {
    let status = container_status(&container());

    assert_eq!(status.state, cri::ContainerState::ContainerRunning as i32);
    assert_eq!((status.started_at, status.finished_at), (9, 0));
    assert_eq!((status.reason.as_str(), status.exit_code), ("", 0));
    assert_eq!(
        status.image.unwrap().image,
        "docker.io/library/nginx:latest"
    );
    assert_eq!(status.image_ref, "docker.io/library/nginx@sha256:2");
    assert_eq!(status.image_id, "sha256:1");
    assert_eq!(status.mounts[0].host_path, "/srv/link");
    assert_eq!(status.mounts[0].propagation, 2);
    assert_eq!(status.stop_signal, cri::Signal::Sigterm as i32);
    assert_eq!(status.resources.unwrap().linux.unwrap().cpu_shares, 512);
    assert_eq!(
        status.user.unwrap().linux.unwrap().supplemental_groups,
        [1001, 2000]
    );
}

#[rstest]
#[case::clean(Termination::exited(0, Timestamp(10)), false, "Completed", 0)]
#[case::failed(Termination::exited(3, Timestamp(10)), false, "Error", 3)]
#[case::out_of_memory(Termination::exited(137, Timestamp(10)), true, "OOMKilled", 137)]
#[case::no_start(
    Termination::start_failed("no such file", Timestamp(10)),
    false,
    "StartError",
    128
)]
fn an_exited_container_says_why(
    #[case] ended: Termination,
    #[case] oom_killed: bool,
    #[case] reason: &str,
    #[case] code: i32,
) {
    let status = container_status(&ContainerView {
        state: ContainerState::Exited,
        ended: Some(ended),
        oom_killed,
        ..container()
    });

    assert_eq!(status.state, cri::ContainerState::ContainerExited as i32);
    assert_eq!((status.reason.as_str(), status.exit_code), (reason, code));
    assert_eq!(status.finished_at, 10);
}

#[test]
fn no_image_field_is_ever_empty() {
    let bare = ContainerView {
        image: ContainerImage::default(),
        ..container()
    };

    let (status, item) = (container_status(&bare), container_item(&bare));

    assert_eq!(status.image.unwrap().image, "sha256:1");
    assert_eq!(status.image_ref, "sha256:1");
    assert_eq!(item.image_ref, "sha256:1");
    assert_eq!(item.image.unwrap().user_specified_image, "nginx");
}

fn handler() -> RuntimeHandler {
    let options = runc::Options {
        binary_name: "/usr/bin/crun".into(),
        systemd_cgroup: true,
        ..Default::default()
    };
    let config = crate::config::Config::parse("").unwrap();
    let settings = config.runtimes.handlers.values().next().cloned().unwrap();
    RuntimeHandler {
        settings,
        options: Some(Payload::new(Payload::RUNC_OPTIONS, options.encoded())),
        no_user_namespaces: None,
        spec: Default::default(),
    }
}

#[rstest]
#[case(0, 127)]
#[case(128, 200_000)]
#[case(u32::MAX, 1)]
fn the_streams_get_another_owner_and_the_other_options_stay(#[case] uid: u32, #[case] gid: u32) {
    let options = handler().options.unwrap();
    let owned = options.with_io_owner(5, 5).with_io_owner(uid, gid);
    let read = runc::Options::decoded(&owned.value).unwrap();

    assert_eq!((read.io_uid, read.io_gid), (uid, gid));
    assert_eq!(read.binary_name, "/usr/bin/crun");
    assert!(read.systemd_cgroup);
}

#[test]
fn verbose_info_is_one_json_object_with_the_stored_texts_inside() {
    let handler = handler();
    let step = StepTime {
        name: "netns",
        began: Timestamp(3_000),
        ended: None,
    };
    let start = Passage {
        kind: "RunPodSandbox",
        object: "web".into(),
        began: Timestamp(1_000),
        ended: Some(Timestamp(9_000)),
        steps: vec![step],
    };
    let shown = info::sandbox(&sandbox(), Some(&handler), vec![start]).unwrap();
    let read: serde_json::Value = serde_json::from_str(&shown["info"]).unwrap();

    assert_eq!(read["pid"], 42);
    assert_eq!(read["config"]["metadata"]["name"], "web");
    assert_eq!(read["runtimeSpec"]["ociVersion"], "1.2.0");
    assert_eq!(read["cniResult"], serde_json::Value::Null);
    assert_eq!(read["netNamespaceClosed"], false);
    assert_eq!(
        read["timeline"],
        serde_json::json!([{
            "operation": "RunPodSandbox",
            "object": "web",
            "startedAt": 1_000,
            "tookUs": 8,
            "steps": [{"step": "netns", "atUs": 2}],
        }])
    );
    assert_eq!(read["image"], "");
    assert_eq!(
        read["runtimeOptions"],
        serde_json::json!({"binary_name": "/usr/bin/crun", "systemd_cgroup": true})
    );
    assert_eq!(read["sandboxMetadata"]["Version"], "v1");
    let metadata = &read["sandboxMetadata"]["Metadata"];
    assert_eq!(metadata["Config"]["metadata"]["name"], "web");
    assert_eq!(metadata["NetNSPath"], "/run/netns/x");
    assert_eq!(metadata["IP"], "10.0.0.5");
    assert_eq!(metadata["AdditionalIPs"][0], "fd00::5");

    let logged = PumpStats {
        records: 7,
        over_rate: Dropped {
            records: 2,
            bytes: 9,
        },
        held_for: Some(Duration::from_millis(1_500)),
        ..PumpStats::default()
    };
    let shown = info::container(&container(), Some(&handler), Some(logged)).unwrap();
    let read: serde_json::Value = serde_json::from_str(&shown["info"]).unwrap();
    assert_eq!(read["sandboxID"], "a".repeat(64));
    assert_eq!(read["pid"], 43);
    assert_eq!(read["config"]["mounts"][0]["host_path"], "/srv/link");
    assert_eq!(read["snapshotKey"], "c".repeat(64));
    let log = &read["log"];
    assert_eq!(log["records"], 7);
    assert_eq!(log["overRate"]["bytes"], 9);
    assert_eq!(log["heldForMs"], 1_500);
    assert_eq!(read["runtimeOptions"]["systemd_cgroup"], true);

    let resized = SandboxView {
        updated: Some((
            Some(Resources {
                cpu_shares: Some(7),
                ..Default::default()
            }),
            None,
        )),
        ..sandbox()
    };
    let shown = info::sandbox(&resized, None, Vec::new()).unwrap();
    let read: serde_json::Value = serde_json::from_str(&shown["info"]).unwrap();
    assert_eq!(
        read["resources"],
        serde_json::json!({"linux": {"cpu_shares": 7}})
    );

    let quiet = info::container(&container(), None, None).unwrap();
    assert!(!quiet["info"].contains("\"log\""));
}

#[test]
fn filters_carry_every_part_and_refuse_states_that_are_none() {
    let pods = sandbox_filter(Some(cri::PodSandboxFilter {
        id: "ab".into(),
        state: Some(cri::PodSandboxStateValue { state: 1 }),
        label_selector: [("app".into(), "web".into())].into(),
    }))
    .unwrap();
    let containers = container_filter(Some(cri::ContainerFilter {
        pod_sandbox_id: "ab".into(),
        state: Some(cri::ContainerStateValue { state: 1 }),
        ..Default::default()
    }))
    .unwrap();

    assert_eq!(
        (pods.id.as_str(), pods.ready, pods.labels.len()),
        ("ab", Some(false), 1)
    );
    assert_eq!(
        (containers.sandbox.as_str(), containers.state),
        ("ab", Some(ListedState::Running))
    );
    assert_eq!(sandbox_filter(None).unwrap().ready, None);
    let bad = cri::ContainerFilter {
        state: Some(cri::ContainerStateValue { state: 4 }),
        ..Default::default()
    };
    assert_eq!(
        container_filter(Some(bad)).unwrap_err().kind(),
        Kind::InvalidArgument
    );
}
