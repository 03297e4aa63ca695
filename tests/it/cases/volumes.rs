//! Images that containers mount as volumes.

use std::fs;

use podwright::wire::cri;
use serde_json::json;
use tonic::Code;

use super::images::{find, pull, remove, spec};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images::{self, BUSYBOX};
use crate::node::{Node, leaks, registry};
use crate::pods::{fails, mapped, mapped_pod, mapping, pod, sleeper};
use crate::registry::Repository;

/// An image of two layers.
const LAYERS: &str = "podwright.local/layers:1";

pub(super) const CASES: &[Case] = &[
    Case::new("volume.shows_an_image_and_takes_no_writes", |node| {
        Box::pin(shown(node))
    }),
    Case::new(
        "volume.shows_an_image_and_takes_no_writes_with_the_newest",
        |node| Box::pin(shown(node)),
    )
    .newest(),
    Case::new("volume.outlives_its_image_and_a_restart", |node| {
        Box::pin(outlives(node))
    }),
    Case::new("volume.is_gone_after_a_reboot", |node| {
        Box::pin(reboot(node))
    }),
    Case::new("volume.what_cannot_be_mounted_is_told", |node| {
        Box::pin(refused(node))
    }),
    Case::new("volume.shows_the_files_of_an_artifact", |node| {
        Box::pin(artifact(node))
    })
    .needs(&["docker-registry"]),
    Case::new("volume.belongs_to_the_pods_users", |node| {
        Box::pin(users(node))
    })
    .newest(),
];

/// A mount of `image` at `path`.
pub(super) fn volume(image: &str, path: &str) -> cri::Mount {
    cri::Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: spec(image),
        ..Default::default()
    }
}

async fn import_layers(node: &Node) -> Outcome {
    let files = [("etc/passwd", "second:x:0:0::/:/bin/sh\n")];
    let archive = images::with_layer(&node.home, LAYERS, &files)?;
    let archive = archive.to_string_lossy();
    node.cli(&["image", "import", &archive]).await.map(drop)
}

fn part(image: &str, sub_path: &str, path: &str) -> cri::Mount {
    cri::Mount {
        image_sub_path: sub_path.to_owned(),
        ..volume(image, path)
    }
}

async fn shown(node: &Node) -> Outcome {
    import_layers(node).await?;
    let image = find(node, BUSYBOX).await?.ok_or("no busybox")?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    node.until_processes("pause", 1).await?;
    let before = leaks::Survey::of(node).await?;
    let mut container = sleeper("c");
    container.mounts = vec![
        volume(BUSYBOX, "/whole"),
        part(&image.id, "usr/bin", "/linked"),
        volume(LAYERS, "/layers"),
        part(LAYERS, "etc", "/layers-etc"),
        cri::Mount {
            mount_options: vec![String::from("noexec")],
            ..volume(BUSYBOX, "/data")
        },
    ];
    let id = node.run(&pod, &config, &container).await?;
    let mut other = sleeper("other");
    other.mounts = vec![volume(BUSYBOX, "/whole")];
    let second = node.run(&pod, &config, &other).await?;

    for script in [
        "/whole/bin/busybox true",
        "/linked/busybox true",
        "cmp /whole/bin/busybox /linked/busybox",
        "grep -q alice /layers/etc/group && cmp /layers-etc/group /layers/etc/group",
        "grep -q second /layers-etc/passwd && ! grep -q alice /layers-etc/passwd",
        "! touch /whole/x && ! touch /layers/x && ! touch /linked/x",
        "cmp /whole/bin/busybox /data/bin/busybox && ! /data/bin/busybox true",
    ] {
        node.ask(&id, script).await?;
    }
    let status = node.status(&id).await?;
    ensure(status.mounts.len() == 5, || format!("{:?}", status.mounts))?;
    let first = status.mounts.first().and_then(|mount| mount.image.clone());
    let told = first.unwrap_or_default();
    ensure(told.image == image.id && told.image_ref == image.id, || {
        format!("{told:?}")
    })?;
    ensure(
        status
            .mounts
            .iter()
            .all(|mount| mount.host_path.is_empty() && mount.readonly),
        || format!("{:?}", status.mounts),
    )?;
    node.stop(&id, 5).await?;
    node.remove(&id).await?;
    node.ask(&second, "/whole/bin/busybox true").await?;
    node.stop(&second, 5).await?;
    node.remove(&second).await?;
    leaks::check(node, &before).await?;
    remove(node, LAYERS).await.map_err(Into::into)
}

async fn outlives(node: &Node) -> Outcome {
    import_layers(node).await?;
    let image = find(node, LAYERS).await?.ok_or("no image of layers")?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.mounts = vec![volume(LAYERS, "/layers")];
    let id = node.create(&pod, &config, &container).await?;
    remove(node, LAYERS).await?;
    node.ctr(&["content", "prune", "references"]).ok();
    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;

    node.start(&id).await?;
    node.ask(
        &id,
        "grep second /layers/etc/passwd && cat /layers/etc/group",
    )
    .await?;
    let status = node.status(&id).await?;
    let told = status.mounts.first().and_then(|mount| mount.image.clone());
    ensure(told.is_some_and(|told| told.image == image.id), || {
        format!("{:?}", status.mounts)
    })?;
    let mut late = sleeper("late");
    late.mounts = container.mounts;
    let made = node.create(&pod, &config, &late).await;
    fails("a volume of a removed image", made, Code::NotFound)?;
    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    node.remove_pod(&pod).await.map_err(Into::into)
}

async fn reboot(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.mounts = vec![volume(BUSYBOX, "/image")];
    let id = node.run(&pod, &config, &container).await?;

    node.reboot().await?;

    let status = node.status(&id).await?;
    ensure(
        status.state() == cri::ContainerState::ContainerExited,
        || format!("{status:?}"),
    )?;
    node.remove(&id).await?;
    node.remove_pod(&pod).await?;
    let held = node.ctr(&["snapshots", "ls"])?;
    ensure(!held.contains("-image-"), || held)
}

async fn refused(node: &Node) -> Outcome {
    let canary = node.home.join("canary");
    fs::create_dir(&canary)?;
    let out = format!("../../../../../..{}", canary.display());
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    node.until_processes("pause", 1).await?;
    let before = leaks::Survey::of(node).await?;

    for (what, mount, code) in [
        (
            "an unknown image",
            volume("podwright.local/none:1", "/image"),
            Code::NotFound,
        ),
        (
            "a missing directory",
            part(BUSYBOX, "no/such", "/image"),
            Code::NotFound,
        ),
        (
            "a file",
            part(BUSYBOX, "etc/passwd", "/image"),
            Code::InvalidArgument,
        ),
        (
            "a path out of the image",
            part(BUSYBOX, &out, "/image"),
            Code::InvalidArgument,
        ),
        (
            "a writable mount",
            cri::Mount {
                readonly: false,
                ..volume(BUSYBOX, "/image")
            },
            Code::InvalidArgument,
        ),
    ] {
        let mut container = sleeper("c");
        // The first one is mounted by then, and has to go again.
        container.mounts = vec![volume(BUSYBOX, "/first"), mount];
        let made = node.create(&pod, &config, &container).await;
        let said = fails(what, made, code)?;
        ensure(said.starts_with("ImageVolumeMountFailed"), || {
            format!("{what}: {said}")
        })?;
        leaks::check(node, &before).await?;
    }
    Ok(())
}

const ARTIFACT: &str = "artifacts.example/team/model:1";

/// Puts an artifact of these files, with and without a name, into the registry's storage.
fn keep_artifact(node: &Node, tag: &str, files: &[(Option<&str>, &str)]) -> Outcome<String> {
    let repository = Repository::new(&registry::storage(node), "team/model");
    let empty = repository.keep(b"{}")?;
    let mut layers = Vec::new();
    for (name, text) in files {
        let mut layer = json!({
            "mediaType": "application/octet-stream",
            "digest": repository.keep(text.as_bytes())?,
            "size": text.len(),
        });
        if let (Some(name), Some(layer)) = (name, layer.as_object_mut()) {
            let named = json!({ "org.opencontainers.image.title": name });
            layer.insert("annotations".to_owned(), named);
        }
        layers.push(layer);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.model",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": layers,
    });
    let digest = repository.keep(&serde_json::to_vec(&manifest)?)?;
    repository.tag(tag, &digest)?;
    Ok(digest)
}

async fn artifact(node: &Node) -> Outcome {
    let files = [
        (Some("greeting.txt"), "hello"),
        (Some("deep/er/file"), "deep"),
        (None, "no name"),
    ];
    let digest = keep_artifact(node, "1", &files)?;
    keep_artifact(node, "evil", &[(Some("../../canary"), "out")])?;
    keep_artifact(node, "nameless", &[(None, "no name")])?;
    registry::mirrors("artifacts.example", &[])?;
    let registry = registry::serve(node, "").await?;
    let before = leaks::Survey::of(node).await?;
    for (tag, words) in [("evil", "../../canary"), ("nameless", "image.title")] {
        let ended = pull(node, &format!("artifacts.example/team/model:{tag}")).await;
        let said = fails(tag, ended, Code::InvalidArgument)?;
        ensure(said.contains(words), || said)?;
        node.cli(&["image", "prune"]).await?;
    }
    leaks::check(node, &before).await?;

    let id = pull(node, ARTIFACT).await?;
    registry.stop().await?;
    let found = find(node, ARTIFACT).await?.ok_or("it is not listed")?;
    ensure(
        id == digest && found.id == id && found.repo_tags == [ARTIFACT] && found.size > 16,
        || format!("{id} {digest} {found:?}"),
    )?;
    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    ensure(find(node, &id).await?.as_ref() == Some(&found), || {
        "another one after a restart".to_owned()
    })?;

    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    container.mounts = vec![volume(ARTIFACT, "/files"), part(&id, "deep/er", "/deeper")];
    let running = node.run(&pod, &config, &container).await?;
    for (script, wanted) in [
        ("cat /files/greeting.txt", "hello"),
        ("cat /files/deep/er/file", "deep"),
        ("cat /deeper/file", "deep"),
        ("find /files -type f | wc -l", "2"),
        (
            "stat -c %a:%u /files/deep /files/greeting.txt | tr '\\n' ' '",
            "755:0 644:0",
        ),
        ("touch /files/x 2>/dev/null; echo $?", "1"),
    ] {
        let told = node.ask(&running, script).await?;
        ensure(told == wanted, || format!("{script}: {told}"))?;
    }
    let status = node.status(&running).await?;
    let image = status.mounts.first().and_then(|mount| mount.image.clone());
    ensure(image.is_some_and(|image| image.image == id), || {
        format!("{:?}", status.mounts)
    })?;
    let mut program = sleeper("program");
    program.image = spec(ARTIFACT);
    let made = node.create(&pod, &config, &program).await;
    let said = fails("a container of an artifact", made, Code::InvalidArgument)?;
    ensure(said.contains("volume"), || said)?;
    node.remove_pod(&pod).await?;
    Ok(remove(node, ARTIFACT).await?)
}

async fn users(node: &Node) -> Outcome {
    import_layers(node).await?;
    let config = mapped_pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let mut container = mapped(sleeper("c"));
    let with = |mount: cri::Mount| cri::Mount {
        uid_mappings: mapping(),
        gid_mappings: mapping(),
        ..mount
    };
    container.mounts = vec![
        with(volume(BUSYBOX, "/one")),
        with(part(LAYERS, "etc", "/many")),
        volume(BUSYBOX, "/plain"),
    ];
    let id = node.run(&pod, &config, &container).await?;

    for (path, owner) in [
        ("/one/bin/busybox", "0:0"),
        ("/many/passwd", "0:0"),
        ("/plain/bin/busybox", "65534:65534"),
    ] {
        let said = node.ask(&id, &format!("stat -c %u:%g {path}")).await?;
        ensure(said == owner, || format!("{path} belongs to {said}"))?;
    }
    node.ask(
        &id,
        "! touch /one/x && ls /one/root && /one/bin/busybox true",
    )
    .await?;
    node.remove_pod(&pod).await?;
    let left = fs::read_to_string("/proc/self/mounts")?;
    remove(node, LAYERS).await?;
    ensure(!left.contains("/images/"), || left)
}
