//! Rules of blobs: write, resume, refuse, read, unpack.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;

use super::Stage;
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

pub(super) async fn a_blob_is_resumed_committed_read_and_leased(stage: &Stage) {
    let containerd = &stage.containerd;
    let lease = lease(containerd).await;
    let blob: Vec<u8> = (0..9_000_000_u32).map(|i| (i % 251) as u8).collect();
    let request = request(&blob, &lease);

    let mut first = writer(containerd, &request).await;
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

    let mut second = writer(containerd, &request).await;
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

pub(super) async fn a_wrong_blob_is_refused_and_leaves_no_ingest(stage: &Stage) {
    let containerd = &stage.containerd;
    let lease = lease(containerd).await;
    let request = request(b"right", &lease);

    let mut wrong = writer(containerd, &request).await;
    wrong.write(Bytes::from_static(b"wrong")).await.unwrap();
    let refused = wrong.commit(BTreeMap::new()).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition);
    drop(wrong);

    let mut next = writer(containerd, &request).await;
    assert_eq!(next.offset(), 0);
    next.write(Bytes::from_static(b"wro")).await.unwrap();
    next.truncate().await.unwrap();
    next.write(Bytes::from_static(b"right")).await.unwrap();
    next.commit(BTreeMap::new()).await.unwrap();
    containerd.content.abort(&request.ingest).await.unwrap();
}

pub(super) async fn an_empty_blob_is_committed(stage: &Stage) {
    let containerd = &stage.containerd;
    let lease = lease(containerd).await;
    let request = request(b"", &lease);

    writer(containerd, &request)
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

/// A tar archive of one file.
fn tar(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut field =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", data.len()));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(super) async fn a_plain_layer_is_unpacked(stage: &Stage) {
    let layer = tar("file", &[7; 8192]);
    unpack(
        stage,
        "application/vnd.oci.image.layer.v1.tar",
        &layer,
        &layer,
    )
    .await;
}

pub(super) async fn a_compressed_layer_is_unpacked(stage: &Stage) {
    let layer = tar("file", &[7; 8192]);
    unpack(
        stage,
        "application/vnd.oci.image.layer.v1.tar+gzip",
        &gzip(&layer),
        &layer,
    )
    .await;
}

async fn unpack(stage: &Stage, media_type: &str, blob: &[u8], plain: &[u8]) {
    let containerd = &stage.containerd;
    let lease = lease(containerd).await;
    let request = request(blob, &lease);
    let mut writer = writer(containerd, &request).await;
    writer.write(Bytes::copy_from_slice(blob)).await.unwrap();
    writer.commit(BTreeMap::new()).await.unwrap();
    let layer = Descriptor {
        media_type: media_type.into(),
        digest: request.expected.clone(),
        size: request.size,
        annotations: BTreeMap::new(),
    };
    let snapshot = SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "extract".into(),
        labels: BTreeMap::from([("containerd.io/snapshot.ref".into(), "chain".into())]),
        lease: Some(lease),
        ..SnapshotRequest::default()
    };

    let mounts = containerd.snapshots.prepare(&snapshot).await.unwrap();
    let diff_id = containerd.diff.apply(&layer, &mounts).await.unwrap();
    containerd
        .snapshots
        .commit("chain", &snapshot)
        .await
        .unwrap();

    assert_eq!(diff_id, Digest::sha256(plain));
    let usage = containerd
        .snapshots
        .usage("overlayfs", "chain")
        .await
        .unwrap();
    assert!(usage.bytes >= 8192, "{usage:?}");
    let again = SnapshotRequest {
        key: "extract-2".into(),
        ..snapshot
    };
    let done = containerd.snapshots.prepare(&again).await.unwrap_err();
    assert_eq!(done.kind(), Kind::AlreadyExists);
}

pub(super) async fn an_unknown_lease_protects_nothing(stage: &Stage) {
    let request = request(b"blob", &LeaseId("nobody".into()));

    let opened = stage.containerd.content.open(&request).await.map(|_| ());

    assert_eq!(opened.unwrap_err().kind(), Kind::NotFound);
}

pub(super) async fn what_no_lease_protects_is_collected(stage: &Stage) {
    let containerd = &stage.containerd;
    let lease = lease(containerd).await;
    let request = request(b"blob", &lease);
    let mut writer = writer(containerd, &request).await;
    writer.write(Bytes::from_static(b"blob")).await.unwrap();
    writer.commit(BTreeMap::new()).await.unwrap();
    let snapshot = |key: &str, root: &[(&str, &str)]| SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: key.into(),
        labels: root
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        lease: Some(lease.clone()),
        ..SnapshotRequest::default()
    };
    containerd
        .snapshots
        .prepare(&snapshot("lost", &[]))
        .await
        .unwrap();
    containerd
        .snapshots
        .prepare(&snapshot("kept", &[("containerd.io/gc.root", "1")]))
        .await
        .unwrap();

    containerd.leases.delete(&lease, false).await.unwrap();
    containerd.images.delete("none", true).await.unwrap();
    let lost = async {
        while containerd.snapshots.stat("overlayfs", "lost").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), lost)
        .await
        .unwrap();

    assert!(containerd.content.info(&request.expected).await.is_err());
    assert!(containerd.snapshots.stat("overlayfs", "kept").await.is_ok());
}
