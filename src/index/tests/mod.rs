mod feed;

use std::sync::Arc;

use super::*;
use crate::model::clock::ManualClock;
use crate::model::pod::PodSecurity;
use crate::model::state::{ContainerState, SandboxState};
use crate::model::{
    ContainerConfig, ContainerIdentity, Kind, PodConfig, PodIdentity, Resources, Signal, Timestamp,
};

fn index() -> Index {
    Index::new(Arc::new(ManualClock::at(Timestamp(5))))
}

fn sandbox(id: &str, app: &str) -> SandboxView {
    let identity = PodIdentity {
        name: app.into(),
        k8s_namespace: "default".into(),
        uid: "u".into(),
        attempt: 0,
    };
    let config = PodConfig {
        identity,
        hostname: String::new(),
        log_directory: String::new(),
        dns: None,
        port_mappings: Vec::new(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
        annotations: BTreeMap::new(),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::new(),
        security: PodSecurity::default(),
        resources: None,
        overhead: None,
    };
    SandboxView {
        id: id.parse().unwrap(),
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

fn container(id: &str, sandbox: &SandboxId) -> ContainerView {
    let config = ContainerConfig {
        identity: ContainerIdentity {
            name: "c".into(),
            attempt: 0,
        },
        image: "busybox".into(),
        user_specified_image: String::new(),
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        log_path: String::new(),
        stdin: false,
        stdin_once: false,
        tty: false,
        resources: None,
        security: crate::model::container::ContainerSecurity::default(),
        stop_signal: None,
    };
    ContainerView {
        id: id.parse().unwrap(),
        sandbox: sandbox.clone(),
        config: Arc::new(config),
        record: "{}".into(),
        state: ContainerState::Created,
        created_at: Timestamp(2),
        started_at: None,
        ended: None,
        pid: None,
        image: ContainerImage::default(),
        volume_images: Vec::new(),
        project: None,
        restored_from: None,
        log_path: String::new(),
        resources: Resources::default(),
        user: ContainerUser::default(),
        stop_signal: Signal::TERM,
        runtime_type: String::new(),
        snapshotter: String::new(),
        spec: "{}".into(),
        parked: false,
        oom_killed: false,
    }
}

fn hex(first: &str) -> String {
    format!("{first:0<64}")
}

#[test]
fn a_prefix_finds_its_one_object_and_an_ambiguous_one_is_an_error() {
    let index = index();
    index.insert_sandbox(sandbox(&hex("ab1"), "web"));
    index.insert_sandbox(sandbox(&hex("ab2"), "db"));
    let now = index.snapshot();

    assert_eq!(
        now.find_sandbox("ab1")
            .unwrap()
            .unwrap()
            .sandbox
            .config
            .identity
            .name,
        "web"
    );
    assert!(now.find_sandbox("ff").unwrap().is_none());
    assert!(now.find_sandbox("../x").unwrap().is_none());
    assert_eq!(
        now.find_sandbox("ab").unwrap_err().kind(),
        Kind::InvalidArgument
    );
    assert_eq!(
        now.find_sandbox("").unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[test]
fn filters_combine_and_unknown_or_ambiguous_ids_give_empty_lists() {
    let index = index();
    index.insert_sandbox(sandbox(&hex("ab1"), "web"));
    index.insert_sandbox(sandbox(&hex("ab2"), "db"));
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    let count = |filter: &SandboxFilter| index.snapshot().list_sandboxes(filter).len();

    assert_eq!(count(&SandboxFilter::default()), 2);
    assert_eq!(
        count(&SandboxFilter {
            labels: labels.clone(),
            ready: Some(true),
            ..Default::default()
        }),
        1
    );
    assert_eq!(
        count(&SandboxFilter {
            labels,
            ready: Some(false),
            ..Default::default()
        }),
        0
    );
    assert_eq!(
        count(&SandboxFilter {
            id: "ab".into(),
            ..Default::default()
        }),
        0
    );
    assert_eq!(
        count(&SandboxFilter {
            id: "ab2".into(),
            ..Default::default()
        }),
        1
    );
}

#[test]
fn a_change_moves_the_pods_generation_and_an_old_picture_stays_as_it_was() {
    let index = index();
    let pod = sandbox(&hex("a"), "web");
    let id = pod.id.clone();
    index.insert_sandbox(pod);
    let before = index.snapshot();
    index.insert_container(container(&hex("c"), &id)).unwrap();
    let container_id = hex("c").parse().unwrap();

    index
        .container_event(&container_id, ContainerEvent::StartAsked, |_| ())
        .unwrap();

    let after = index.snapshot();
    assert!(after.pod(&id).unwrap().generation > before.pod(&id).unwrap().generation);
    assert!(before.container(&container_id).is_none());
    assert_eq!(
        after.container(&container_id).unwrap().state,
        ContainerState::Starting
    );
}

#[test]
fn a_transition_outside_the_table_is_refused_and_publishes_nothing() {
    let index = index();
    let pod = sandbox(&hex("a"), "web");
    let id = pod.id.clone();
    index.insert_sandbox(pod);
    let generation = index.snapshot().generation();

    let refused = index
        .sandbox_event(&id, SandboxEvent::Started, |_| ())
        .unwrap_err();

    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    assert_eq!(index.snapshot().generation(), generation);
}

#[test]
fn a_parked_container_is_found_by_id_and_not_listed() {
    let index = index();
    let pod = sandbox(&hex("a"), "web");
    let mut parked = container(&hex("c"), &pod.id);
    parked.parked = true;
    index.insert_sandbox(pod);
    index.insert_container(parked).unwrap();

    let now = index.snapshot();
    assert!(now.find_container("c").unwrap().is_some());
    assert!(now.list_containers(&ContainerFilter::default()).is_empty());
}
