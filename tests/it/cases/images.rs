//! Images: imported, listed, pulled from a plain-http mirror on the loopback, removed.

use std::time::Duration;

use podwright::wire::cri;
use serde_json::Value;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images::{self, BUSYBOX};
use crate::node::{Node, registry};
use crate::pods::{fails, pod, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("image.an_imported_one_is_listed_and_removed", |node| {
        Box::pin(imported(node))
    }),
    Case::new("image.is_pulled_through_a_mirror", |node| {
        Box::pin(pulled(node))
    })
    .needs(&["docker-registry"]),
    Case::new(
        "image.pull_by_hand_shows_its_layers_and_pulls_lists_it",
        |node| Box::pin(by_hand(node)),
    )
    .needs(&["docker-registry"]),
    Case::new("image.an_exported_one_is_the_same_when_imported", |node| {
        Box::pin(exported(node))
    }),
    Case::new("image.a_volume_it_declares_is_filled_and_goes", |node| {
        Box::pin(volumes(node))
    }),
    Case::new("image.usage_is_told", |node| Box::pin(usage(node))),
];

pub(super) fn spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    })
}

pub(super) async fn find(node: &Node, image: &str) -> Result<Option<cri::Image>, tonic::Status> {
    let request = cri::ImageStatusRequest {
        image: spec(image),
        verbose: false,
    };
    let reply = node.cri.images.clone().image_status(request).await?;
    Ok(reply.into_inner().image)
}

/// Pulls without credentials.
pub(super) async fn pull(node: &Node, image: &str) -> Result<String, tonic::Status> {
    pull_with(node, image, None).await
}

/// Pulls with what `auth` says, and answers the image's id.
pub(super) async fn pull_with(
    node: &Node,
    image: &str,
    auth: Option<cri::AuthConfig>,
) -> Result<String, tonic::Status> {
    let request = cri::PullImageRequest {
        image: spec(image),
        auth,
        ..Default::default()
    };
    let reply = node.cri.images.clone().pull_image(request).await?;
    Ok(reply.into_inner().image_ref)
}

pub(super) async fn remove(node: &Node, image: &str) -> Result<(), tonic::Status> {
    let request = cri::RemoveImageRequest { image: spec(image) };
    node.cri.images.clone().remove_image(request).await?;
    Ok(())
}

pub(super) async fn list(node: &Node) -> Result<Vec<cri::Image>, tonic::Status> {
    let request = cri::ListImagesRequest::default();
    let reply = node.cri.images.clone().list_images(request).await?;
    Ok(reply.into_inner().images)
}

async fn imported(node: &Node) -> Outcome {
    let by_tag = find(node, BUSYBOX).await?.ok_or("the tag is unknown")?;
    let by_id = find(node, &by_tag.id).await?;
    let listed = list(node).await?;

    ensure(by_id.as_ref() == Some(&by_tag), || format!("{by_id:?}"))?;
    ensure(
        by_tag.repo_tags == [BUSYBOX] && by_tag.size > 100_000 && by_tag.id.starts_with("sha256:"),
        || format!("{by_tag:?}"),
    )?;
    ensure(listed == [by_tag.clone()], || format!("{listed:?}"))?;
    remove(node, &by_tag.id).await?;
    remove(node, &by_tag.id).await?;
    ensure(find(node, BUSYBOX).await?.is_none(), || {
        String::from("still found after its removal")
    })?;
    node.import("busybox").await
}

/// The archive holds the image bit by bit: imported again it has the same id and runs, and containerd reads it too.
async fn exported(node: &Node) -> Outcome {
    let before = find(node, BUSYBOX).await?.ok_or("no image to export")?;
    let file = node.home.join("exported.tar");
    let path = file.to_string_lossy().into_owned();
    node.cli(&["image", "export", BUSYBOX, &path]).await?;
    let again = node.cli(&["image", "export", BUSYBOX, &path]).await;
    let unknown = node
        .cli(&["image", "export", "none.example/none:1", "-"])
        .await;
    remove(node, BUSYBOX).await?;

    node.ctr(&["images", "import", "--no-unpack", &path])?;
    node.ctr(&["images", "remove", "--sync", BUSYBOX])?;
    node.cli(&["image", "import", &path]).await?;

    let after = find(node, BUSYBOX).await?.ok_or("it was not imported")?;
    ensure(after.id == before.id, || format!("{before:?} {after:?}"))?;
    ensure(again.is_err() && unknown.is_err(), || {
        String::from("an export that cannot be made succeeded")
    })?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    node.run(&pod, &config, &sleeper("c")).await?;
    node.remove_pod(&pod).await?;
    Ok(std::fs::remove_file(&file)?)
}

async fn by_hand(node: &Node) -> Outcome {
    let registry = registry::start(node, "busybox", "library/busybox", "1").await?;
    let name = "upstream.example/library/busybox:1";
    remove(node, BUSYBOX).await?;

    let id = node.cli(&["image", "pull", name]).await?;
    let missing = node
        .cli(&["image", "pull", "upstream.example/none:1"])
        .await;
    let listed = node.cli(&["image", "pulls", "--json"]).await?;
    let table = node.cli(&["image", "pulls"]).await?;
    let taken = node.cli(&["image", "du"]).await?;

    let found = find(node, name).await?.ok_or("it was not pulled")?;
    ensure(id.trim() == found.id, || format!("{id} and {found:?}"))?;
    let refused = missing
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure(refused.contains("upstream.example/none:1"), || refused)?;
    let rows: Vec<Value> = serde_json::from_str(&listed)?;
    let whole = |row: &Value| {
        let layers = row["layers"].as_array().cloned().unwrap_or_default();
        let is_done = |layer: &Value| layer["state"] == "done" && layer["here"] == layer["size"];
        row["image_id"] == found.id.as_str() && !layers.is_empty() && layers.iter().all(is_done)
    };
    let failed =
        |row: &Value| row["reference"] == "upstream.example/none:1" && row["error"].is_string();
    ensure(rows.iter().any(whole) && rows.iter().any(failed), || listed)?;
    ensure(table.contains(name) && table.contains("failed"), || table)?;
    ensure(taken.contains(name), || taken)?;
    remove(node, name).await?;
    registry.stop().await?;
    node.import("busybox").await
}

async fn pulled(node: &Node) -> Outcome {
    let registry = registry::start(node, "busybox", "library/busybox", "1").await?;
    let name = "upstream.example/library/busybox:1";
    remove(node, BUSYBOX).await?;

    let image_ref = pull(node, name).await?;
    let again = pull(node, name).await?;
    let found = find(node, name)
        .await?
        .ok_or("the pulled image is unknown")?;
    let absent = pull(node, "upstream.example/library/absent:1").await;

    ensure(found.id == image_ref && again == image_ref, || {
        format!("{image_ref} and {found:?}")
    })?;
    ensure(
        found
            .repo_digests
            .iter()
            .any(|d| d.starts_with("upstream.example/library/busybox@sha256:")),
        || format!("{found:?}"),
    )?;
    fails("pull of what is not there", absent, Code::NotFound)?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.image = spec(&image_ref);
    let id = node.run(&pod, &config, &container).await?;
    let status = node.status(&id).await?;
    ensure(status.image_id == image_ref, || format!("{status:?}"))?;
    node.remove_pod(&pod).await?;
    remove(node, name).await?;
    registry.stop().await?;
    node.import("busybox").await
}

/// A volume shows what the image has there, is written beside the root file system, and is removed with the container.
async fn volumes(node: &Node) -> Outcome {
    const NAME: &str = "podwright.local/volumes:1";
    let archive = images::with_volumes(&node.home, NAME, &["/home", "/none/there"])?;
    node.cli(&["image", "import", &archive.to_string_lossy()])
        .await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.image = spec(NAME);
    let id = node.run(&pod, &config, &container).await?;

    let script = "grep -c -e ' /home ' -e ' /none/there ' /proc/mounts; echo x > /home/x && cat /home/x; ls /none/there";
    let told = node.ask(&id, script).await?;
    let owner = node.ask(&id, "stat -c %a:%u /tmp /home").await?;
    let status = node.status(&id).await?;

    ensure(told == "2\nx", || told.clone())?;
    ensure(owner == "1777:0\n755:0", || owner.clone())?;
    ensure(status.mounts.is_empty(), || format!("{:?}", status.mounts))?;
    node.remove_pod(&pod).await?;
    remove(node, NAME).await?;
    node.import("busybox").await
}

async fn usage(node: &Node) -> Outcome {
    let mut last = None;
    // Snapshots are measured every ten seconds.
    for _ in 0..120 {
        let request = cri::ImageFsInfoRequest::default();
        let reply = node.cri.images.clone().image_fs_info(request).await?;
        let reply = reply.into_inner();
        let used = reply
            .image_filesystems
            .first()
            .and_then(|fs| fs.used_bytes.as_ref())
            .map(|bytes| bytes.value);
        if used.is_some_and(|bytes| bytes > 100_000) {
            return Ok(());
        }
        last = Some(reply);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(format!("nothing is used after 24 s: {last:?}").into())
}
