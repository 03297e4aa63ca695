use super::*;

#[tokio::test]
async fn a_pull_by_tag_makes_three_records_and_survives_garbage_collection() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["one", "two", "three"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    rig.world.collect_eagerly();

    let id = rig.pull(&stub, ":v1").await.unwrap();
    rig.world.collect_garbage();

    assert_eq!(id, made.config);
    let name = format!("{}/team/app", stub.authority());
    let view = rig.view(&format!("{name}:v1"));
    assert_eq!(view.repo_tags, [format!("{name}:v1")]);
    assert_eq!(view.repo_digests, [format!("{name}@{}", made.manifest)]);
    assert_eq!(view.user, ImageUser::Uid(1002));
    assert_eq!(view.size, made.size);
    assert_eq!(rig.left("image").len(), 3);
    assert_eq!(rig.left("snapshot").len(), 3);
    assert_eq!(rig.left("blob").len(), 5);
    assert!(rig.left("lease").is_empty() && rig.left("ingest").is_empty());
    let record = rig
        .world
        .containerd()
        .images
        .get(id.as_str())
        .await
        .unwrap();
    assert_eq!(record.labels["io.cri-containerd.image"], "managed");
}

#[tokio::test]
async fn blobs_carry_the_labels_that_other_clients_expect() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    rig.pull(&stub, ":v1").await.unwrap();

    let manifest = rig.labels(&made.manifest).await;
    assert_eq!(
        manifest["containerd.io/gc.ref.content.config"],
        made.config.to_string()
    );
    assert_eq!(
        manifest["containerd.io/gc.ref.content.l.1"],
        made.layers[1].to_string()
    );
    assert_eq!(
        manifest["containerd.io/distribution.source.127.0.0.1"],
        "team/app"
    );
    let config = rig.labels(&made.config).await;
    let top = rig.view(made.config.as_str()).chain_id.clone().unwrap();
    assert_eq!(
        config["containerd.io/gc.ref.snapshot.overlayfs"],
        top.to_string()
    );
    let layer = rig.labels(&made.layers[0]).await;
    assert_eq!(
        layer["containerd.io/uncompressed"],
        Digest::sha256(b"one").to_string()
    );
    assert_eq!(
        layer["containerd.io/distribution.source.127.0.0.1"],
        "team/app"
    );
}

#[tokio::test]
async fn a_pull_by_digest_has_no_tag_and_one_repo_digest() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, None, &["one"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    rig.pull(&stub, &format!(":ignored@{}", made.manifest))
        .await
        .unwrap();

    let view = rig.view(made.config.as_str());
    assert!(view.repo_tags.is_empty());
    assert_eq!(view.repo_digests.len(), 1);
}

#[tokio::test]
async fn of_an_index_the_machines_own_manifest_is_taken_and_every_child_referred_to() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, None, &["one"]);
    let child = |digest: &Digest, size: u64, arch: &str| {
        serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": arch}})
    };
    let config = config_json(&["one"]);
    let size = manifest_json(&config, &["one"]).len() as u64;
    let here = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let foreign = Digest::sha256(b"elsewhere");
    let body = serde_json::json!({"schemaVersion": 2, "manifests":
        [child(&foreign, 9, "s390x"), child(&made.manifest, size, here)]});
    let index = shelf.manifest(Some("v1"), INDEX, body.to_string());
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    rig.pull(&stub, ":v1").await.unwrap();

    let view = rig.view(made.config.as_str());
    assert_eq!(view.target.digest, index);
    assert_eq!(view.size, made.size + body.to_string().len() as u64);
    let labels = rig.labels(&index).await;
    assert_eq!(
        labels["containerd.io/gc.ref.content.m.0"],
        foreign.to_string()
    );
    assert_eq!(
        labels["containerd.io/gc.ref.content.m.1"],
        made.manifest.to_string()
    );
}

#[tokio::test]
async fn a_second_pull_asks_the_registry_and_fetches_nothing() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    rig.pull(&stub, ":v1").await.unwrap();
    let before = stub.lines().len();

    rig.pull(&stub, ":v1").await.unwrap();

    let after = stub.lines();
    assert_eq!(after[before..], ["HEAD /v2/team/app/manifests/v1"]);
}

#[tokio::test]
async fn a_second_pull_writes_nothing_unless_something_was_lost() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    let id = rig.pull(&stub, ":v1").await.unwrap();
    let view = rig.view(id.as_str());

    rig.world.clear_trace();
    assert_eq!(rig.pull(&stub, ":v1").await.unwrap(), id);
    let reads = rig.world.trace();
    let cheap = ["images.get", "snapshots.stat", "leases.delete"];
    let is_cheap = |line: &String| cheap.iter().any(|call| line.starts_with(call));
    assert!(reads.iter().all(is_cheap), "{reads:#?}");

    let containerd = rig.world.containerd();
    let top = view.layers.last().unwrap().chain_id.clone();
    containerd
        .snapshots
        .remove("overlayfs", top.as_str())
        .await
        .unwrap();
    assert_eq!(rig.pull(&stub, ":v1").await.unwrap(), id);
    containerd
        .snapshots
        .stat("overlayfs", top.as_str())
        .await
        .unwrap();

    containerd
        .images
        .delete(&view.repo_tags[0], false)
        .await
        .unwrap();
    assert_eq!(rig.pull(&stub, ":v1").await.unwrap(), id);
    containerd.images.get(&view.repo_tags[0]).await.unwrap();
}

#[tokio::test]
async fn a_present_image_is_refused_to_credentials_that_the_registry_refuses() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one"]);
    let stub = Stub::start(move |seen| match seen.header("authorization") {
        Some("Basic dXNlcjpnb29k") => shelf.answer(seen),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let rig = Rig::loaded().await;

    let (good, bad) = tokio::join!(
        rig.pull_as(&stub, ":v1", password("good")),
        rig.pull_as(&stub, ":v1", password("bad"))
    );

    good.unwrap();
    assert_eq!(bad.unwrap_err().kind(), Kind::Unauthenticated);
    assert!(rig.pull(&stub, ":v1").await.is_err());
}

#[tokio::test]
async fn equal_pulls_at_once_fetch_once() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let pulls = (0..8).map(|_| rig.pull(&stub, ":v1"));
    for result in futures::future::join_all(pulls).await {
        result.unwrap();
    }

    let lines = stub.lines();
    let heads = lines.iter().filter(|line| line.starts_with("HEAD")).count();
    assert_eq!((heads, lines.len()), (1, 5), "{lines:?}");
}

#[tokio::test]
async fn two_images_that_share_layers_unpack_them_once() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("a"), &["base", "middle", "a"]);
    make(&mut shelf, Some("b"), &["base", "middle", "b"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let (a, b) = tokio::join!(rig.pull(&stub, ":a"), rig.pull(&stub, ":b"));
    a.unwrap();
    b.unwrap();

    let trace = rig.world.trace();
    let applied = trace
        .iter()
        .filter(|call| call.starts_with("diff.apply"))
        .count();
    assert_eq!(applied, 4);
    assert_eq!(rig.left("snapshot").len(), 4);
    let blobs: Vec<String> = stub
        .lines()
        .into_iter()
        .filter(|line| line.contains("/blobs/"))
        .collect();
    assert_eq!(blobs.len(), 6, "{blobs:?}");
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_its_digest() {
    let mut shelf = Shelf::default();
    let old = make(&mut shelf, Some("v1"), &["old"]);
    let shared = Arc::new(std::sync::Mutex::new(shelf));
    let served = Arc::clone(&shared);
    let stub = Stub::start(move |seen| served.lock().unwrap().answer(seen));
    let rig = Rig::loaded().await;
    rig.pull(&stub, ":v1").await.unwrap();

    let new = make(&mut shared.lock().unwrap(), Some("v1"), &["new"]);
    let id = rig.pull(&stub, ":v1").await.unwrap();

    assert_eq!(id, new.config);
    let old = rig.view(old.config.as_str());
    assert!(old.repo_tags.is_empty());
    assert_eq!(old.repo_digests.len(), 1);
    assert_eq!(rig.images.list(None).unwrap().len(), 2);
}

#[tokio::test]
async fn an_image_without_layers_is_an_image() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("scratch"), &[]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let id = rig.pull(&stub, ":scratch").await.unwrap();

    let view = rig.view(id.as_str());
    assert_eq!(view.chain_id, None);
    assert!(view.size > 0);
}

#[tokio::test]
async fn a_pinned_name_pins_its_image() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one"]);
    let stub = serve(shelf);
    let config = "[images]\nregistry_config_path = []\npinned = [\"*/team/app:*\"]\n";
    let rig = Rig::configured(&World::new(), config);
    rig.images.load().await.unwrap();

    let id = rig.pull(&stub, ":v1").await.unwrap();

    assert!(rig.view(id.as_str()).pinned);
    let record = rig
        .world
        .containerd()
        .images
        .get(id.as_str())
        .await
        .unwrap();
    assert_eq!(record.labels["io.cri-containerd.pinned"], "pinned");
}

#[tokio::test]
async fn an_image_is_unpacked_for_one_more_snapshotter_from_what_is_here() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    let id = rig.pull(&stub, ":v1").await.unwrap();
    let asked = stub.lines().len();

    let view = rig.view(id.as_str());
    rig.images.ensure_unpacked(&view, "native").await.unwrap();
    rig.world.collect_garbage();

    assert_eq!(rig.left("snapshot native/").len(), 2);
    assert_eq!(stub.lines().len(), asked);
    assert!(rig.left("lease").is_empty());
}

#[tokio::test]
async fn a_pull_tells_where_each_layer_came_from_and_how_it_ended() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["one", "three"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let id = rig.pull(&stub, ":v1").await.unwrap();
    rig.pull(&stub, ":v1").await.unwrap();
    rig.pull(&stub, ":none").await.unwrap_err();

    let pulls = rig.images.pulls();
    let [failed, again, first] = pulls.as_slice() else {
        panic!("{pulls:?}")
    };
    let error = failed.end.as_ref().unwrap().outcome.as_ref().unwrap_err();
    assert!(error.starts_with("pull "), "{error}");
    assert_eq!(failed.step, "resolve");
    assert!(again.layers.is_empty());
    assert_eq!(again.end.as_ref().unwrap().outcome, Ok(id));
    assert_eq!(first.host, stub.authority());
    let layers = first.layers.iter();
    let layers: Vec<_> = layers
        .map(|it| {
            (
                &it.digest, it.size, it.here, it.fetched, it.state, &*it.host,
            )
        })
        .collect();
    let at = stub.authority();
    assert_eq!(
        layers,
        [
            (&made.layers[0], 3, 3, 3, LayerState::Done, &*at),
            (&made.layers[1], 5, 5, 5, LayerState::Done, &*at),
        ]
    );
}

#[tokio::test]
async fn what_a_verifier_refuses_is_not_fetched_and_what_it_accepts_is() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("verify");
    let script = "#!/bin/sh\ncase $2 in *:good) exit 0;; esac; echo unsigned; exit 1\n";
    std::fs::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("bad"), &["one"]);
    make(&mut shelf, Some("good"), &["two"]);
    let stub = serve(shelf);
    let rules = format!("[[images.verifiers]]\npattern = \"*\"\nprogram = {program:?}\n");
    let rig = Rig::configured(
        &World::new(),
        &format!("[images]\nregistry_config_path = []\n{rules}"),
    );
    rig.images.load().await.unwrap();

    let refused = rig.pull(&stub, ":bad").await.unwrap_err();
    assert_eq!(stub.lines(), ["HEAD /v2/team/app/manifests/bad"]);
    rig.pull(&stub, ":good").await.unwrap();

    assert_eq!(refused.kind(), Kind::Unknown);
    let text = refused.chain();
    assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
    assert!(text.ends_with("unsigned"), "{text}");
    assert!(rig.left("lease").is_empty());
}

#[tokio::test]
async fn the_nodes_credentials_serve_only_who_brings_none() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one"]);
    let wanted = format!("Basic {}", base64_of("node:pw"));
    let stub = Stub::start(move |seen| {
        if seen.header("authorization") == Some(wanted.as_str()) {
            shelf.answer(seen)
        } else {
            Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\"")
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    let auths = format!(
        r#"{{"auths": {{"{}": {{"username": "node", "password": "pw"}}}}}}"#,
        stub.authority()
    );
    std::fs::write(&file, auths).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).unwrap();
    let config = format!("[images]\nregistry_config_path = []\ncredentials_file = {file:?}\n");
    let rig = Rig::configured(&World::new(), &config);
    rig.images.load().await.unwrap();

    let wrong = rig.pull_as(&stub, ":v1", password("bad")).await;
    let empty = rig.pull_as(&stub, ":v1", Credentials::anonymous()).await;
    let none = rig.pull_unasked(&stub, ":v1").await;

    assert_eq!(wrong.unwrap_err().kind(), Kind::Unauthenticated);
    assert_eq!(empty.unwrap_err().kind(), Kind::Unauthenticated);
    none.unwrap();
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn a_lazy_snapshotter_is_told_what_each_layer_is_of() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let rig = Rig::configured(
        &World::new(),
        "[images]\nregistry_config_path = []\nlazy_snapshotters = [\"overlayfs\"]\n",
    );
    rig.images.load().await.unwrap();

    let id = rig.pull(&stub, ":v1").await.unwrap();

    let view = rig.view(id.as_str());
    let snapshots = rig.world.containerd().snapshots;
    let bottom = view.layers[0].chain_id.as_str();
    let labels = snapshots.stat("overlayfs", bottom).await.unwrap().labels;
    let label = |name: &str| labels[&format!("containerd.io/snapshot/cri.{name}")].clone();
    assert_eq!(label("layer-digest"), made.layers[0].to_string());
    assert_eq!(label("manifest-digest"), made.manifest.to_string());
    assert_eq!(
        label("image-layers"),
        format!("{},{}", made.layers[0], made.layers[1])
    );
    assert_eq!(
        label("image-ref"),
        format!("{}/team/app:v1", stub.authority())
    );
}
