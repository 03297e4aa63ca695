use rstest::rstest;

use super::*;

#[tokio::test]
async fn basic_credentials_go_out_only_after_a_challenge() {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let stub = Stub::start(move |seen| match seen.header("authorization") {
        Some("Basic dXNlcjpTM2NyZXRYWVo=") => shelf.answer(seen),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });

    open(&stub, ":v1", &password())
        .await
        .resolve()
        .await
        .unwrap();

    let seen = stub.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("authorization"), None);
}

#[tokio::test]
async fn wrong_or_missing_credentials_are_unauthenticated_and_not_repeated() {
    for credentials in [password(), Credentials::anonymous()] {
        let stub = Stub::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""));

        let error = open(&stub, ":v1", &credentials)
            .await
            .resolve()
            .await
            .unwrap_err();

        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert!(!error.chain().contains(SECRET));
        assert!(stub.lines().len() <= 2, "{:?}", stub.lines());
    }
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_for_all_requests() {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let one = shelf.blob("one");
    let two = shelf.blob("two");
    let stub = bearer(shelf, |_| Reply::new(200).body(r#"{"token":"T"}"#));
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    repository.resolve().await.unwrap();
    let (a, b) = tokio::join!(
        drain(repository.blob(layer(one, 3), 0)),
        drain(repository.blob(layer(two, 3), 0))
    );

    assert_eq!((a.unwrap(), b.unwrap()), (b"one".to_vec(), b"two".to_vec()));
    let tokens: Vec<Seen> = stub
        .seen()
        .into_iter()
        .filter(|seen| seen.path == "/token")
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].method, "GET");
    assert_eq!(
        tokens[0].query,
        "x=1&service=reg&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(tokens[0].header("authorization"), None);
}

#[rstest]
#[case(200, r#"{"access_token":"T"}"#, &["POST"])]
#[case(404, "", &["POST", "GET"])]
#[case(405, "", &["POST", "GET"])]
#[tokio::test]
async fn a_password_is_posted_first_and_shown_by_get_where_that_is_not_known(
    #[case] status: u16,
    #[case] body: &'static str,
    #[case] methods: &[&str],
) {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let stub = bearer(shelf, move |seen| match seen.method.as_str() {
        "POST" => Reply::new(status).body(body),
        _ => Reply::new(200).body(r#"{"token":"T"}"#),
    });

    open(&stub, ":v1", &password())
        .await
        .resolve()
        .await
        .unwrap();

    let tokens: Vec<Seen> = stub
        .seen()
        .into_iter()
        .filter(|seen| seen.path == "/token")
        .collect();
    let seen: Vec<&str> = tokens.iter().map(|seen| seen.method.as_str()).collect();
    assert_eq!(seen, methods);
    let form = String::from_utf8(tokens[0].body.clone()).unwrap();
    assert_eq!(
        form,
        "grant_type=password&username=user&password=S3cretXYZ&service=reg&client_id=containerd-client&scope=repository%3Ateam%2Fapp%3Apull"
    );
    if let Some(get) = tokens.get(1) {
        assert!(get.header("authorization").unwrap().starts_with("Basic "));
    }
}

#[tokio::test]
async fn identity_and_registry_tokens_go_their_own_ways() {
    for (fields, is_exchanged) in [
        (
            AuthFields {
                identity_token: SECRET.into(),
                ..AuthFields::default()
            },
            true,
        ),
        (
            AuthFields {
                registry_token: "T".into(),
                ..AuthFields::default()
            },
            false,
        ),
    ] {
        let mut shelf = Shelf::default();
        shelf.manifest(Some("v1"), MANIFEST, "{}");
        let stub = bearer(shelf, |_| Reply::new(200).body(r#"{"access_token":"T"}"#));

        open(&stub, ":v1", &Credentials::parse(&fields).unwrap())
            .await
            .resolve()
            .await
            .unwrap();

        let posts: Vec<Seen> = stub
            .seen()
            .into_iter()
            .filter(|seen| seen.method == "POST")
            .collect();
        assert_eq!(posts.len(), usize::from(is_exchanged));
        if let Some(post) = posts.first() {
            let form = String::from_utf8_lossy(&post.body).into_owned();
            assert!(
                form.starts_with("grant_type=refresh_token&refresh_token="),
                "{form}"
            );
        }
    }
}

#[tokio::test]
async fn an_endless_token_and_a_refused_one_fail_without_the_secret() {
    for reply in [
        Reply::new(200).header("Content-Length", "1000000000000"),
        Reply::new(403).body(SECRET),
        Reply::new(200).body(format!("{{\"token\": \"{SECRET}")),
        Reply::new(200).body("{}"),
    ] {
        let stub = bearer(Shelf::default(), move |_| reply.clone());

        let error = open(&stub, ":v1", &password())
            .await
            .resolve()
            .await
            .unwrap_err();

        assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
        assert!(!error.chain().contains(SECRET), "{error}");
    }
}

#[tokio::test]
async fn a_refused_bearer_token_is_tried_again_once() {
    let stub = bearer(Shelf::default(), |_| {
        Reply::new(200).body(r#"{"access_token":"X"}"#)
    });
    // The token never fits; each new challenge is answered until the budget of sends is spent.
    let error = open(&stub, ":v1", &password())
        .await
        .resolve()
        .await
        .unwrap_err();

    assert_eq!(error.kind(), Kind::Unauthenticated);
    assert!(stub.lines().len() <= 7, "{:?}", stub.lines());
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_port_nor_answer_its_challenge() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("layer");
    let storage = Stub::start(move |seen| match seen.path.as_str() {
        "/signed" => shelf.answer(&Seen {
            path: seen.query.clone(),
            ..seen.clone()
        }),
        _ => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"evil\""),
    });
    let target = storage.authority();
    let evil = Mutex::new(false);
    let wanted = digest.clone();
    let stub = Stub::start(move |seen| {
        if seen.header("authorization").is_none() {
            return Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\"");
        }
        let mut evil = evil.lock().unwrap();
        let location = if *evil {
            format!("http://{target}/evil?sig={SECRET}")
        } else {
            format!("http://{target}/signed?/v2/x/blobs/{wanted}")
        };
        *evil = true;
        Reply::new(307).header("Location", location)
    });
    let repository = open(&stub, ":v1", &password()).await;

    let body = drain(repository.blob(layer(digest.clone(), 5), 0))
        .await
        .unwrap();
    let error = drain(repository.blob(layer(digest, 5), 0))
        .await
        .unwrap_err();

    assert_eq!(body, b"layer");
    assert!(!error.chain().contains(SECRET), "{error}");
    assert!(
        storage
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    assert!(storage.seen().iter().all(|seen| seen.body.is_empty()));
}

#[tokio::test]
async fn mirrors_come_first_with_ns_and_without_the_upstreams_credentials() {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let digest = shelf.blob("layer");
    let mirror_shelf = shelf.clone();
    let pull_only = Stub::start(move |seen| mirror_shelf.answer(seen));
    let greedy = Stub::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic realm=\"m\""));
    let upstream = Stub::start(move |seen| match seen.header("authorization") {
        None => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) => shelf.answer(seen),
    });
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n[host.\"http://{}\".header]\nx-node = \"n1\"\n",
        pull_only.authority(),
        greedy.authority()
    );
    let settings = hosts_file(&directory, &upstream.authority(), &text);
    let repository = open_with(settings, &upstream, ":v1", &password()).await;

    repository.resolve().await.unwrap();
    let got = drain(repository.blob(layer(digest, 5), 0)).await.unwrap();

    assert_eq!(got, b"layer");
    assert_eq!(pull_only.lines().len(), 1, "not asked for the tag");
    assert!(pull_only.seen()[0].query.starts_with("ns=127.0.0.1"));
    assert_eq!(greedy.lines().len(), 1);
    let asked = &greedy.seen()[0];
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(asked.header("x-node"), Some("n1"));
    assert_eq!(upstream.lines().len(), 2);
}
