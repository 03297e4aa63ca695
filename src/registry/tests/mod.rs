//! The protocol against a scripted server.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::stub::{Mute, Reply, Seen, Shelf, Stub};
use super::*;
use crate::model::{Descriptor, Digest, Kind};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SECRET: &str = "S3cretXYZ";

mod auth;
mod fetching;
mod mirrors;
mod over_tls;
mod ranges;
mod resolving;

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

fn hosts_file(directory: &tempfile::TempDir, domain: &str, text: &str) -> Settings {
    let path = directory.path().join(domain);
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("hosts.toml"), text).unwrap();
    Settings {
        config_paths: vec![directory.path().to_owned()],
        ..settings()
    }
}
