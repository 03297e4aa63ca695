//! An image whose configuration says something about everything that a container takes from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use podwright::model::Digest;
use serde_json::{Value, json};

use crate::case::Outcome;
use crate::generate::RICH_IMAGE;

/// Files of an OCI archive by their path.
type Files = BTreeMap<String, Vec<u8>>;

/// Writes the archive `from` to `to`, with another name and another configuration.
pub(crate) fn write_rich(from: &Path, to: &Path) -> Outcome {
    let mut files = read(from)?;
    let mut index = parse(&files, "index.json")?;
    let top = index
        .pointer_mut("/manifests/0")
        .ok_or("the archive lists no manifest")?;
    let mut manifest = parse(&files, &blob(top)?)?;
    let descriptor = manifest
        .pointer_mut("/config")
        .ok_or("the manifest names no configuration")?;
    let mut config = parse(&files, &blob(descriptor)?)?;
    if let Some(config) = config.as_object_mut() {
        config.insert(String::from("config"), rich());
    }
    store(&mut files, descriptor, &config)?;
    store(&mut files, top, &manifest)?;
    if let Some(top) = top.as_object_mut() {
        let name = json!({"io.containerd.image.name": RICH_IMAGE});
        top.insert(String::from("annotations"), name);
    }
    files.insert(String::from("index.json"), serde_json::to_vec(&index)?);
    write(to, &files)
}

fn rich() -> Value {
    json!({
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["sleep 1000"],
        "Env": ["PATH=/rich/bin:/bin", "RICH=image's", "PLAIN", "EMPTY="],
        "User": "5:6",
        "WorkingDir": "/rich",
        "StopSignal": "SIGQUIT",
        "Volumes": {"/declared": {}, "relative/volume": {}},
        "Labels": {
            "io.example.image/label": "image's",
            "io.example.image/only": "image's",
            "containerd.io/gc.root": "never",
            "io.cri-containerd.kind": "sandbox",
        },
    })
}

fn read(path: &Path) -> Outcome<Files> {
    let mut files = Files::new();
    for entry in tar::Archive::new(File::open(path)?).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path()?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(name.trim_start_matches("./").to_owned(), bytes);
        }
    }
    Ok(files)
}

fn write(path: &Path, files: &Files) -> Outcome {
    let mut archive = tar::Builder::new(File::create(path)?);
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len().try_into()?);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, name, bytes.as_slice())?;
    }
    Ok(archive.finish()?)
}

fn parse(files: &Files, name: &str) -> Outcome<Value> {
    let bytes = files
        .get(name)
        .ok_or_else(|| format!("the archive has no {name}"))?;
    Ok(serde_json::from_slice(bytes)?)
}

/// The path of what `descriptor` names.
fn blob(descriptor: &Value) -> Outcome<String> {
    let digest = descriptor.get("digest").and_then(Value::as_str);
    let digest = digest.ok_or("a descriptor without a digest")?;
    Ok(format!("blobs/{}", digest.replace(':', "/")))
}

/// Adds `content` to the files, and has `descriptor` name it.
fn store(files: &mut Files, descriptor: &mut Value, content: &Value) -> Outcome {
    let bytes = serde_json::to_vec(content)?;
    let digest = Digest::sha256(&bytes);
    let fields = descriptor
        .as_object_mut()
        .ok_or("a descriptor that is no object")?;
    fields.insert(String::from("digest"), json!(digest.as_str()));
    fields.insert(String::from("size"), json!(bytes.len()));
    files.insert(blob(descriptor)?, bytes);
    Ok(())
}
