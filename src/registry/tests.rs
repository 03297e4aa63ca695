//! The protocol against a scripted server.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rstest::rstest;

use super::manifest::MAX_MANIFEST;
use super::stub::{Reply, Seen, Shelf, Stub};
use super::*;
use crate::model::{Descriptor, Digest, Kind};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SECRET: &str = "S3cretXYZ";

fn settings() -> Settings {
    Settings {
        config_paths: Vec::new(),
        retry_wait: Duration::from_secs(3),
        header_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(5),
        ..Settings::default()
    }
}

fn password() -> Credentials {
    Credentials::parse(&AuthFields {
        username: "user".into(),
        password: SECRET.into(),
        ..AuthFields::default()
    })
    .unwrap()
}

async fn open(stub: &Stub, version: &str, credentials: &Credentials) -> Repository {
    open_with(settings(), stub, version, credentials).await
}

async fn open_with(
    settings: Settings,
    stub: &Stub,
    version: &str,
    credentials: &Credentials,
) -> Repository {
    let reference = format!("{}/team/app{version}", stub.authority());
    Registry::new(settings)
        .repository(&reference.parse().unwrap(), credentials)
        .await
        .unwrap()
}

fn layer(digest: Digest, size: usize) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
        digest,
        size: size as u64,
        annotations: Default::default(),
    }
}

async fn drain(mut blob: Blob) -> crate::model::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = blob.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// A server of `shelf` that counts how often it was asked.
fn counting(
    shelf: Shelf,
    script: impl Fn(usize, &Seen, Reply) -> Reply + Send + Sync + 'static,
) -> Stub {
    let count = AtomicUsize::new(0);
    Stub::start(move |seen| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        script(nth, seen, shelf.answer(seen))
    })
}

#[tokio::test]
async fn a_tag_resolves_by_head_and_plain_http_is_found_out_on_loopback() {
    let mut shelf = Shelf::default();
    let digest = shelf.manifest(Some("v1"), MANIFEST, "{}");
    let stub = Stub::start(move |seen| shelf.answer(seen));

    let resolved = open(&stub, ":v1", &Credentials::anonymous())
        .await
        .resolve()
        .await
        .unwrap();

    assert_eq!(resolved.target.digest, digest);
    assert_eq!(resolved.target.media_type, MANIFEST);
    assert_eq!(resolved.target.size, 2);
    assert_eq!(stub.lines(), ["HEAD /v2/team/app/manifests/v1"]);
    let seen = &stub.seen()[0];
    assert!(seen.header("accept").unwrap().ends_with("*/*"));
    assert_eq!(seen.query, "", "its own host gets no ns");
}

#[rstest]
#[case::no_digest_header(|_: &Seen, reply: Reply| Reply::new(200).header("Content-Length", "2").body(reply_body(&reply)))]
#[case::head_not_allowed(|seen: &Seen, reply: Reply| if seen.method == "HEAD" { Reply::new(405) } else { reply })]
#[case::head_forbidden(|seen: &Seen, reply: Reply| if seen.method == "HEAD" { Reply::new(403) } else { reply })]
#[tokio::test]
async fn a_head_that_tells_too_little_is_followed_by_a_get(
    #[case] change: fn(&Seen, Reply) -> Reply,
) {
    let mut shelf = Shelf::default();
    let digest = shelf.manifest(Some("v1"), MANIFEST, "{}");
    let stub = Stub::start(move |seen| change(seen, shelf.answer(seen)));

    let resolved = open(&stub, ":v1", &Credentials::anonymous())
        .await
        .resolve()
        .await
        .unwrap();

    assert_eq!(resolved.target.digest, digest);
    assert_eq!(resolved.body.as_deref(), Some(b"{}".as_slice()));
    assert_eq!(stub.lines().len(), 2);
}

fn reply_body(_reply: &Reply) -> Vec<u8> {
    b"{}".to_vec()
}

#[tokio::test]
async fn a_digest_header_is_not_trusted_for_a_reference_by_digest() {
    let asked = Digest::sha256(b"asked");
    let stub = Stub::start(|_| {
        Reply::new(200)
            .header(
                "Docker-Content-Digest",
                Digest::sha256(b"other").to_string(),
            )
            .header("Content-Type", MANIFEST)
            .body("other")
    });
    let repository = open(&stub, &format!("@{asked}"), &Credentials::anonymous()).await;

    let resolved = repository.resolve().await.unwrap();
    assert_eq!(resolved.target.digest, asked);

    let error = repository
        .document(&resolved.target, MAX_MANIFEST)
        .await
        .unwrap_err();
    assert!(error.chain().contains("digest"), "{error}");
}

#[tokio::test]
async fn an_absent_tag_is_not_found_and_names_its_code() {
    let shelf = Shelf::default();
    let stub = Stub::start(move |seen| shelf.answer(seen));

    let error = open(&stub, ":gone", &Credentials::anonymous())
        .await
        .resolve()
        .await
        .unwrap_err();

    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_manifest_beyond_the_limit_is_not_read() {
    let stub = Stub::start(|seen| {
        let huge = Reply::new(200).header("Content-Length", "1000000000000000000");
        if seen.method == "HEAD" {
            huge.header("Content-Type", MANIFEST)
        } else {
            huge
        }
    });

    let error = open(&stub, ":v1", &Credentials::anonymous())
        .await
        .resolve()
        .await
        .unwrap_err();

    assert_eq!(error.kind(), Kind::ResourceExhausted);
}

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

/// A registry with a token endpoint on the same server.
fn bearer(shelf: Shelf, token: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Stub {
    let port = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&port);
    let stub = Stub::start(move |seen| {
        if seen.path == "/token" {
            return token(seen);
        }
        if seen.header("authorization") == Some("Bearer T") {
            return shelf.answer(seen);
        }
        let challenge = format!(
            "Bearer realm=\"http://{}/token?x=1\",service=\"reg\",scope=\"repository:team/app:pull\"",
            own.lock().unwrap()
        );
        Reply::new(401).header("WWW-Authenticate", challenge)
    });
    *port.lock().unwrap() = stub.authority();
    stub
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

#[rstest]
#[case(10, true)]
#[case(11, false)]
#[tokio::test]
async fn ten_redirects_are_followed_and_no_more(#[case] hops: usize, #[case] arrives: bool) {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let stub = counting(shelf, move |nth, _, reply| {
        if nth < hops {
            Reply::new(302).header("Location", "/v2/team/app/manifests/v1")
        } else {
            reply
        }
    });

    let resolved = open(&stub, ":v1", &Credentials::anonymous())
        .await
        .resolve()
        .await;

    assert_eq!(resolved.is_ok(), arrives);
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_and_a_long_one_reported() {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let stub = counting(shelf.clone(), |nth, _, reply| match nth {
        0 | 1 => Reply::new(429).header("Retry-After", "0"),
        _ => reply,
    });
    let anonymous = Credentials::anonymous();
    open(&stub, ":v1", &anonymous)
        .await
        .resolve()
        .await
        .unwrap();
    assert_eq!(stub.lines().len(), 3);

    let stub = Stub::start(|_| Reply::new(429).header("Retry-After", "3600"));
    let error = open(&stub, ":v1", &anonymous)
        .await
        .resolve()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(stub.lines().len(), 1);
}

#[tokio::test]
async fn a_server_error_is_tried_again_once_and_502_not_at_all() {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let anonymous = Credentials::anonymous();
    for (status, sends) in [(503, 2), (502, 1), (400, 1)] {
        let stub = Stub::start(move |_| Reply::new(status).header("Retry-After", "0"));
        open(&stub, ":v1", &anonymous)
            .await
            .resolve()
            .await
            .unwrap_err();
        assert_eq!(stub.lines().len(), sends, "{status}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_where_it_broke() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let mut shelf = Shelf::default();
    let digest = shelf.blob(bytes.clone());
    let stub = counting(
        shelf,
        |nth, _, reply| if nth < 2 { reply.cut_at(30_000) } else { reply },
    );
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    let got = drain(repository.blob(layer(digest, bytes.len()), 0))
        .await
        .unwrap();

    assert_eq!(got, bytes);
    let ranges: Vec<Option<String>> = stub
        .seen()
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=30000-".into()),
            Some("bytes=60000-".into())
        ]
    );
}

#[tokio::test]
async fn a_range_that_is_ignored_is_skipped_and_another_range_refused() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("0123456789");
    let all = shelf.clone();
    let stub = Stub::start(move |seen| {
        let mut whole = seen.clone();
        whole.headers.remove("range");
        all.answer(&whole)
    });
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;
    let got = drain(repository.blob(layer(digest.clone(), 10), 4))
        .await
        .unwrap();
    assert_eq!(got, b"456789");

    let stub = Stub::start(|_| {
        Reply::new(206)
            .header("Content-Range", "bytes 7-9/10")
            .body("789")
    });
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;
    assert!(drain(repository.blob(layer(digest, 10), 4)).await.is_err());
}

#[tokio::test]
async fn a_stream_without_progress_gives_up() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("0123456789");
    let stub = Stub::start(move |seen| shelf.answer(seen).cut_at(0));
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    let error = drain(repository.blob(layer(digest, 10), 0))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(stub.lines().len() <= 5, "{:?}", stub.lines());
}

#[tokio::test]
async fn a_blob_of_another_size_than_announced_is_refused() {
    let mut shelf = Shelf::default();
    let digest = shelf.blob("0123456789");
    let stub = Stub::start(move |seen| shelf.answer(seen));
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    for size in [9, 11] {
        assert!(
            drain(repository.blob(layer(digest.clone(), size), 0))
                .await
                .is_err()
        );
    }
}

fn hosts_file(directory: &tempfile::TempDir, domain: &str, text: &str) -> Settings {
    let path = directory.path().join(domain);
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("hosts.toml"), text).unwrap();
    Settings {
        config_paths: vec![directory.path().to_owned()],
        ..settings()
    }
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

#[tokio::test]
async fn the_most_telling_failure_of_several_hosts_is_reported() {
    let missing = Stub::start(|_| Reply::new(404));
    let broken = Stub::start(|_| Reply::new(400).body(r#"{"errors":[{"code":"NAME_INVALID"}]}"#));
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{}\"]\n[host.\"http://{}\"]\n",
        missing.authority(),
        broken.authority()
    );
    let settings = hosts_file(&directory, "host.tld", &text);
    let repository = Registry::new(settings)
        .repository(&"host.tld/a:v1".parse().unwrap(), &Credentials::anonymous())
        .await
        .unwrap();

    let error = repository.resolve().await.unwrap_err();

    assert!(error.chain().contains("400"), "{error}");
}

#[tokio::test]
async fn a_dead_registry_is_unavailable_at_once() {
    let reference = "127.0.0.1:1/a:v1".parse().unwrap();
    let repository = Registry::new(settings())
        .repository(&reference, &Credentials::anonymous())
        .await
        .unwrap();

    let error = repository.resolve().await.unwrap_err();

    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("127.0.0.1:1"), "{error}");
}
