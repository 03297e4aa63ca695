//! PullImage of three layers from a registry on the loopback: nothing there yet, and a second time.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use podwright::model::Digest;
use podwright::wire::cri;
use serde_json::json;

use crate::Plan;
use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::registry::Repository;
use crate::report::{Budget, Report};
use crate::sample::Series;
use crate::{daemon, registry};

const ADDRESS: &str = "127.0.0.1:5000";
const LAYERS: u64 = 3;
const LAYER_BYTES: usize = 100 << 20;
/// Second pulls for each cold one: they take milliseconds.
const AGAIN: usize = 10;
/// How long containerd may take to drop what a removed image leaves.
const GONE: Duration = Duration::from_secs(60);

/// Adds the rows of pulls.
pub(crate) async fn measure(
    plan: &Plan,
    home: &Path,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let _registry = serve(home)?;
    crate::endpoint::until_connected(ADDRESS).await?;
    let (mut cold, mut peer_cold) = (Series::default(), Series::default());
    let (mut again, mut peer_again) = (Series::default(), Series::default());
    for round in 0..plan.pulls {
        if round % 2 == 0 {
            both(ours, &mut cold, &mut again).await?;
            both(peer, &mut peer_cold, &mut peer_again).await?;
        } else {
            both(peer, &mut peer_cold, &mut peer_again).await?;
            both(ours, &mut cold, &mut again).await?;
        }
    }
    let name = "PullImage, 3 layers of 100 MiB, cold";
    report.row(name, "ms", Budget::AtMost(0.6), &cold, &peer_cold);
    let name = "PullImage, all of it there";
    report.row(name, "ms", Budget::None, &again, &peer_again);
    Ok(())
}

async fn both(endpoint: &Endpoint, cold: &mut Series, again: &mut Series) -> Outcome {
    let image = cri::ImageSpec {
        image: format!("{ADDRESS}/large:1"),
        ..Default::default()
    };
    let request = cri::PullImageRequest {
        image: Some(image.clone()),
        ..Default::default()
    };
    let mut images = endpoint.cri.images.clone();
    let began = Instant::now();
    images.pull_image(request.clone()).await?;
    cold.push(began.elapsed());
    for _ in 0..AGAIN {
        let began = Instant::now();
        images.pull_image(request.clone()).await?;
        again.push(began.elapsed());
    }
    images
        .remove_image(cri::RemoveImageRequest { image: Some(image) })
        .await?;
    until_gone(endpoint).await
}

/// Has containerd collect its garbage, and waits until the layers are no longer there: the next pull is a cold one.
async fn until_gone(endpoint: &Endpoint) -> Outcome {
    let began = Instant::now();
    loop {
        endpoint.collect_garbage()?;
        let left = bytes_below(&endpoint.home.join("containerd"))?;
        if left < u64::try_from(LAYER_BYTES)? / 2 {
            return Ok(());
        }
        if began.elapsed() > GONE {
            return Err(format!("{left} bytes of a removed image stay").into());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn bytes_below(folder: &Path) -> Outcome<u64> {
    let output = Command::new("du").args(["-sb"]).arg(folder).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes = text.split_whitespace().next().ok_or("du says nothing")?;
    Ok(bytes.parse()?)
}

/// The registry, which ends with the namespaces of the run.
fn serve(home: &Path) -> Outcome<std::process::Child> {
    let storage = home.join("registry");
    fill(&storage)?;
    let config = home.join("registry.yml");
    fs::write(&config, registry::settings(&storage, ADDRESS))?;
    for folder in ["/etc/cni/hosts", "/etc/cni/hosts/127.0.0.1:5000"] {
        fs::create_dir_all(folder)?;
    }
    fs::write(
        "/etc/cni/hosts/127.0.0.1:5000/hosts.toml",
        format!("server = \"http://{ADDRESS}\"\n"),
    )?;
    daemon::start(
        Command::new("docker-registry").arg("serve").arg(&config),
        &home.join("registry.log"),
    )
}

/// Lays the image out as the registry stores it.
fn fill(storage: &Path) -> Outcome {
    let repository = Repository::new(storage, "large");
    let (mut layers, mut plain) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let (tar, packed) = layer(number)?;
        plain.push(Digest::sha256(&tar).to_string());
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": repository.keep(&packed)?, "size": packed.len(),
        }));
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": plain},
    });
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": repository.keep(config.as_bytes())?, "size": config.len(),
        },
        "layers": layers,
    });
    let digest = repository.keep(manifest.to_string().as_bytes())?;
    repository.tag("1", &digest)
}

/// A layer of ten files, and the same packed: half of each file is noise, so that it packs as programs do.
fn layer(number: u64) -> Outcome<(Vec<u8>, Vec<u8>)> {
    const FILES: usize = 10;
    let mut archive = tar::Builder::new(Vec::with_capacity(LAYER_BYTES + (1 << 20)));
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number + 1);
    for file in 0..FILES {
        let mut bytes = Vec::with_capacity(LAYER_BYTES / FILES + 64);
        while bytes.len() < LAYER_BYTES / FILES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
            bytes.extend_from_slice(b"the same");
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len().try_into()?);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, format!("data/{number}/{file}"), &bytes[..])?;
    }
    let plain = archive.into_inner()?;
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&plain)?;
    Ok((plain, packed.finish()?))
}
