//! A registry on the loopback, filled with a stand-in image, and the mirror configuration that leads to it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Daemon, Node, namespaces};
use crate::case::Outcome;
use crate::images;
use crate::registry::{Repository, settings};

const ADDRESS: &str = "127.0.0.1:5000";
/// Where podwright's configuration on a node looks for `hosts.toml` files.
pub(super) const HOSTS: &str = "/run/certs.d";

/// Serves the stand-in image `name` as `repository:tag`; `upstream.example` is mirrored by it.
pub(crate) async fn start(node: &Node, name: &str, repository: &str, tag: &str) -> Outcome<Daemon> {
    start_with(node, &images::archive(name), repository, tag).await
}

/// The same for the image of an OCI archive.
pub(crate) async fn start_with(
    node: &Node,
    archive: &Path,
    repository: &str,
    tag: &str,
) -> Outcome<Daemon> {
    let storage = node.home.join("registry");
    fill(&storage, archive, repository, tag)?;
    let config = node.home.join("registry.yml");
    fs::write(&config, settings(&storage, ADDRESS))?;
    let hosts = Path::new(HOSTS).join("upstream.example");
    fs::create_dir_all(&hosts)?;
    fs::write(
        hosts.join("hosts.toml"),
        format!(
            "server = \"https://upstream.example\"\n[host.\"http://{ADDRESS}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        ),
    )?;
    let registry =
        Daemon::new("docker-registry", &node.home).args([PathBuf::from("serve"), config]);
    registry.start_at(ADDRESS).await?;
    Ok(registry)
}

/// Has `domain` served by the registry of [`start`], and by `mirrors` before it.
pub(crate) fn mirrors(domain: &str, mirrors: &[&str]) -> Outcome {
    let directory = Path::new(HOSTS).join(domain);
    fs::create_dir_all(&directory)?;
    let mut text = format!("server = \"http://{ADDRESS}\"\n");
    for mirror in mirrors {
        text.push_str(&format!("[host.\"{mirror}\"]\n"));
    }
    Ok(fs::write(directory.join("hosts.toml"), text)?)
}

/// Has `domain` served by `url` alone.
pub(crate) fn served_by(domain: &str, url: &str) -> Outcome {
    let directory = Path::new(HOSTS).join(domain);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(
        directory.join("hosts.toml"),
        format!("server = \"{url}\"\n"),
    )?)
}

/// Lays an OCI archive out as the registry stores it.
fn fill(storage: &Path, archive: &Path, repository: &str, tag: &str) -> Outcome {
    let layout = storage.with_extension("layout");
    fs::create_dir_all(&layout)?;
    namespaces::run(
        "tar",
        &[
            "--extract",
            "--file",
            &archive.to_string_lossy(),
            "--directory",
            &layout.to_string_lossy(),
        ],
    )?;
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest = index
        .pointer("/manifests/0/digest")
        .and_then(Value::as_str)
        .ok_or("the archive names no manifest")?;
    let repository = Repository::new(storage, repository);
    for entry in fs::read_dir(layout.join("blobs/sha256"))? {
        repository.keep(&fs::read(entry?.path())?)?;
    }
    repository.tag(tag, manifest)
}
