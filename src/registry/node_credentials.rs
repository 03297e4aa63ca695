//! The node's own credentials: a file in the format of docker's `config.json`, for pulls that bring none.
//!
//! The keys of `auths` are hosts, URLs, or a host with the beginning of a repository's path, as kubelet and podman
//! read them; the longest that fits the image wins. Programs (`credHelpers`, `credsStore`) are not run.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::Deserialize;

use super::credentials::{AuthFields, Credentials, canonical};
use crate::model::{Classify as _, Context as _, Error, Kind, Reference, Result};
use crate::sys::off_thread;

/// A longer file is a mistake.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl Credentials {
    /// What the file at `path` has for the image `reference`, and for mirrors of it.
    ///
    /// # Errors
    /// `FailedPrecondition` where the file is missing, others than its owner may read it, or it is malformed.
    pub async fn from_file(path: &Path, reference: &Reference) -> Result<Self> {
        let (path, reference) = (path.to_owned(), reference.clone());
        off_thread("read the registry credentials", move || {
            let what = || {
                format!(
                    "registry credentials of images.credentials_file {}",
                    path.display()
                )
            };
            let text = read_blocking(&path).context(what)?;
            parse(&text, &reference).context(what)
        })
        .await
    }
}

fn read_blocking(path: &Path) -> Result<Vec<u8>> {
    let unreadable = || "it cannot be read".to_owned();
    let file = std::fs::File::open(path).classify(Kind::FailedPrecondition, unreadable)?;
    let metadata = file
        .metadata()
        .classify(Kind::FailedPrecondition, unreadable)?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(Error::precondition(
            "others than its owner may read or write it; use chmod 600",
        ));
    }
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .classify(Kind::FailedPrecondition, unreadable)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(Error::precondition(format!(
            "it has more than {MAX_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// The secrets of `text` that fit the repository of `reference`, one a host.
fn parse(text: &[u8], reference: &Reference) -> Result<Credentials> {
    // The parser's own message may quote a secret; its position does not.
    let file: File = serde_json::from_slice(text).map_err(|error| {
        Error::precondition(format!(
            "it is not JSON as docker writes it: line {}, column {}",
            error.line(),
            error.column()
        ))
    })?;
    if !file.helpers.is_empty() || !file.store.is_empty() {
        tracing::warn!(
            "images.credentials_file: credHelpers and credsStore name programs that are not run"
        );
    }
    let mut found: BTreeMap<String, (usize, Credentials)> = BTreeMap::new();
    for (key, entry) in &file.auths {
        let (host, path) = place(key);
        if !covers(&path, reference.repository()) {
            continue;
        }
        let credentials = Credentials::parse(&AuthFields {
            username: entry.username.clone(),
            password: entry.password.clone(),
            auth: entry.auth.clone(),
            server_address: String::new(),
            identity_token: entry.identity_token.clone(),
            registry_token: entry.registry_token.clone(),
        })
        .map_err(|error| Error::precondition(format!("the entry {key:?}")).caused_by(error))?;
        let longer = found
            .get(&host)
            .is_none_or(|(length, _)| *length < path.len());
        if longer && !credentials.is_anonymous() {
            found.insert(host, (path.len(), credentials));
        }
    }
    let secrets = found.into_iter();
    Ok(Credentials::of_node(
        secrets.map(|(host, (_length, credentials))| (host, credentials)),
    ))
}

/// Host and path of a key. Docker's own `/v1/` and `/v2/` say nothing about repositories.
fn place(key: &str) -> (String, String) {
    let bare = key.split_once("://").map_or(key, |(_scheme, rest)| rest);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_matches('/');
    let path = match path {
        "v1" | "v2" => "",
        path => path,
    };
    (canonical(host), path.to_owned())
}

/// Whether `path` is the beginning of `repository`, component by component.
fn covers(path: &str, repository: &str) -> bool {
    repository
        .strip_prefix(path)
        .is_some_and(|rest| path.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rstest::rstest;

    use super::super::credentials::Secret;
    use super::*;

    const FILE: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
        "registry.example": {"username": "all", "password": "pw"},
        "registry.example/team": {"username": "team", "password": "pw"},
        "registry.example/team/secret": {"identitytoken": "refresh"},
        "mirror.example:5000": {"registrytoken": "bearer"},
        "empty.example": {}
    }, "credsStore": "pass"}"#;

    fn shown(reference: &str, host: &str) -> String {
        let credentials = parse(FILE.as_bytes(), &reference.parse().unwrap()).unwrap();
        match credentials.for_host(host, true) {
            Secret::Anonymous => "nobody".into(),
            Secret::Password { username, .. } => username,
            Secret::IdentityToken(token) | Secret::RegistryToken(token) => token,
        }
    }

    #[rstest]
    #[case("busybox", "registry-1.docker.io", "hub")]
    #[case("registry.example/app", "registry.example", "all")]
    #[case("registry.example/team/app", "registry.example:443", "team")]
    #[case("registry.example/teams/app", "registry.example", "all")]
    #[case("registry.example/team/secret", "registry.example", "refresh")]
    #[case("registry.example/team/app", "mirror.example:5000", "bearer")]
    #[case("registry.example/team/app", "mirror.example", "nobody")]
    #[case("registry.example/team/app", "evil.example", "nobody")]
    #[case("empty.example/app", "empty.example", "nobody")]
    fn each_host_sees_its_own_secret_and_the_longest_path_wins(
        #[case] reference: &str,
        #[case] host: &str,
        #[case] want: &str,
    ) {
        assert_eq!(shown(reference, host), want);
    }

    #[test]
    fn a_malformed_file_is_refused_without_being_quoted() {
        let reference = "a.b/c".parse().unwrap();
        for text in [
            r#"{"auths": {"a.b": {"password": S3cret}}}"#,
            r#"{"auths": {"a.b": {"auth": "S3cret"}}}"#,
            r#"{"auths": {"a.b": {"password": 5}}}"#,
        ] {
            let error = parse(text.as_bytes(), &reference).unwrap_err();
            assert_eq!(error.kind(), Kind::FailedPrecondition);
            assert!(!error.chain().contains("S3cret"), "{}", error.chain());
        }
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_or_that_is_missing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let reference = "registry.example/app".parse().unwrap();
        let missing = Credentials::from_file(&path, &reference).await;
        assert!(missing.unwrap_err().chain().contains("credentials_file"));

        std::fs::write(&path, FILE).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let open = Credentials::from_file(&path, &reference).await;
        assert!(open.unwrap_err().chain().contains("chmod 600"));

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let read = Credentials::from_file(&path, &reference).await.unwrap();
        assert!(read.is_anonymous(), "the request brought none");
        assert_ne!(read.fingerprint(), Credentials::anonymous().fingerprint());
    }
}
