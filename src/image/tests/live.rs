//! The same against a real containerd: real layers, real unpacking, real garbage collection.

use std::io::Write as _;

use super::*;
use crate::containerd::SnapshotRequest;
use crate::containerd::grpc::live::Node;

const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layer: its tar, and the same zipped.
struct RealLayer {
    diff_id: Digest,
    blob: Vec<u8>,
}

fn layer(files: &[(&str, &[u8])]) -> RealLayer {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *body).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    RealLayer {
        diff_id: Digest::sha256(&tar),
        blob: gzip.finish().unwrap(),
    }
}

/// Bytes that do not compress, so that a layer is as large on the way as it is unpacked.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn shelve(shelf: &mut Shelf, tag: &str, layers: &[RealLayer]) -> Digest {
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    let config = serde_json::json!({"os": "linux", "architecture": "amd64",
        "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let blobs: Vec<_> = layers
        .iter()
        .map(|layer| {
            let digest = shelf.blob(layer.blob.clone());
            serde_json::json!({"mediaType": GZIP_LAYER, "digest": digest, "size": layer.blob.len()})
        })
        .collect();
    let size = config.len();
    let id = shelf.blob(config);
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": blobs,
        "config": {"mediaType": CONFIG, "digest": id, "size": size}});
    shelf.manifest(Some(tag), MANIFEST, manifest.to_string());
    id
}

async fn live_rig(node: &Node) -> Images {
    let clock: Arc<dyn Clock> = Arc::new(crate::model::clock::SystemClock);
    // Binds and plain directories work on every file system, also where the tests run in a container.
    let text = "[containerd]\nsnapshotter = \"native\"\n[images]\nregistry_config_path = []\n";
    let images = Images::new(ImageParts {
        containerd: node.client().await.containerd,
        registry: Registry::new(Settings::default()),
        supervisor: Supervisor::new(),
        live: LiveTable::new(Arc::clone(&clock)),
        index: Arc::new(Index::new(Arc::clone(&clock))),
        clock,
        config: config::Shared::new(Config::parse(text).unwrap()),
    });
    images.load().await.unwrap();
    images
}

async fn pull(images: &Images, stub: &Stub, tag: &str) -> Result<Digest> {
    let request = PullRequest {
        reference: format!("{}/team/app:{tag}", stub.authority()),
        credentials: None,
        runtime_handler: String::new(),
    };
    images.pull(request).await
}

/// Where the files of a container of this image would lie.
async fn rootfs(node: &Node, view: &ImageView) -> std::path::PathBuf {
    let containerd = node.client().await.containerd;
    let request = SnapshotRequest {
        snapshotter: "native".into(),
        key: "look".into(),
        parent: view.chain_id.as_ref().unwrap().to_string(),
        // Nothing refers to it, and garbage is collected while we look.
        labels: BTreeMap::from([("containerd.io/gc.root".to_owned(), "1".to_owned())]),
        ..SnapshotRequest::default()
    };
    let mounts = containerd.snapshots.prepare(&request).await.unwrap();
    mounts[0].source.clone().into()
}

#[tokio::test]
async fn an_image_is_pulled_over_a_broken_line_used_restarted_and_removed() {
    let Some(node) = Node::start() else {
        return;
    };
    let big = noise(6 << 20);
    let layers = [
        layer(&[("etc/motd", b"below"), ("gone", b"x"), ("big", &big)]),
        layer(&[("etc/motd", b"above"), (".wh.gone", b"")]),
    ];
    let mut shelf = Shelf::default();
    let id = shelve(&mut shelf, "v1", &layers);
    let breaks = std::sync::atomic::AtomicUsize::new(0);
    let stub = Stub::start(move |seen| {
        let reply = shelf.answer(seen);
        let is_blob = seen.path.contains("/blobs/");
        if is_blob && breaks.fetch_add(1, Ordering::SeqCst) < 3 {
            reply.cut_at(1_500_000)
        } else {
            reply
        }
    });
    let images = live_rig(&node).await;

    assert_eq!(pull(&images, &stub, "v1").await.unwrap(), id);

    let view = images.resolve_local(id.as_str()).unwrap().unwrap();
    let root = rootfs(&node, &view).await;
    assert_eq!(std::fs::read(root.join("etc/motd")).unwrap(), b"above");
    assert!(std::fs::read(root.join("big")).unwrap() == big);
    assert!(!root.join("gone").exists());
    images.measure().await.unwrap();
    let usage = images.fs_info();
    assert!(usage[0].used_bytes > 6 << 20, "{usage:?}");
    assert!(
        usage[0]
            .mountpoint
            .ends_with("io.containerd.snapshotter.v1.native")
    );

    let again = live_rig(&node).await;
    let seen = again.resolve_local("sha256:").unwrap();
    assert!(seen.is_none());
    assert_eq!(again.list(None).unwrap()[0].repo_tags, view.repo_tags);

    let containerd = node.client().await.containerd;
    containerd.snapshots.remove("native", "look").await.unwrap();
    again.remove(&view.repo_tags[0]).await.unwrap();
    assert!(containerd.images.list().await.unwrap().is_empty());
    assert!(
        containerd
            .snapshots
            .list("native")
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        containerd
            .content
            .info(&id)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn images_that_share_layers_are_pulled_at_once_and_survive_each_others_removal() {
    let Some(node) = Node::start() else {
        return;
    };
    let mut shelf = Shelf::default();
    let base = || layer(&[("base", &noise(2 << 20))]);
    let tags = ["a", "b", "c", "d"];
    for tag in tags {
        shelve(
            &mut shelf,
            tag,
            &[base(), layer(&[("own", tag.as_bytes())])],
        );
    }
    let stub = serve(shelf);
    let images = live_rig(&node).await;

    let pulls = tags.map(|tag| pull(&images, &stub, tag));
    let ids: Vec<Digest> = futures::future::try_join_all(pulls).await.unwrap();
    for id in ids.get(1..).unwrap() {
        images.remove(id.as_str()).await.unwrap();
    }

    let view = images.resolve_local(ids[0].as_str()).unwrap().unwrap();
    let root = rootfs(&node, &view).await;
    assert_eq!(std::fs::read(root.join("own")).unwrap(), b"a");
    assert_eq!(std::fs::read(root.join("base")).unwrap().len(), 2 << 20);
    assert_eq!(pull(&images, &stub, "a").await.unwrap(), ids[0]);
}
