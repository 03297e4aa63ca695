//! The stand-in images, built once a test run from Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use podwright::model::Digest;
use serde_json::{Value, json};

use crate::case::Outcome;
use crate::node::namespaces;

/// Name of the busybox image once it is imported.
pub(crate) const BUSYBOX: &str = "podwright.local/busybox:1";

/// Where the archive of `name` (`busybox`, `nginx`) lies.
pub(crate) fn archive(name: &str) -> PathBuf {
    folder().join(format!("{name}.tar"))
}

fn folder() -> PathBuf {
    ready().unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("images"))
}

/// The folder of archives that somebody else has made, where `PODWRIGHT_IT_IMAGES` names one.
fn ready() -> Option<PathBuf> {
    std::env::var_os("PODWRIGHT_IT_IMAGES").map(PathBuf::from)
}

/// Builds the archives where there are none newer than the script that makes them.
pub(crate) fn build() -> Outcome {
    if ready().is_some() {
        return Ok(());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/images/build");
    let changed = script.metadata()?.modified()?;
    let fresh = ["busybox", "nginx"].iter().all(|name| {
        archive(name)
            .metadata()
            .and_then(|found| found.modified())
            .is_ok_and(|built| built > changed)
    });
    if fresh {
        return Ok(());
    }
    let output = Command::new(&script)
        .arg(folder())
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "the stand-in images could not be built: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
    .into())
}

/// An archive of the busybox image as `name`, whose configuration declares `volumes`.
pub(crate) fn with_volumes(folder: &Path, name: &str, volumes: &[&str]) -> Outcome<PathBuf> {
    derived(folder, name, volumes, &[])
}

/// An archive of the busybox image as `name`, with a second layer of `files`: path and text.
pub(crate) fn with_layer(folder: &Path, name: &str, files: &[(&str, &str)]) -> Outcome<PathBuf> {
    derived(folder, name, &[], files)
}

#[expect(
    clippy::indexing_slicing,
    reason = "the archive is our own; were its shape another, the case would rightly fail"
)]
fn derived(
    folder: &Path,
    name: &str,
    volumes: &[&str],
    files: &[(&str, &str)],
) -> Outcome<PathBuf> {
    let layout = folder.join("derived.layout");
    fs::create_dir_all(&layout)?;
    let (from, to) = (archive("busybox"), layout.to_string_lossy().into_owned());
    let from = from.to_string_lossy();
    namespaces::run("tar", &["--extract", "--file", &from, "--directory", &to])?;
    let blobs = layout.join("blobs/sha256");
    let read = |digest: &Value| -> Outcome<Value> {
        let hex = digest
            .as_str()
            .unwrap_or_default()
            .trim_start_matches("sha256:");
        Ok(serde_json::from_slice(&fs::read(blobs.join(hex))?)?)
    };
    let store = |descriptor: &mut Value, content: &Value| -> Outcome {
        let bytes = serde_json::to_vec(content)?;
        let digest = Digest::sha256(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes)?;
        descriptor["digest"] = digest.as_str().into();
        descriptor["size"] = bytes.len().into();
        Ok(())
    };
    let index_file = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&index_file)?)?;
    let top = &mut index["manifests"][0];
    let mut manifest = read(&top["digest"])?;
    let mut config = read(&manifest["config"]["digest"])?;
    for volume in volumes {
        config["config"]["Volumes"][volume] = json!({});
    }
    if !files.is_empty() {
        let bytes = layer(folder, files)?;
        let digest = Digest::sha256(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes)?;
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut();
        diff_ids.ok_or("no diff ids")?.push(digest.as_str().into());
        let layers = manifest["layers"].as_array_mut().ok_or("no layers")?;
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest.as_str(),
            "size": bytes.len(),
        }));
    }
    store(&mut manifest["config"], &config)?;
    store(top, &manifest)?;
    top["annotations"] = json!({"io.containerd.image.name": name});
    fs::write(&index_file, serde_json::to_vec(&index)?)?;
    let made = folder.join("derived.tar");
    let target = made.to_string_lossy();
    namespaces::run(
        "tar",
        &["--create", "--file", &target, "--directory", &to, "."],
    )?;
    Ok(made)
}

/// A layer of these files.
fn layer(folder: &Path, files: &[(&str, &str)]) -> Outcome<Vec<u8>> {
    let root = folder.join("derived.layer");
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().ok_or("a file without a folder")?)?;
        fs::write(path, text)?;
    }
    let (root, tar) = (root.to_string_lossy(), folder.join("derived.layer.tar"));
    let target = tar.to_string_lossy();
    let arguments = [
        "--create",
        "--owner=0",
        "--group=0",
        "--file",
        &target,
        "--directory",
        &root,
        ".",
    ];
    namespaces::run("tar", &arguments)?;
    Ok(fs::read(&tar)?)
}
