//! A registry on the loopback, filled with a stand-in image, and the mirror configuration that leads to it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Daemon, Node, namespaces};
use crate::case::Outcome;
use crate::images;
use crate::registry::{Repository, settings};

/// Where it listens.
pub(crate) const ADDRESS: &str = "127.0.0.1:5000";
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
    hosts(
        "upstream.example",
        &format!(
            "server = \"https://upstream.example\"\n[host.\"http://{ADDRESS}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        ),
    )?;
    fill(&storage(node), archive, repository, tag)?;
    serve(node, "").await
}

/// Serves what the storage holds. `more` is added to the registry's settings, in the table `http` at first.
pub(crate) async fn serve(node: &Node, more: &str) -> Outcome<Daemon> {
    let config = node.home.join("registry.yml");
    let text = settings(&storage(node), ADDRESS);
    fs::write(&config, format!("{text}{more}"))?;
    let registry =
        Daemon::new("docker-registry", &node.home).args([PathBuf::from("serve"), config]);
    registry.start_at(ADDRESS).await?;
    Ok(registry)
}

/// Where the registry has its blobs.
pub(crate) fn storage(node: &Node) -> PathBuf {
    node.home.join("registry")
}

/// Has `domain` served by the registry of [`start`], and by `mirrors` before it.
pub(crate) fn mirrors(domain: &str, mirrors: &[&str]) -> Outcome {
    let mut text = format!("server = \"http://{ADDRESS}\"\n");
    for mirror in mirrors {
        text.push_str(&format!("[host.\"{mirror}\"]\n"));
    }
    hosts(domain, &text).map(drop)
}

/// Has `domain` served by `url` alone.
pub(crate) fn served_by(domain: &str, url: &str) -> Outcome {
    hosts(domain, &format!("server = \"{url}\"\n")).map(drop)
}

/// Writes the `hosts.toml` of `domain`, and answers the directory that files named there lie in.
pub(crate) fn hosts(domain: &str, text: &str) -> Outcome<PathBuf> {
    let directory = Path::new(HOSTS).join(domain);
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("hosts.toml"), text)?;
    Ok(directory)
}

/// Lays an OCI archive out as the registry stores it.
pub(crate) fn fill(storage: &Path, archive: &Path, repository: &str, tag: &str) -> Outcome {
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
