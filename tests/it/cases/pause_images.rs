//! Pods whose pause containers run an image of the operator's instead of the embedded program.

use podwright::wire::cri;
use serde_json::Value;
use tonic::Code;

use super::images::{pull, remove};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, registry};
use crate::pause_image;
use crate::pods::{fails, mapped, mapped_pod, pod, sleeper};

/// Where a node has it pulled from.
const NAME: &str = "upstream.example/own/pause:3";

pub(super) const CASES: &[Case] = &[
    Case::new("pause.an_image_is_pulled_pinned_and_run", |node| {
        Box::pin(chosen(node, ""))
    }),
    Case::new("pause.an_image_runs_with_crun", |node| {
        Box::pin(chosen(node, "crun"))
    })
    .needs(&["crun"]),
    Case::new("pause.an_image_outlives_a_restart_and_a_reboot", |node| {
        Box::pin(restarts(node))
    }),
    Case::new("pause.an_image_runs_in_a_user_namespace", |node| {
        Box::pin(users(node))
    })
    .newest(),
];

async fn choose(node: &Node) -> Outcome {
    node.configure(&format!("[sandbox]\npause_image = \"{NAME}\""))
        .await
}

async fn info(node: &Node, id: &str) -> Outcome<Value> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: true,
    };
    let mut runtime = node.cri.runtime.clone();
    let reply = runtime.pod_sandbox_status(request).await?.into_inner();
    Ok(serde_json::from_str(
        reply.info.get("info").ok_or("no info")?,
    )?)
}

async fn chosen(node: &Node, handler: &str) -> Outcome {
    choose(node).await?;
    let config = pod(node, "p");
    let nowhere = node.run_pod_with(handler, &config).await;
    let said = fails("an image that nobody has", nowhere, Code::Unknown)?;
    ensure(said.contains("sandbox.pause_image"), || said)?;
    ensure(
        node.pods(cri::PodSandboxFilter::default())
            .await?
            .is_empty(),
        || "a pod is left".to_owned(),
    )?;

    let archive = node.home.join("pause.tar");
    pause_image::write(&archive)?;
    let registry = registry::start_with(node, &archive, "own/pause", "3").await?;
    let id = node.run_pod_with(handler, &config).await?;
    // It is not asked for again.
    registry.stop().await?;
    let second = node.run_pod_with(handler, &pod(node, "q")).await?;

    let container = node.run(&id, &config, &sleeper("c")).await?;
    let exec = node.exec(&container, &["true"], 5).await?;
    ensure(exec.exit_code == 0, || format!("{exec:?}"))?;
    let shown = info(node, &id).await?;
    for (key, wanted) in [
        ("image", NAME),
        ("snapshotKey", id.as_str()),
        ("snapshotter", "overlayfs"),
    ] {
        ensure(shown.get(key).is_some_and(|said| said == wanted), || {
            format!("{key}: {shown}")
        })?;
    }
    let args = shown.pointer("/runtimeSpec/process/args/0");
    ensure(args.is_some_and(|one| one == "/pause"), || {
        format!("{shown}")
    })?;
    let mut images = node.cri.images.clone();
    let request = cri::ListImagesRequest::default();
    let listed = images.list_images(request).await?.into_inner().images;
    let ours = listed
        .iter()
        .find(|image| image.repo_tags.iter().any(|tag| tag == NAME));
    ensure(ours.is_some_and(|image| image.pinned), || {
        format!("{listed:?}")
    })?;
    let snapshots = node.ctr(&["snapshots", "list"])?;
    ensure(snapshots.contains(&id), || snapshots.clone())?;

    node.stop_pod(&id).await?;
    node.remove_pod(&id).await?;
    node.remove_pod(&second).await?;
    let snapshots = node.ctr(&["snapshots", "list"])?;
    ensure(!snapshots.contains(&id), || snapshots.clone())?;
    remove_image(node).await
}

async fn remove_image(node: &Node) -> Outcome {
    Ok(remove(node, NAME).await?)
}

async fn bring(node: &Node) -> Outcome {
    let archive = node.home.join("pause.tar");
    pause_image::write(&archive)?;
    let registry = registry::start_with(node, &archive, "own/pause", "3").await?;
    pull(node, NAME).await?;
    registry.stop().await?;
    // It was here before it was chosen: it counts as pinned all the same once a pod uses it.
    choose(node).await
}

async fn restarts(node: &Node) -> Outcome {
    bring(node).await?;
    let config = pod(node, "p");
    let id = node.run_pod(&config).await?;
    let before = info(node, &id).await?;
    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    let after = info(node, &id).await?;
    for key in ["image", "snapshotKey", "snapshotter", "pid"] {
        ensure(
            before.get(key).is_some() && before.get(key) == after.get(key),
            || format!("{key}: {after}"),
        )?;
    }
    let request = cri::ImageStatusRequest {
        image: super::images::spec(NAME),
        verbose: false,
    };
    let status = node.cri.images.clone().image_status(request).await?;
    let image = status.into_inner().image;
    ensure(image.as_ref().is_some_and(|image| image.pinned), || {
        format!("{image:?}")
    })?;

    node.reboot().await?;
    let status = node.pod_status(&id).await?;
    ensure(
        status.state() == cri::PodSandboxState::SandboxNotready,
        || format!("{status:?}"),
    )?;
    node.remove_pod(&id).await?;
    let snapshots = node.ctr(&["snapshots", "list"])?;
    ensure(!snapshots.contains(&id), || snapshots.clone())?;
    remove_image(node).await
}

async fn users(node: &Node) -> Outcome {
    bring(node).await?;
    let config = mapped_pod(node, "p");
    let id = node.run_pod(&config).await?;
    let container = node.run(&id, &config, &mapped(sleeper("c"))).await?;
    let exec = node.exec(&container, &["true"], 5).await?;
    ensure(exec.exit_code == 0, || format!("{exec:?}"))?;
    node.remove_pod(&id).await?;
    remove_image(node).await
}
