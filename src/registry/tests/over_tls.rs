//! What must not get out of TLS, and what must get in.

use super::*;

const CA: &str = include_str!("tls/ca.pem");

/// A repository on `stub` by TLS, with these settings for it in `hosts.toml`.
async fn secured(stub: &Stub, toml: &str, credentials: &Credentials) -> Result<Repository> {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("server = \"https://{0}\"\n{toml}", stub.authority());
    let settings = hosts_file(&directory, &stub.authority(), &text);
    std::fs::write(directory.path().join(stub.authority()).join("ca.pem"), CA).unwrap();
    let reference = format!("{}/team/app:v1", stub.authority()).parse().unwrap();
    Registry::new(settings)
        .repository(&reference, credentials)
        .await
}

fn shelf() -> Shelf {
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    shelf
}

#[tokio::test]
async fn a_private_ca_is_trusted_where_it_is_named_and_nowhere_else() {
    let shelf = shelf();
    let stub = Stub::start_tls(move |seen| shelf.answer(seen));
    let anonymous = Credentials::anonymous();

    for trusted in ["ca = \"ca.pem\"\n", "skip_verify = true\n"] {
        let repository = secured(&stub, trusted, &anonymous).await.unwrap();
        repository.resolve().await.unwrap();
    }
    let asked = stub.lines().len();
    let refused = match secured(&stub, "", &anonymous).await {
        Ok(strict) => strict.resolve().await.is_err(),
        // A machine without any CA certificate refuses before that.
        Err(_no_roots) => true,
    };

    assert!(refused);
    assert_eq!(
        stub.lines().len(),
        asked,
        "nothing was asked over an unproven line"
    );
}

#[tokio::test]
async fn a_redirect_out_of_tls_is_refused() {
    let plain_shelf = shelf();
    let plain = Stub::start(move |seen| plain_shelf.answer(seen));
    let target = plain.authority();
    let stub = Stub::start_tls(move |seen| {
        Reply::new(302).header("Location", format!("http://{target}{}", seen.path))
    });

    let repository = secured(&stub, "ca = \"ca.pem\"\n", &password())
        .await
        .unwrap();
    let error = repository.resolve().await.unwrap_err();

    assert!(error.chain().contains("plain http"), "{error}");
    assert!(plain.lines().is_empty());
    assert_eq!(stub.lines().len(), 1, "and not tried again");
}

#[tokio::test]
async fn credentials_do_not_leave_tls_for_a_plain_realm() {
    let token = Stub::start(|_| Reply::new(200).body(r#"{"token":"T"}"#));
    let realm = token.authority();
    let stub = Stub::start_tls(move |_| {
        let challenge = format!("Bearer realm=\"http://{realm}/token\"");
        Reply::new(401).header("WWW-Authenticate", challenge)
    });

    let repository = secured(&stub, "ca = \"ca.pem\"\n", &password())
        .await
        .unwrap();
    let error = repository.resolve().await.unwrap_err();

    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(token.lines().is_empty());
}

#[tokio::test]
async fn a_host_that_may_speak_plainly_is_asked_by_tls_where_it_can() {
    let shelf = shelf();
    let stub = Stub::start_tls(move |seen| shelf.answer(seen));

    // No configuration: loopback, TLS first, unverified.
    let repository = open(&stub, ":v1", &Credentials::anonymous()).await;

    repository.resolve().await.unwrap();
}
