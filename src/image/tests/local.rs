use super::*;
use crate::containerd::ImageRecord;
use crate::model::{Descriptor, Timestamp};

#[tokio::test]
async fn nothing_is_answered_before_the_first_load() {
    let rig = Rig::new(&World::new(), "");

    assert_eq!(rig.images.list(None).unwrap_err().kind(), Kind::Unavailable);
    assert!(rig.images.resolve_local("busybox").is_err());

    rig.images.load().await.unwrap();
    assert!(rig.images.list(None).unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_finds_the_same_images() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one"]);
    make(&mut shelf, Some("v2"), &["two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    rig.pull(&stub, ":v1").await.unwrap();
    rig.pull(&stub, ":v2").await.unwrap();

    let again = Rig::new(&rig.world, "");
    again.images.load().await.unwrap();

    let shown = |rig: &Rig| -> Vec<String> {
        let images = rig.images.list(None).unwrap();
        images.iter().map(|image| format!("{:?}", image)).collect()
    };
    assert_eq!(shown(&again), shown(&rig));
}

#[tokio::test]
async fn removing_by_any_name_removes_all_names_also_five_times_at_once() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["one"]);
    make(&mut shelf, Some("other"), &["one"]);
    let (here, there) = (serve(shelf.clone()), serve(shelf));
    let rig = Rig::loaded().await;
    rig.pull(&here, ":v1").await.unwrap();
    rig.pull(&here, ":other").await.unwrap();
    rig.pull(&there, ":v1").await.unwrap();
    let view = rig.view(made.config.as_str());
    assert_eq!(view.repo_tags.len(), 3);
    assert_eq!(view.repo_digests.len(), 2);

    let tag = view.repo_tags[0].clone();
    let removals = (0..5).map(|_| rig.images.remove(&tag));
    for result in futures::future::join_all(removals).await {
        result.unwrap();
    }

    assert!(rig.images.list(None).unwrap().is_empty());
    assert!(
        rig.images
            .resolve_local(made.config.as_str())
            .unwrap()
            .is_none()
    );
    rig.world.collect_garbage();
    assert!(
        rig.world.leftovers().is_empty(),
        "{:?}",
        rig.world.leftovers()
    );
}

#[tokio::test]
async fn removing_what_is_not_there_is_success_and_an_empty_name_is_not() {
    let rig = Rig::loaded().await;

    rig.images.remove("no/such:image").await.unwrap();
    rig.images.remove("BAD NAME").await.unwrap();
    assert_eq!(
        rig.images.remove("").await.unwrap_err().kind(),
        Kind::InvalidArgument
    );
}

#[tokio::test]
async fn a_removal_that_fails_leaves_the_rest_of_the_image_listed() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    let id = rig.pull(&stub, ":v1").await.unwrap();
    rig.world.fail_call("images.delete", 1, Fault::Refused);

    rig.images.remove(id.as_str()).await.unwrap_err();
    assert_eq!(rig.view(id.as_str()).names.len(), 2);

    rig.images.remove(id.as_str()).await.unwrap();
    assert!(rig.left("image").is_empty());
}

/// Puts an image into the world as `ctr image import` would.
async fn foreign(world: &World, name: &str) -> Digest {
    let config = config_json(&["one"]);
    let manifest = manifest_json(&config, &["one"]);
    world.put_blob(&config);
    world.put_blob(b"one");
    let record = ImageRecord {
        name: name.into(),
        target: Descriptor {
            media_type: MANIFEST.into(),
            digest: world.put_blob(&manifest),
            size: manifest.len() as u64,
            annotations: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        created_at: Timestamp(1),
    };
    world.containerd().images.put(&record, None).await.unwrap();
    Digest::sha256(&config)
}

#[tokio::test]
async fn images_of_other_clients_are_adopted_at_start_and_by_event() {
    let world = World::new();
    let name = "docker.io/library/loaded:v1";
    let id = foreign(&world, name).await;
    let rig = Rig::new(&world, "");

    rig.images.load().await.unwrap();

    assert_eq!(rig.view("loaded:v1").id, id);
    assert_eq!(rig.view(id.as_str()).repo_tags, [name]);
    let record = world.containerd().images.get(id.as_str()).await.unwrap();
    assert_eq!(record.labels["io.cri-containerd.image"], "managed");

    let later = "docker.io/library/later:v1";
    foreign(&world, later).await;
    rig.images.refresh(later).await.unwrap();
    assert_eq!(rig.view("later:v1").repo_tags.len(), 2);

    world
        .containerd()
        .images
        .delete(later, false)
        .await
        .unwrap();
    rig.images.refresh(later).await.unwrap();
    assert!(rig.images.resolve_local("later:v1").unwrap().is_none());
    assert_eq!(rig.view(id.as_str()).repo_tags, [name]);
}

#[tokio::test]
async fn a_passing_failure_takes_no_image_off_the_list() {
    let world = World::new();
    let id = foreign(&world, "docker.io/library/good:v1").await;
    let rig = Rig::new(&world, "");
    rig.images.load().await.unwrap();

    world.fail_call("content.read", 1, Fault::Refused);
    rig.images.load().await.unwrap_err();
    assert_eq!(rig.images.list(None).unwrap().len(), 1);

    rig.images.load().await.unwrap();
    assert_eq!(rig.images.list(None).unwrap()[0].id, id);
}

#[tokio::test]
async fn removing_an_image_leaves_the_name_that_moved_to_another() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["two"]);
    let first = serve(shelf);
    let rig = Rig::loaded().await;
    let old = rig.pull(&first, ":v1").await.unwrap();
    let name = rig.view(old.as_str()).repo_tags[0].clone();
    let newer = foreign(&rig.world, &name).await;
    // The catalog is told while the removal of the old image waits for its turn.
    let (removed, moved) = tokio::join!(rig.images.remove(old.as_str()), rig.images.refresh(&name));
    removed.unwrap();
    moved.unwrap();

    assert_eq!(rig.view(&name).id, newer);
    assert!(rig.images.resolve_local(old.as_str()).unwrap().is_none());
}

#[tokio::test]
async fn an_image_that_cannot_be_read_does_not_hide_the_others() {
    let world = World::new();
    let id = foreign(&world, "docker.io/library/good:v1").await;
    let broken = ImageRecord {
        name: "docker.io/library/broken:v1".into(),
        target: Descriptor {
            media_type: MANIFEST.into(),
            digest: Digest::sha256(b"gone"),
            size: 4,
            annotations: BTreeMap::new(),
        },
        labels: BTreeMap::new(),
        created_at: Timestamp(1),
    };
    world.containerd().images.put(&broken, None).await.unwrap();
    let rig = Rig::new(&world, "");

    rig.images.load().await.unwrap();

    let images = rig.images.list(None).unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].id, id);
}

#[tokio::test]
async fn a_local_policy_answers_only_who_shows_no_credentials() {
    let world = World::new();
    foreign(&world, "docker.io/library/edge:v1").await;
    let config = "[images]\nregistry_config_path = []\n[[images.pull_policy]]\npattern = \"docker.io/library/*\"\npolicy = \"Never\"\n";
    let rig = Rig::configured(&world, config);
    rig.images.load().await.unwrap();
    let pull = |reference: &str| {
        rig.images.pull(PullRequest {
            reference: reference.into(),
            credentials: None,
            runtime_handler: String::new(),
        })
    };

    pull("edge:v1").await.unwrap();
    assert_eq!(pull("other:v1").await.unwrap_err().kind(), Kind::NotFound);
    let reference = "edge:v1".parse().unwrap();
    let asked = rig
        .images
        .answer_locally(&reference, Some(&password("p")))
        .unwrap();
    assert_eq!(asked, None);
}

#[tokio::test]
async fn the_file_system_is_told_before_and_after_measuring() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let before = rig.images.fs_info();
    assert_eq!(before[0].snapshotter, "overlayfs");
    assert!(before[0].mountpoint.is_dir() && before[0].timestamp.0 > 0);

    rig.pull(&stub, ":v1").await.unwrap();
    rig.world.clear_trace();
    rig.images.measure().await.unwrap();
    rig.images.measure().await.unwrap();
    let asked = |rig: &Rig| {
        let trace = rig.world.trace();
        trace
            .iter()
            .filter(|call| call.starts_with("snapshots.usage"))
            .count()
    };
    assert_eq!(asked(&rig), 1, "a committed snapshot is measured once");
    assert!(rig.images.fs_info()[0].mountpoint.is_dir());
}

#[tokio::test]
async fn loads_at_any_time_neither_lose_nor_revive_an_image() {
    let mut shelf = Shelf::default();
    for n in 0..12 {
        make(&mut shelf, Some(&format!("v{n}")), &[&format!("layer {n}")]);
    }
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let churn = async {
        for n in 0..12 {
            let id = rig.pull(&stub, &format!(":v{n}")).await.unwrap();
            assert!(
                rig.images.resolve_local(id.as_str()).unwrap().is_some(),
                "v{n} pulled"
            );
            if n % 2 == 0 {
                rig.images.remove(id.as_str()).await.unwrap();
                assert!(
                    rig.images.resolve_local(id.as_str()).unwrap().is_none(),
                    "v{n} removed"
                );
            }
        }
    };
    tokio::select! {
        () = churn => {}
        () = async { loop { rig.images.load().await.unwrap() } } => {}
    }

    assert_eq!(rig.images.list(None).unwrap().len(), 6);
}

#[tokio::test]
async fn disk_usage_counts_shared_layers_once_and_tells_what_a_removal_frees() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["base", "one"]);
    make(&mut shelf, Some("v2"), &["base", "longer two"]);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;
    rig.pull(&stub, ":v1").await.unwrap();
    rig.pull(&stub, ":v2").await.unwrap();
    rig.images.measure().await.unwrap();

    let usage = rig.images.disk_usage().unwrap();

    assert_eq!(usage.images.len(), 2);
    let parts: u64 = usage.images.iter().map(|image| image.own).sum();
    let all: u64 = usage.images.iter().map(|image| image.layers).sum();
    assert!(parts < usage.layers && usage.layers < all, "{usage:?}");
    // The shared layer is what both count and neither owns.
    assert_eq!(all - usage.layers, usage.layers - parts);
    assert_eq!((usage.orphan_count, usage.writable), (0, 0));

    let top = rig.view(usage.images[0].id.as_str());
    rig.images.remove(top.id.as_str()).await.unwrap();
    let after = rig.images.disk_usage().unwrap();
    assert_eq!(after.orphans, usage.images[0].own, "not measured again yet");
    assert_eq!(after.images[0].own, after.images[0].layers);
}
