//! A pod and a container of it, as they are published.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::RUNC_SHIM;
use crate::index::{ContainerImage, ContainerUser, ContainerView, SandboxView};
use crate::model::state::{ContainerState, SandboxState};
use crate::model::{
    ContainerConfig, ContainerIdentity, PodConfig, PodIdentity, Resources, Signal, Timestamp,
};
use crate::spec::testing::{container_config, pod_config};

/// Ready, without a group or a network of its own.
pub(in crate::stats) fn sandbox() -> SandboxView {
    let config = PodConfig {
        identity: PodIdentity {
            name: "web-1".into(),
            k8s_namespace: "shop".into(),
            uid: "u".into(),
            attempt: 0,
        },
        cgroup_parent: "/pod".into(),
        ..pod_config()
    };
    SandboxView {
        id: "a".repeat(64).parse().unwrap(),
        config: Arc::new(config),
        record: "{}".into(),
        handler: String::new(),
        state: SandboxState::Ready,
        created_at: Timestamp(1),
        ips: Vec::new(),
        netns: None,
        pause_pid: None,
        runtime_type: String::new(),
        pause_image: None,
        spec: "{}".into(),
        cni_result: "null".into(),
        updated: None,
        stuck: Vec::new(),
    }
}

/// Running since second 3, with limits.
pub(in crate::stats) fn container() -> ContainerView {
    let config = ContainerConfig {
        identity: ContainerIdentity {
            name: "web".into(),
            attempt: 0,
        },
        image: "sha256:1".into(),
        ..container_config()
    };
    ContainerView {
        id: "c".repeat(64).parse().unwrap(),
        sandbox: "a".repeat(64).parse().unwrap(),
        config: Arc::new(config),
        record: "{}".into(),
        state: ContainerState::Running,
        created_at: Timestamp(2_000_000_000),
        started_at: Some(Timestamp(3_000_000_000)),
        ended: None,
        pid: None,
        image: ContainerImage {
            name: "docker.io/library/nginx:1".into(),
            ..ContainerImage::default()
        },
        volume_images: Vec::new(),
        project: None,
        restored_from: None,
        log_path: String::new(),
        resources: Resources {
            cpu_quota: Some(20_000),
            cpu_shares: Some(1_024),
            memory_limit: Some(64 << 20),
            memory_swap_limit: Some(-1),
            unified: BTreeMap::from([("memory.min".into(), "4096".into())]),
            ..Resources::default()
        },
        user: ContainerUser::default(),
        stop_signal: Signal::TERM,
        runtime_type: RUNC_SHIM.into(),
        snapshotter: "overlayfs".into(),
        spec: r#"{"ociVersion":"1.2.0","linux":{"cgroupsPath":"/pod/c"}}"#.into(),
        parked: false,
        oom_killed: false,
    }
}
