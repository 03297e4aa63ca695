use rstest::rstest;

use super::*;
use crate::registry::manifest::MAX_MANIFEST;

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

#[tokio::test]
async fn a_digest_that_no_host_has_as_a_manifest_is_looked_for_among_the_blobs() {
    let digest = Digest::sha256(b"{}");
    let stub = Stub::start(move |seen| match seen.path.contains("/blobs/") {
        true => Reply::new(200).header("Content-Type", MANIFEST).body("{}"),
        false => Reply::new(404),
    });
    let anonymous = Credentials::anonymous();

    let by_digest = format!("@{digest}");
    let repository = open(&stub, &by_digest, &anonymous).await;
    let resolved = repository.resolve().await.unwrap();
    assert_eq!(resolved.body.as_deref(), Some(b"{}".as_slice()));
    assert_eq!(resolved.target.digest, digest);
    let path = format!("/v2/team/app/manifests/{digest}");
    let blob = format!("/v2/team/app/blobs/{digest}");
    let want = [
        format!("HEAD {path}"),
        format!("HEAD {blob}"),
        format!("GET {blob}"),
    ];
    assert_eq!(stub.lines(), want);

    let by_tag = open(&stub, ":v1", &anonymous).await.resolve().await;
    assert_eq!(by_tag.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(stub.lines().len(), 4, "no blob has a tag");

    let refusing = Stub::start(|_| Reply::new(400));
    let repository = open(&refusing, &by_digest, &anonymous).await;
    repository.resolve().await.unwrap_err();
    assert_eq!(refusing.lines().len(), 1, "only absence leads to the blobs");
}
