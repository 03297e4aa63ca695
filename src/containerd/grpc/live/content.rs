//! Blobs: write, resume, refuse, read, unpack.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::Node;
use crate::containerd::{
    Containerd, ContentWriter, LeaseId, SnapshotRequest, WriteRequest, WriteStart,
};
use crate::model::{Descriptor, Digest, Kind};

async fn lease(containerd: &Containerd) -> LeaseId {
    let id = LeaseId("pull".into());
    containerd
        .leases
        .create(&id, None, BTreeMap::new())
        .await
        .unwrap();
    id
}

fn request(blob: &[u8], lease: &LeaseId) -> WriteRequest {
    let expected = Digest::sha256(blob);
    WriteRequest {
        ingest: format!("layer-{expected}"),
        size: blob.len() as u64,
        expected,
        lease: lease.clone(),
    }
}

async fn writer(containerd: &Containerd, request: &WriteRequest) -> Box<dyn ContentWriter> {
    for _attempt in 0..100 {
        match containerd.content.open(request).await {
            Ok(WriteStart::Open(writer)) => return writer,
            Ok(WriteStart::Present) => panic!("the blob is there already"),
            Err(error) if error.kind() == Kind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(20)).await; // the last writer's stream is still closing
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the ingest stays locked")
}

#[tokio::test]
async fn a_blob_is_resumed_committed_read_and_leased() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let lease = lease(&containerd).await;
    let blob: Vec<u8> = (0..9_000_000_u32).map(|i| (i % 251) as u8).collect();
    let request = request(&blob, &lease);

    let mut first = writer(&containerd, &request).await;
    assert_eq!(first.offset(), 0);
    first
        .write(Bytes::copy_from_slice(&blob[..5_000_000]))
        .await
        .unwrap();
    let locked = containerd
        .content
        .open(&request)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(locked.kind(), Kind::Unavailable);
    drop(first);

    let mut second = writer(&containerd, &request).await;
    assert_eq!(second.offset(), 5_000_000);
    second
        .write(Bytes::copy_from_slice(&blob[5_000_000..]))
        .await
        .unwrap();
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    second.commit(labels.clone()).await.unwrap();

    let content = &containerd.content;
    let info = content.info(&request.expected).await.unwrap();
    assert_eq!((info.size, &info.labels), (request.size, &labels));
    content
        .label(
            &request.expected,
            BTreeMap::from([("b".into(), "2".into())]),
        )
        .await
        .unwrap();
    assert_eq!(
        content.info(&request.expected).await.unwrap().labels.len(),
        2
    );
    assert_eq!(
        content.read(&request.expected, request.size).await.unwrap(),
        blob
    );
    let large = content
        .read(&request.expected, request.size - 1)
        .await
        .unwrap_err();
    assert_eq!(large.kind(), Kind::ResourceExhausted);
    assert!(matches!(
        content.open(&request).await.unwrap(),
        WriteStart::Present
    ));
    let missing = content.read(&Digest::sha256(b"?"), 10).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_wrong_blob_is_refused_and_leaves_no_ingest() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let lease = lease(&containerd).await;
    let request = request(b"right", &lease);

    let mut wrong = writer(&containerd, &request).await;
    wrong.write(Bytes::from_static(b"wrong")).await.unwrap();
    let refused = wrong.commit(BTreeMap::new()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    drop(wrong);

    let mut next = writer(&containerd, &request).await;
    assert_eq!(next.offset(), 0);
    next.write(Bytes::from_static(b"wro")).await.unwrap();
    next.truncate().await.unwrap();
    next.write(Bytes::from_static(b"right")).await.unwrap();
    next.commit(BTreeMap::new()).await.unwrap();
    containerd.content.abort(&request.ingest).await.unwrap();
}

#[tokio::test]
async fn an_empty_blob_is_committed() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let lease = lease(&containerd).await;
    let request = request(b"", &lease);

    writer(&containerd, &request)
        .await
        .commit(BTreeMap::new())
        .await
        .unwrap();

    assert_eq!(
        containerd
            .content
            .read(&request.expected, 10)
            .await
            .unwrap(),
        b""
    );
}

#[tokio::test]
async fn a_layer_is_unpacked_onto_a_snapshot() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;
    let lease = lease(&containerd).await;
    let tar = node.path().join("layer.tar");
    let rootfs = node.busybox();
    let packed = std::process::Command::new("tar")
        .arg("-cf")
        .arg(&tar)
        .arg("-C")
        .arg(rootfs)
        .arg(".")
        .status();
    assert!(packed.unwrap().success());
    let blob = std::fs::read(&tar).unwrap();
    let request = request(&blob, &lease);
    let mut writer = writer(&containerd, &request).await;
    writer.write(blob.into()).await.unwrap();
    writer.commit(BTreeMap::new()).await.unwrap();

    let layer = Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        digest: request.expected.clone(),
        size: request.size,
        annotations: BTreeMap::new(),
    };
    let snapshot = SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "extract".into(),
        lease: Some(lease),
        ..SnapshotRequest::default()
    };
    let mounts = containerd.snapshots.prepare(&snapshot).await.unwrap();
    let diff_id = containerd.diff.apply(&layer, &mounts).await.unwrap();
    containerd
        .snapshots
        .commit(diff_id.as_str(), &snapshot)
        .await
        .unwrap();

    assert_eq!(diff_id, request.expected);
    let usage = containerd
        .snapshots
        .usage("overlayfs", diff_id.as_str())
        .await
        .unwrap();
    assert!(usage.bytes > 100_000);
}
