//! Containers and pods that go on from checkpoints, by real CRIU where it works; and what is no checkpoint, anywhere.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use podwright::model::Digest;
use podwright::wire::cri;
use serde_json::json;
use tonic::Code;

use super::checkpoints::{checkpoint, count, counter, ensure_alive, shelf, unfit};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::{fails, pod};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "checkpoint.a_container_goes_on_in_another_pod_from_an_archive_and_from_an_image",
        |node| Box::pin(goes_on(node)),
    )
    .needs(&["criu"])
    .unless(unfit)
    .within(240),
    Case::new(
        "checkpoint.a_pod_of_two_containers_becomes_a_pod_again",
        |node| Box::pin(whole_pod(node)),
    )
    .needs(&["criu"])
    .unless(unfit)
    .within(240),
    Case::new(
        "checkpoint.what_is_no_checkpoint_is_refused_and_leaves_nothing",
        |node| Box::pin(refused(node)),
    ),
];

const ON: &str = "[containers]\nenable_restore = true";

fn with_image(mut config: cri::ContainerConfig, image: &str) -> cri::ContainerConfig {
    config.image.get_or_insert_default().image = image.to_owned();
    config
}

async fn goes_on(node: &Node) -> Outcome {
    node.configure(ON).await?;
    let config = pod(node, "p");
    let first = node.run_pod(&config).await?;
    let id = node.run(&first, &config, &counter()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = count(node, &id).await?;
    let archive = shelf(node)?.join("c.tar");
    checkpoint(node, &id, &archive).await?;
    let base = node.status(&id).await?.image_id;
    node.remove_pod(&first).await?;
    import(node, &archive).await?;

    for (name, image) in [
        ("q", archive.display().to_string()),
        ("r", IMAGE.to_owned()),
    ] {
        let config = pod(node, name);
        let pod = node.run_pod(&config).await?;
        let container = with_image(counter(), &image);
        let id = node.create(&pod, &config, &container).await?;
        let status = node.status(&id).await?;
        ensure(status.image_id == base, || format!("{image}: {status:#?}"))?;
        node.start(&id).await?;

        ensure_alive(node, &id, before)
            .await
            .map_err(|e| format!("{image}: {e}"))?;
        let log = fs::read_to_string(node.status(&id).await?.log_path)?;
        let earliest = log
            .lines()
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        ensure(earliest.min().is_some_and(|n| n >= before), || {
            format!("{image}: it began anew: {log}")
        })?;
        let hostname = node.ask(&id, "cat /etc/hostname").await?;
        ensure(hostname.trim() == name, || {
            format!("the file of pod {hostname}")
        })?;
        let left = node
            .home
            .join("root/containers")
            .join(&id)
            .join("checkpoint");
        ensure(!left.exists(), || format!("{} stays", left.display()))?;
        node.stop(&id, 10).await?;
        let ended = node.status(&id).await?;
        ensure(ended.exit_code == 0, || format!("{ended:#?}"))?;
        node.remove_pod(&pod).await?;
    }
    Ok(super::images::remove(node, IMAGE).await?)
}

/// What a checkpoint's image is called here.
const IMAGE: &str = "podwright.local/checkpoint:1";

/// Imports an image whose one layer is the archive.
async fn import(node: &Node, archive: &Path) -> Outcome {
    let layout = node.home.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let store = |kind: &str, bytes: &[u8]| -> Outcome<serde_json::Value> {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.hex()), bytes)?;
        let media_type = format!("application/vnd.oci.image.{kind}");
        let (digest, size) = (digest.as_str(), bytes.len());
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
    };
    let layer = fs::read(archive)?;
    let diff_id = Digest::sha256(&layer);
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": machine,
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [diff_id.as_str()] },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "config": store("config.v1+json", &serde_json::to_vec(&config)?)?,
        "layers": [store("layer.v1.tar", &layer)?],
        "annotations": { "io.kubernetes.cri-o.annotations.checkpoint.name": "c" },
    });
    let mut top = store("manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    if let Some(top) = top.as_object_mut() {
        let name = json!({ "org.opencontainers.image.ref.name": IMAGE });
        top.insert("annotations".to_owned(), name);
    }
    let index = json!({ "schemaVersion": 2, "manifests": [top] });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    let packed = node.home.join("checkpoint-image.tar");
    let mut tar = tar::Builder::new(File::create(&packed)?);
    tar.append_dir_all(".", &layout)?;
    tar.finish()?;
    let packed = packed.display().to_string();
    node.cli(&["image", "import", &packed]).await.map(drop)
}

async fn whole_pod(node: &Node) -> Outcome {
    node.configure(ON).await?;
    let config = pod(node, "p");
    let first = node.run_pod(&config).await?;
    let named = |name: &str| {
        let mut container = counter();
        container.metadata.get_or_insert_default().name = name.to_owned();
        container.log_path = format!("{name}.log");
        container
    };
    let containers = [named("a"), named("b")];
    let mut ids = Vec::new();
    for container in &containers {
        ids.push(node.run(&first, &config, container).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut before = Vec::new();
    for id in &ids {
        before.push(count(node, id).await?);
    }
    let output = shelf(node)?.join("pod");
    fs::create_dir(&output)?;
    let request = cri::CheckpointPodRequest {
        pod_sandbox_id: first.clone(),
        output_path: output.display().to_string(),
        container_ids: ids.clone(),
        options: Default::default(),
    };
    let mut runtime = node.cri.runtime.clone();
    let endless = runtime.checkpoint_pod(request.clone()).await;
    fails("without a deadline", endless, Code::InvalidArgument)?;
    let mut timed = tonic::Request::new(request);
    timed.set_timeout(Duration::from_secs(120));

    runtime.checkpoint_pod(timed).await?;

    for (id, before) in ids.iter().zip(&before) {
        ensure_alive(node, id, *before).await?;
    }
    node.remove_pod(&first).await?;
    let mut config = pod(node, "p");
    config.metadata.get_or_insert_default().uid = "another".to_owned();
    let request = cri::RestorePodRequest {
        checkpoint_path: output.display().to_string(),
        config: Some(config),
        container_configs: containers.to_vec(),
        ..Default::default()
    };
    let restored = runtime.restore_pod(request).await?.into_inner();
    let names: Vec<&str> = restored
        .restored_containers
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    ensure(names == ["a", "b"], || format!("{restored:#?}"))?;
    for (container, before) in restored.restored_containers.iter().zip(&before) {
        let id = &container.container_id;
        let created = node.status(id).await?.state();
        ensure(created == cri::ContainerState::ContainerCreated, || {
            format!("{created:?}")
        })?;
        node.start(id).await?;
        ensure_alive(node, id, *before).await?;
    }
    let files = fs::read_dir(&output)?.count();
    ensure(files == 3, || format!("{files} files in the checkpoint"))
}

async fn refused(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let shelf = shelf(node)?;
    let archive = shelf.join("a.tar");
    fs::write(&archive, "no archive")?;
    let container = with_image(counter(), &archive.display().to_string());
    let off = node.create(&pod, &config, &container).await;
    fails("while it is off", off, Code::Unimplemented)?;
    node.configure(ON).await?;

    let malformed = node.create(&pod, &config, &container).await;

    fails("no archive", malformed, Code::InvalidArgument)?;
    let none = with_image(counter(), &shelf.join("none.tar").display().to_string());
    let missing = node.create(&pod, &config, &none).await;
    fails("no file", missing, Code::NotFound)?;
    let images = node.cli(&["image", "du"]).await?;
    let strange = json!({ "rootfsImageRef": format!("sha256:{}", "0".repeat(64)), "rootfsImageName": "good/app:1" });
    write(&archive, &strange.to_string(), &[])?;
    let elsewhere = node.create(&pod, &config, &container).await;
    fails("an image that is not here", elsewhere, Code::NotFound)?;
    let now = node.cli(&["image", "du"]).await?;
    ensure(images == now, || format!("images were made: {now}"))?;

    // One whose image is here is laid out as it is. What CRIU then makes of it is a start that failed, no hang.
    let here = node.run(&pod, &config, &counter()).await?;
    let base = node.status(&here).await?.image_id;
    let canary = json!({ "mounts": [{ "source": shelf, "destination": "/canary" }] });
    let spec = ("spec.dump", canary.to_string());
    write(
        &archive,
        &json!({ "rootfsImageRef": base }).to_string(),
        &[spec],
    )?;
    let mut container = container;
    container.metadata.get_or_insert_default().name = "d".to_owned();
    let id = node.create(&pod, &config, &container).await?;
    let record = node.ctr(&["containers", "info", &id])?;
    ensure(!record.contains("/canary"), || record.clone())?;
    let started = node.start(&id).await;
    ensure(started.is_err(), || {
        String::from("CRIU took nothing for something")
    })?;
    let ended = node.status(&id).await?;
    ensure(ended.reason == "StartError", || format!("{ended:#?}"))?;
    node.remove(&id).await?;
    let left = node.home.join("root/containers").join(&id);
    ensure(!left.exists(), || format!("{} stays", left.display()))
}

/// A checkpoint with `config` and nothing in it that CRIU could use.
fn write(path: &Path, config: &str, more: &[(&str, String)]) -> Outcome {
    let mut tar = tar::Builder::new(File::create(path)?);
    let given = more.iter().map(|(name, text)| (*name, text.as_str()));
    let all = [
        ("checkpoint/inventory.img", "none"),
        ("config.dump", config),
    ];
    let spec = more.is_empty().then_some(("spec.dump", "{}"));
    for (name, text) in all.into_iter().chain(spec).chain(given) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    tar.finish()?;
    Ok(())
}
