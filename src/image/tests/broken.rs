use super::*;

#[tokio::test]
async fn a_registry_that_is_away_is_told_by_the_first_word() {
    let rig = Rig::loaded().await;
    let request = PullRequest {
        reference: "127.0.0.1:1/a:v1".into(),
        credentials: None,
        runtime_handler: String::new(),
    };

    let error = rig.images.pull(request).await.unwrap_err();

    assert_eq!(error.kind(), Kind::Unknown);
    assert!(
        error.chain().starts_with("RegistryUnavailable: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_bad_reference_and_an_unknown_handler_are_refused_before_any_call() {
    let rig = Rig::loaded().await;
    let before = rig.world.trace().len();
    for (reference, handler) in [("library/UPPER", ""), ("", ""), ("busybox", "no-such")] {
        let request = PullRequest {
            reference: reference.into(),
            credentials: None,
            runtime_handler: handler.into(),
        };
        let error = rig.images.pull(request).await.unwrap_err();
        assert_eq!(
            error.kind(),
            Kind::InvalidArgument,
            "{reference:?} {handler:?}"
        );
    }
    assert_eq!(rig.world.trace().len(), before);
}

#[tokio::test]
async fn a_blob_that_lies_is_thrown_away_and_no_image_is_made() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["honest", "layer2"]);
    let lie = format!("/v2/team/app/blobs/{}", made.layers[0]);
    let stub = Stub::start(move |seen| {
        if seen.path == lie {
            Reply::new(200).body("lying!")
        } else {
            shelf.answer(seen)
        }
    });
    let rig = Rig::loaded().await;

    let error = rig.pull(&stub, ":v1").await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(50)).await;

    assert_eq!(error.kind(), Kind::Aborted, "{error}");
    assert!(error.chain().contains(made.layers[0].as_str()));
    assert!(rig.images.list(None).unwrap().is_empty());
    assert!(rig.left("image").is_empty());
    assert!(
        rig.left("snapshot").is_empty(),
        "{:?}",
        rig.left("snapshot")
    );
    assert!(
        !rig.left("ingest")
            .iter()
            .any(|line| line.contains(made.layers[0].as_str()))
    );
}

#[tokio::test]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    let mut shelf = Shelf::default();
    let config = config_json(&["promised"]);
    let manifest = manifest_json(&config, &["delivered"]);
    shelf.blob(config);
    shelf.blob("delivered");
    shelf.manifest(Some("v1"), MANIFEST, manifest);
    let stub = serve(shelf);
    let rig = Rig::loaded().await;

    let error = rig.pull(&stub, ":v1").await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(50)).await;

    assert_eq!(error.kind(), Kind::Aborted, "{error}");
    assert!(rig.left("snapshot").is_empty() && rig.left("image").is_empty());
}

#[tokio::test]
async fn a_failed_pull_keeps_what_it_fetched_for_the_next() {
    let mut shelf = Shelf::default();
    let made = make(&mut shelf, Some("v1"), &["first", "second"]);
    let missing = format!("/v2/team/app/blobs/{}", made.layers[1]);
    let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let stub = Stub::start(move |seen| {
        if broken.load(Ordering::SeqCst) && seen.path == missing {
            std::thread::park_timeout(Duration::from_millis(200));
            Reply::new(404)
        } else {
            shelf.answer(seen)
        }
    });
    let rig = Rig::loaded().await;
    rig.pull(&stub, ":v1").await.unwrap_err();
    assert!(rig.images.list(None).unwrap().is_empty());
    rig.world.collect_garbage();
    is_broken.store(false, Ordering::SeqCst);

    rig.pull(&stub, ":v1").await.unwrap();

    let first = format!("GET /v2/team/app/blobs/{}", made.layers[0]);
    assert_eq!(
        stub.lines().iter().filter(|line| **line == first).count(),
        1
    );
    assert!(rig.left("lease").is_empty());
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// One pull in a process of its own, with the `nth` call broken. Answers whether the fault struck.
fn pull_broken(world: &World, stub: &Stub, nth: usize, fault: Fault) -> bool {
    // A runtime of its own: dropping it ends every task, as the death of a process does.
    runtime().block_on(async {
        let rig = Rig::new(world, "");
        rig.images.load().await.unwrap();
        world.fail(nth, fault);
        let outcome = tokio::select! {
            outcome = rig.pull(stub, ":v1") => Some(outcome),
            () = world.died() => None,
        };
        if matches!(outcome, Some(Err(_))) {
            let left = rig.images.list(None).unwrap();
            let whole = left
                .iter()
                .all(|image| image.chain_id.is_some() && image.size > 0);
            assert!(whole, "{fault:?} at call {nth}: {left:?}");
        }
        world.fault_struck()
    })
}

/// Every call of a pull broken in turn: the pull fails or succeeds, and a retry makes exactly what a clean run makes.
#[test]
fn whatever_call_breaks_a_retry_ends_as_a_clean_run_does() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["one", "two"]);
    let stub = serve(shelf);
    let clean = runtime().block_on(async {
        let rig = Rig::loaded().await;
        rig.pull(&stub, ":v1").await.unwrap();
        rig.world.leftovers()
    });
    for fault in [
        Fault::Refused,
        Fault::ReplyLost,
        Fault::ProcessDies(When::Before),
        Fault::ProcessDies(When::After),
    ] {
        for nth in 0.. {
            let world = World::new();
            if !pull_broken(&world, &stub, nth, fault) {
                break;
            }
            world.heal();
            world.revive();
            runtime().block_on(async {
                let again = Rig::new(&world, "");
                again.images.load().await.unwrap();
                again.pull(&stub, ":v1").await.unwrap();
                world.collect_garbage();
                assert_eq!(world.leftovers(), clean, "{fault:?} at call {nth}");
                assert_eq!(again.images.list(None).unwrap().len(), 1);
            });
        }
    }
}

#[tokio::test]
async fn what_unpacks_to_more_than_is_allowed_ends_the_pull_and_leaves_nothing() {
    // A layer that was filled takes 8192 bytes in this world.
    for (key, most) in [
        ("max_unpacked_layer_bytes", 5_000),
        ("max_unpacked_image_bytes", 10_000),
    ] {
        let mut shelf = Shelf::default();
        make(&mut shelf, Some("v1"), &["layer1", "layer2"]);
        let stub = serve(shelf);
        let config = format!("[images]\nregistry_config_path = []\n{key} = {most}\n");
        let rig = Rig::configured(&World::new(), &config);
        rig.images.load().await.unwrap();

        let error = rig.pull(&stub, ":v1").await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(50)).await;

        assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
        assert!(error.chain().contains(&format!("images.{key}")), "{error}");
        assert!(rig.left("image").is_empty());
        let extracts = rig.left("snapshot");
        assert!(
            !extracts.iter().any(|line| line.contains("extract-")),
            "{extracts:?}"
        );
    }
}

#[tokio::test]
async fn the_diff_service_is_called_off_while_it_fills_the_disk() {
    let mut shelf = Shelf::default();
    make(&mut shelf, Some("v1"), &["layer1"]);
    let stub = serve(shelf);
    let config = "[images]\nregistry_config_path = []\nmax_unpacked_layer_bytes = 4000\n";
    let rig = Rig::configured(&World::new(), config);
    rig.images.load().await.unwrap();
    rig.world
        .fail_every("diff.apply", Fault::Hangs(When::After));

    let pulling = rig.pull(&stub, ":v1");
    let ended = tokio::time::timeout(Duration::from_secs(20), pulling).await;

    let error = ended.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted, "{error}");
}
