//! The peer's sandbox image: the same pause program that podwright embeds, so that both sandboxes run the same bytes.

use std::fs::File;
use std::path::Path;

use podwright::model::Digest;
use podwright::pause;
use serde_json::json;

use crate::case::Outcome;

/// The image's name.
pub(crate) const NAME: &str = "podwright.local/pause:1";

/// Writes the OCI archive.
pub(crate) fn write(path: &Path) -> Outcome {
    let mut layer = tar::Builder::new(Vec::new());
    append(&mut layer, "pause", pause::program(), 0o755)?;
    let layer = layer.into_inner()?;
    let layer_digest = Digest::sha256(&layer).to_string();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
    .to_string();
    let config_digest = Digest::sha256(config.as_bytes()).to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
    })
    .to_string();
    let manifest_digest = Digest::sha256(manifest.as_bytes()).to_string();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest_digest, "size": manifest.len(),
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": {"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"},
        }],
    })
    .to_string();
    let mut archive = tar::Builder::new(File::create(path)?);
    for (digest, blob) in [
        (&layer_digest, layer.as_slice()),
        (&config_digest, config.as_bytes()),
        (&manifest_digest, manifest.as_bytes()),
    ] {
        let name = format!("blobs/{}", digest.replace(':', "/"));
        append(&mut archive, &name, blob, 0o644)?;
    }
    append(&mut archive, "index.json", index.as_bytes(), 0o644)?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    append(&mut archive, "oci-layout", layout, 0o644)?;
    archive.finish()?;
    Ok(())
}

fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    bytes: &[u8],
    mode: u32,
) -> Outcome {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len().try_into()?);
    header.set_mode(mode);
    header.set_cksum();
    Ok(archive.append_data(&mut header, name, bytes)?)
}
