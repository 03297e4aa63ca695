//! Rules of records: containers, images, leases, snapshots.

use std::collections::BTreeMap;

use futures::StreamExt as _;

use super::Stage;
use crate::containerd::{
    ContainerRecord, Event, ImageRecord, LeaseId, Payload, RecordField, SnapshotKind,
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

pub(super) async fn container_records_are_kept_changed_by_field_and_deleted(stage: &Stage) {
    let containers = &stage.containerd.containers;

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

pub(super) async fn an_image_record_is_repointed_and_keeps_the_labels_of_others(stage: &Stage) {
    let containerd = &stage.containerd;
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

pub(super) async fn leases_are_made_twice_found_by_label_and_deleted_twice(stage: &Stage) {
    let leases = &stage.containerd.leases;
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
        leases.delete(&id, true).await.unwrap();
    }
    assert_eq!(leases.list(("ours", "1")).await.unwrap(), vec![]);
}

pub(super) async fn snapshots_are_prepared_committed_and_removed(stage: &Stage) {
    let snapshots = &stage.containerd.snapshots;
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

pub(super) async fn an_incomplete_container_record_is_refused(stage: &Stage) {
    let containers = &stage.containerd.containers;
    let broken = [
        ContainerRecord {
            id: String::new(),
            ..record("one")
        },
        ContainerRecord {
            id: "x".repeat(77),
            ..record("one")
        },
        ContainerRecord {
            runtime: String::new(),
            ..record("one")
        },
        ContainerRecord {
            spec: None,
            ..record("one")
        },
        ContainerRecord {
            snapshot_key: "k".into(),
            ..record("one")
        },
        ContainerRecord {
            labels: labels(&[("k", &"v".repeat(4096))]),
            ..record("one")
        },
    ];

    for record in broken {
        let refused = containers.create(&record).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument, "{record:?}");
    }
    assert_eq!(containers.list(None).await.unwrap(), vec![]);
}
