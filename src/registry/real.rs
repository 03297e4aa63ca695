//! The protocol against Debian's `docker-registry`, where it is installed.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::manifest::{Document, MAX_MANIFEST, decode};
use super::*;
use crate::model::{Descriptor, Digest};

const BINARY: &str = "/usr/bin/docker-registry";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

struct RealRegistry {
    child: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl RealRegistry {
    fn start() -> Option<Self> {
        if !std::path::Path::new(BINARY).exists() {
            eprintln!("SKIPPED: {BINARY} is not installed (apt install docker-registry)");
            return None;
        }
        let data = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: test}}\n",
            data.path().display()
        );
        let file = data.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(BINARY)
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self {
            child,
            port,
            _data: data,
        };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("docker-registry does not listen");
    }

    /// Sends one request and returns the answer's head.
    fn send(&self, method: &str, target: &str, media_type: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn push_blob(&self, bytes: &[u8]) -> Descriptor {
        let digest = Digest::sha256(bytes);
        let answer = self.send("POST", "/v2/team/app/blobs/uploads/", "text/plain", b"");
        let location = answer
            .lines()
            .find_map(|line| line.strip_prefix("Location: "))
            .unwrap();
        let target = location.split_once("/v2/").unwrap().1;
        let joint = if target.contains('?') { '&' } else { '?' };
        let answer = self.send(
            "PUT",
            &format!("/v2/{target}{joint}digest={digest}"),
            "application/octet-stream",
            bytes,
        );
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            digest,
            size: bytes.len() as u64,
            annotations: Default::default(),
        }
    }

    fn push_manifest(&self, tag: &str, body: &serde_json::Value) {
        let bytes = serde_json::to_vec(body).unwrap();
        let target = format!("/v2/team/app/manifests/{tag}");
        let answer = self.send("PUT", &target, MANIFEST, &bytes);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

#[tokio::test]
async fn an_image_of_a_real_registry_resolves_and_arrives_whole() {
    let Some(real) = RealRegistry::start() else {
        return;
    };
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    let layer = real.push_blob(&content);
    let config = real.push_blob(b"{}");
    real.push_manifest(
        "v1",
        &serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}],
        }),
    );
    let registry = Registry::new(Settings {
        config_paths: Vec::new(),
        ..Settings::default()
    });
    let reference = format!("127.0.0.1:{}/team/app:v1", real.port)
        .parse()
        .unwrap();
    let repository = registry
        .repository(&reference, &Credentials::anonymous())
        .await
        .unwrap();

    let resolved = repository.resolve().await.unwrap();
    let body = repository
        .document(&resolved.target, MAX_MANIFEST)
        .await
        .unwrap();
    let Document::Manifest(manifest) = decode(&resolved.target, &body).unwrap() else {
        panic!("a manifest was pushed");
    };

    assert_eq!(manifest.layers, std::slice::from_ref(&layer));
    for offset in [0_usize, 1_000_001] {
        let mut blob = repository.blob(layer.clone(), offset as u64);
        let mut got = Vec::new();
        while let Some(bytes) = blob.next().await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        assert!(got == content[offset..], "from {offset}");
    }
}
