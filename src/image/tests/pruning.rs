//! What interrupted pulls leave, and who may take it away.

use super::*;
use crate::containerd::{ContainerRecord, LeaseId, Payload, SnapshotRequest};

const DAY: Duration = Duration::from_secs(24 * 3600 + 1);

fn ask(dry_run: bool) -> PruneRequest {
    PruneRequest {
        dry_run,
        ..PruneRequest::default()
    }
}

fn unused(dry_run: bool) -> PruneRequest {
    PruneRequest {
        dry_run,
        unused: true,
        older_than: Some(Duration::ZERO),
    }
}

/// A stub whose second layer is missing.
fn broken() -> Stub {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["first", "second"]);
    let missing = format!("/v2/team/app/blobs/{}", made.layers[1]);
    Stub::start(move |seen| {
        if seen.path == missing {
            std::thread::park_timeout(Duration::from_millis(200));
            Reply::new(404)
        } else {
            shelf.answer(seen)
        }
    })
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn what_a_failed_pull_left_is_told_and_then_given_back() {
    let rig = Rig::loaded().await;
    rig.pull(&broken(), ":v1").await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = rig.world.leftovers();

    let told = rig.images.prune(ask(true)).await.unwrap();
    assert_eq!(rig.world.leftovers(), before, "a dry run changes nothing");
    let given = rig.images.prune(ask(false)).await.unwrap();

    assert_eq!(told, given);
    assert_eq!(given.pulls, 1);
    assert!(given.blobs.count >= 3 && given.blobs.bytes > 0, "{given:?}");
    assert_eq!(given.layers.count, 1, "the first was unpacked");
    assert_eq!(rig.world.leftovers(), Vec::<String>::new());
    assert_eq!(
        rig.images.prune(ask(false)).await.unwrap(),
        Pruned::default()
    );
}

#[tokio::test]
async fn a_pull_that_runs_is_left_alone() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["first", "second"]);
    let stub = Stub::start(move |seen| {
        if seen.path.contains("/blobs/") {
            std::thread::park_timeout(Duration::from_millis(100));
        }
        shelf.answer(seen)
    });
    let rig = Rig::loaded().await;

    let pruning = async {
        let mut most = 0;
        for _ in 0..20 {
            most = most.max(rig.left("lease").len());
            assert_eq!(rig.images.prune(ask(false)).await.unwrap().pulls, 0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        most
    };
    let (pulled, most) = tokio::join!(rig.pull(&stub, ":v1"), pruning);

    pulled.unwrap();
    assert_eq!(most, 1, "it was there to be met");
}

#[tokio::test]
async fn a_round_takes_what_is_a_day_old_and_nothing_of_others() {
    let world = World::new();
    let rig = Rig::new(&world, "");
    rig.images.load().await.unwrap();
    rig.pull(&broken(), ":v1").await.unwrap_err();
    let containerd = world.containerd();
    let theirs = LeaseId("theirs".into());
    containerd
        .leases
        .create(&theirs, None, BTreeMap::new())
        .await
        .unwrap();
    let blob = world.put_blob(b"theirs");
    containerd
        .leases
        .add_resource(&theirs, "content", blob.as_str())
        .await
        .unwrap();
    let extract = SnapshotRequest {
        snapshotter: "overlayfs".into(),
        key: "extract-theirs".into(),
        lease: Some(theirs.clone()),
        ..SnapshotRequest::default()
    };
    containerd.snapshots.prepare(&extract).await.unwrap();
    world.put_ingest("old", b"nobody's");

    rig.images.tidy().await.unwrap();
    assert!(rig.left("lease").len() == 2 && !rig.left("ingest").is_empty());
    pass(DAY).await;
    world.put_ingest("young", b"perhaps somebody's");
    let later = Rig::new(&world, "");
    later.images.load().await.unwrap();
    let seen = interrupted(&containerd, world.now()).await.unwrap();
    assert_eq!((seen.pulls, seen.overdue), (1, 0), "{seen:?}");
    later.images.tidy().await.unwrap();

    assert_eq!(rig.left("lease"), ["lease theirs"]);
    assert_eq!(rig.left("ingest"), ["ingest young"]);
    assert!(containerd.content.info(&blob).await.is_ok());
    assert_eq!(rig.left("snapshot").len(), 1);
    world.clear_trace();
    later.images.tidy().await.unwrap();
    let calls = world.trace();
    assert!(
        !calls.iter().any(|call| call.contains("delete")),
        "{calls:?}"
    );
}

#[tokio::test]
async fn a_round_that_failed_does_the_rest_the_next_time() {
    for nth in 0..4 {
        let rig = Rig::loaded().await;
        rig.pull(&broken(), ":v1").await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(50)).await;
        rig.world.fail_call("leases.delete", nth, Fault::ReplyLost);

        drop(rig.images.prune(ask(false)).await);
        rig.world.heal();
        rig.images.prune(ask(false)).await.unwrap();

        assert_eq!(rig.world.leftovers(), Vec::<String>::new(), "{nth}");
    }
}

#[tokio::test]
async fn unused_images_go_and_share_nothing_away() {
    let mut shelf = Shelf::default();
    let used = make(&mut shelf, Some("used"), &["base", "used"]);
    make(&mut shelf, Some("free"), &["base", "free"]);
    let pinned = make(&mut shelf, Some("pinned"), &["pinned"]);
    let stub = serve(shelf);
    let world = World::new();
    let config = format!(
        "[images]\nregistry_config_path = []\npinned = [\"{}/team/app:pinned\"]\n",
        stub.authority()
    );
    let rig = Rig::configured(&world, &config);
    rig.images.load().await.unwrap();
    for tag in [":used", ":free", ":pinned"] {
        rig.pull(&stub, tag).await.unwrap();
    }
    let name = format!("{}/team/app:used", stub.authority());
    let record = ContainerRecord {
        id: "c".into(),
        image: name,
        runtime: "io.containerd.runc.v2".into(),
        spec: Some(Payload::new(Payload::SPEC, "{}")),
        ..ContainerRecord::default()
    };
    world.containerd().containers.create(&record).await.unwrap();

    let fresh = PruneRequest {
        older_than: None,
        ..unused(false)
    };
    assert_eq!(rig.images.prune(fresh).await.unwrap(), Pruned::default());
    let told = rig.images.prune(unused(true)).await.unwrap();
    let given = rig.images.prune(unused(false)).await.unwrap();

    assert_eq!(told, given);
    assert_eq!(
        given.images,
        [format!("{}/team/app:free", stub.authority())]
    );
    assert_eq!((given.layers.count, given.pulls), (1, 0), "the base stays");
    let left: Vec<Digest> = rig
        .images
        .list(None)
        .unwrap()
        .iter()
        .map(|image| image.id.clone())
        .collect();
    assert!(left.len() == 2 && left.contains(&used.config) && left.contains(&pinned.config));
}
