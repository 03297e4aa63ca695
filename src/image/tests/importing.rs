use bytes::Bytes;
use futures::StreamExt as _;

use super::*;

fn tarball(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, body) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, body.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (
        format!("blobs/sha256/{}", Digest::sha256(bytes).hex()),
        bytes.to_vec(),
    )
}

fn oci_archive(name: &str) -> Vec<(String, Vec<u8>)> {
    let config = config_json(&["one", "two"]);
    let manifest = manifest_json(&config, &["one", "two"]);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": Digest::sha256(&manifest), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": name},
    }]});
    vec![
        (
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        blob(b"one"),
        blob(b"two"),
        blob(&config),
        blob(&manifest),
        ("index.json".into(), index.to_string().into_bytes()),
    ]
}

async fn rig() -> (Rig, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let rig = Rig::new(
        &World::new(),
        &format!("[server]\nroot_dir = \"{}\"", state.path().display()),
    );
    rig.images.load().await.unwrap();
    (rig, state)
}

async fn import(rig: &Rig, reference: Option<&str>, archive: Vec<u8>) -> Result<Imported> {
    let chunks: Vec<Result<Bytes>> = archive
        .chunks(1000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    let request = ImportRequest {
        reference: reference.map(str::to_owned),
        bytes: futures::stream::iter(chunks).boxed(),
    };
    rig.images.import(request).await
}

#[tokio::test]
async fn an_oci_archive_becomes_an_image_under_its_own_or_a_given_name() {
    let (rig, _state) = rig().await;
    rig.world.collect_eagerly();
    let archive = tarball(&oci_archive("docker.io/library/demo:v1"));
    let size = archive.len() as u64;

    let made = import(&rig, None, archive.clone()).await.unwrap();
    assert_eq!(made.references, ["docker.io/library/demo:v1"]);
    assert_eq!(made.bytes, size);
    let renamed = import(&rig, Some("local/demo"), archive).await.unwrap();

    assert_eq!(renamed.references, ["docker.io/local/demo:latest"]);
    assert_eq!(renamed.image_id, made.image_id);
    rig.world.collect_garbage();
    let view = rig.view("demo:v1");
    assert_eq!(view.repo_tags.len(), 2);
    assert!(view.repo_digests.is_empty());
    assert_eq!(rig.left("snapshot").len(), 2);
    assert!(rig.left("lease").is_empty());
}

#[tokio::test]
async fn what_docker_saved_becomes_an_image_also_zipped() {
    let (rig, _state) = rig().await;
    let config = config_json(&["one", "two"]);
    let listing = serde_json::json!([{"Config": "abc.json", "RepoTags": ["demo:v2"],
        "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let archive = tarball(&[
        ("abc.json".into(), config.clone()),
        ("1/layer.tar".into(), b"one".to_vec()),
        ("2/layer.tar".into(), b"two".to_vec()),
        ("manifest.json".into(), listing.to_string().into_bytes()),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &archive).unwrap();

    let made = import(&rig, None, gzip.finish().unwrap()).await.unwrap();

    assert_eq!(made.image_id, Digest::sha256(&config));
    assert_eq!(made.references, ["docker.io/library/demo:v2"]);
    assert_eq!(rig.view("demo:v2").layers.len(), 2);
}

#[tokio::test]
async fn a_blob_under_a_false_name_and_a_missing_one_are_refused() {
    let (rig, state) = rig().await;
    for broken in ["one", "config", "manifest"] {
        let mut files = oci_archive("docker.io/library/demo:v1");
        let at = match broken {
            "one" => 1,
            "config" => 3,
            _ => 4,
        };
        files[at].1[0] ^= 1;
        assert!(
            import(&rig, None, tarball(&files)).await.is_err(),
            "{broken} changed"
        );
        files.remove(at);
        assert!(
            import(&rig, None, tarball(&files)).await.is_err(),
            "{broken} missing"
        );
    }
    assert!(
        import(&rig, None, tarball(&[("x".into(), vec![1])]))
            .await
            .is_err()
    );
    assert!(import(&rig, None, vec![0xff; 4096]).await.is_err());
    assert!(rig.left("image").is_empty());
    let spool = state.path().join("import");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0);
}

#[tokio::test]
async fn an_exported_image_is_an_archive_that_imports_as_the_same_image() {
    let mut shelf = Shelf::default();
    let long = "x".repeat(3 << 20);
    make(&mut shelf, Some("v1"), &["one", &long, "one"]);
    let stub = serve(shelf);
    let from = Rig::loaded().await;
    let id = from.pull(&stub, ":v1").await.unwrap();
    let name = format!("{}/team/app:v1", stub.authority());

    let pieces = from.images.export(&name).await.unwrap();
    let pieces: Vec<_> = futures::StreamExt::collect::<Vec<_>>(pieces).await;
    let longest = pieces
        .iter()
        .map(|piece| piece.as_ref().unwrap().len())
        .max();
    assert!(longest <= Some((1 << 20) + 512), "{longest:?}");

    let (to, _state) = rig().await;
    let imported = to
        .images
        .import(ImportRequest {
            reference: None,
            bytes: Box::pin(futures::stream::iter(pieces)),
        })
        .await
        .unwrap();
    assert_eq!(imported.image_id, id);
    assert_eq!(imported.references, [name]);
    assert_eq!(to.view(id.as_str()).layers.len(), 3);

    let unknown = from.images.export("none.example/none:1").await;
    assert_eq!(
        unknown.err().map(|error| error.kind()),
        Some(Kind::NotFound)
    );
}
