//! Records of containers, images, leases and snapshots; version and connection.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;

use super::Node;
use crate::containerd::{
    ContainerRecord, Event, ImageRecord, LeaseId, LinkState, Payload, RecordField, SnapshotKind,
    SnapshotRequest,
};
use crate::model::{Descriptor, Digest, Kind, Timestamp};

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

fn record(id: &str) -> ContainerRecord {
    ContainerRecord {
        id: id.into(),
        labels: labels(&[("io.cri-containerd.kind", "container"), ("a.b/c", "x\"y")]),
        runtime: "io.containerd.runc.v2".into(),
        runtime_options: Some(Payload::new(Payload::RUNC_OPTIONS, [])),
        spec: Some(Payload::new(Payload::SPEC, *b"{}")),
        extensions: BTreeMap::from([("podwright".into(), Payload::new("podwright/1", *b"1"))]),
        ..ContainerRecord::default()
    }
}

#[tokio::test]
async fn it_says_its_version_plugins_and_process() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;

    let version = containerd.introspection.version().await.unwrap();
    let plugins = containerd.introspection.plugins().await.unwrap();
    let features = containerd
        .introspection
        .runtime_features("io.containerd.runc.v2", None)
        .await;

    assert!(version.major >= 1, "{version:?}");
    let overlay = plugins
        .iter()
        .find(|plugin| plugin.id == "overlayfs")
        .unwrap();
    assert_eq!(overlay.kind, "io.containerd.snapshotter.v1");
    assert!(
        plugins
            .iter()
            .all(|plugin| plugin.id != "cri" || plugin.error.is_some())
    );
    let pid = containerd.introspection.server_pid().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "containerd");
    if version.major == 1 {
        assert_eq!(features.unwrap_err().kind(), Kind::Unimplemented);
    }
}

#[tokio::test]
async fn container_records_are_kept_changed_by_field_and_deleted() {
    let Some(node) = Node::start() else { return };
    let containers = node.client().await.containerd.containers;

    let made = containers.create(&record("one")).await.unwrap();
    containers
        .create(&ContainerRecord {
            labels: labels(&[("other", "1")]),
            ..record("two")
        })
        .await
        .unwrap();

    assert!(made.created_at > Timestamp::default());
    let again = containers.create(&record("one")).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    assert_eq!(containers.get("one").await.unwrap(), made);
    assert_eq!(
        containers.list(Some(("a.b/c", "x\"y"))).await.unwrap(),
        vec![made.clone()]
    );
    assert_eq!(containers.list(Some(("none", "x"))).await.unwrap(), vec![]);
    assert_eq!(containers.list(None).await.unwrap().len(), 2);

    let changed = ContainerRecord {
        labels: labels(&[("lost", "1")]),
        spec: Some(Payload::new(Payload::SPEC, *b"{\"a\":1}")),
        extensions: BTreeMap::from([("podwright".into(), Payload::new("podwright/1", *b"2"))]),
        ..made.clone()
    };
    containers
        .update(&changed, &[RecordField::Spec, RecordField::Extensions])
        .await
        .unwrap();
    let now = containers.get("one").await.unwrap();
    assert_eq!(
        (&now.spec, &now.extensions),
        (&changed.spec, &changed.extensions)
    );
    assert_eq!(now.labels, made.labels);

    containers.delete("one").await.unwrap();
    assert_eq!(
        containers.get("one").await.unwrap_err().kind(),
        Kind::NotFound
    );
    assert_eq!(
        containers.delete("one").await.unwrap_err().kind(),
        Kind::NotFound
    );
}

#[tokio::test]
async fn an_image_record_is_repointed_and_keeps_the_labels_of_others() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let mut events = containerd.events.subscribe().await.unwrap();
    let image = |content: &[u8], pairs| ImageRecord {
        name: "docker.io/library/a:1".into(),
        target: Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::sha256(content),
            size: 3,
            annotations: BTreeMap::new(),
        },
        labels: labels(pairs),
        created_at: Timestamp::default(),
    };

    containerd
        .images
        .put(&image(b"1", &[("theirs", "1")]), None)
        .await
        .unwrap();
    containerd
        .images
        .put(
            &image(b"2", &[("io.cri-containerd.image", "managed")]),
            None,
        )
        .await
        .unwrap();

    let stored = containerd
        .images
        .get("docker.io/library/a:1")
        .await
        .unwrap();
    assert_eq!(stored.target.digest, Digest::sha256(b"2"));
    assert_eq!(
        stored.labels,
        labels(&[("theirs", "1"), ("io.cri-containerd.image", "managed")])
    );
    assert_eq!(containerd.images.list().await.unwrap(), vec![stored]);
    containerd
        .images
        .delete("docker.io/library/a:1", true)
        .await
        .unwrap();
    containerd
        .images
        .delete("docker.io/library/a:1", false)
        .await
        .unwrap();
    assert_eq!(containerd.images.list().await.unwrap(), vec![]);
    for deleted in [false, false, true] {
        let name = "docker.io/library/a:1".into();
        assert_eq!(
            events.next().await.unwrap().unwrap(),
            Event::ImageChanged { name, deleted }
        );
    }
}

#[tokio::test]
async fn leases_are_made_twice_found_by_label_and_deleted_twice() {
    let Some(node) = Node::start() else { return };
    let leases = node.client().await.containerd.leases;
    let id = LeaseId("podwright-1".into());

    for _twice in 0..2 {
        leases
            .create(
                &id,
                Some(Timestamp::from_parts(4_000_000_000, 0)),
                labels(&[("ours", "1")]),
            )
            .await
            .unwrap();
    }

    assert_eq!(leases.list(("ours", "1")).await.unwrap(), vec![id.clone()]);
    assert_eq!(leases.list(("ours", "2")).await.unwrap(), vec![]);
    for _twice in 0..2 {
        leases.delete(&id).await.unwrap();
    }
    assert_eq!(leases.list(("ours", "1")).await.unwrap(), vec![]);
}

#[tokio::test]
async fn snapshots_are_prepared_committed_and_removed() {
    let Some(node) = Node::start() else { return };
    let snapshots = node.client().await.containerd.snapshots;
    let request = |key: &str, parent: &str| SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: key.into(),
        parent: parent.into(),
        labels: labels(&[("containerd.io/gc.root", "1")]),
        lease: None,
    };

    let mounts = snapshots.prepare(&request("work", "")).await.unwrap();
    assert_eq!(mounts.len(), 1);
    let taken = snapshots.prepare(&request("work", "")).await.unwrap_err();
    assert_eq!(taken.kind(), Kind::AlreadyExists);
    snapshots
        .commit("base", &request("work", ""))
        .await
        .unwrap();
    let again = snapshots
        .commit("base", &request("work", ""))
        .await
        .unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    snapshots.prepare(&request("top", "base")).await.unwrap();
    snapshots.view(&request("look", "base")).await.unwrap();

    let base = snapshots.stat("overlayfs", "base").await.unwrap();
    assert_eq!(
        (base.kind, base.parent.as_str()),
        (SnapshotKind::Committed, "")
    );
    assert_eq!(
        snapshots.mounts("overlayfs", "top").await.unwrap()[0].kind,
        "overlay"
    );
    assert!(snapshots.usage("overlayfs", "top").await.unwrap().inodes > 0);
    assert_eq!(snapshots.list("overlayfs").await.unwrap().len(), 3);
    let held = snapshots.remove("overlayfs", "base").await.unwrap_err();
    assert_eq!(held.kind(), Kind::FailedPrecondition);
    for key in ["look", "top", "base"] {
        snapshots.remove("overlayfs", key).await.unwrap();
    }
    let gone = snapshots.remove("overlayfs", "base").await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    let missing = snapshots
        .prepare(&request("top", "base"))
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

fn signal(node: &Node, signal: &str, pid: u32) {
    let _keeps_it_alive = node;
    let done = std::process::Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(done.unwrap().success());
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the prober needs a task, and no supervisor is near"
)]
async fn the_link_tells_a_hung_and_a_replaced_containerd() {
    let Some(node) = Node::start() else { return };
    let client = node.quick_client();
    let before = client.containerd.containers.list(None).await.unwrap_err();
    assert_eq!(before.kind(), Kind::Unavailable);
    let prober = tokio::spawn(client.prober.run());
    let (containerd, link) = (client.containerd, client.link);
    let limit = Duration::from_secs(20);
    let first = tokio::time::timeout(limit, link.until_up())
        .await
        .unwrap()
        .unwrap();
    let pid = containerd.introspection.server_pid().unwrap().0;

    signal(&node, "-STOP", pid);
    let mut state = link.subscribe();
    let down = state.wait_for(|state| matches!(state, LinkState::Down { .. }));
    tokio::time::timeout(limit, down).await.unwrap().unwrap();
    let began = std::time::Instant::now();
    let refused = containerd.containers.list(None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(began.elapsed() < Duration::from_millis(200));

    signal(&node, "-CONT", pid);
    let resumed = tokio::time::timeout(limit, link.until_up())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(resumed, first);
    containerd.containers.list(None).await.unwrap();

    let mut events = containerd.events.subscribe().await.unwrap();
    signal(&node, "-KILL", pid);
    let end = events.next().await.unwrap().unwrap_err();
    assert_eq!(end.kind(), Kind::Unavailable);
    assert!(events.next().await.is_none());
    let replaced = state
        .wait_for(|state| matches!(state, LinkState::Up { generation, .. } if *generation > first));
    tokio::time::timeout(limit, replaced)
        .await
        .unwrap()
        .unwrap();
    assert_ne!(containerd.introspection.server_pid().unwrap().0, pid);
    containerd.containers.list(None).await.unwrap();
    prober.abort();
}
