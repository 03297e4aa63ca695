//! Running containers written down to archives by CRIU, and nodes that cannot.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use podwright::wire::cri;
use serde_json::Value;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Gates, Node};
use crate::pods::{fails, pod, shell};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "checkpoint.an_archive_has_all_and_the_container_lives_on",
        |node| Box::pin(whole(node)),
    )
    .needs(&["criu"])
    .unless(unfit),
    Case::new(
        "checkpoint.a_container_that_cannot_be_written_down_lives_on",
        |node| Box::pin(thawed(node)),
    )
    .needs(&["criu"])
    .unless(unfit),
    Case::new(
        "checkpoint.the_next_process_thaws_what_the_last_one_froze",
        |node| Box::pin(taken_over(node)),
    )
    .needs(&["criu"])
    .unless(unfit)
    .within(240),
    Case::new(
        "checkpoint.a_node_that_cannot_says_so_as_kubelet_expects",
        |node| Box::pin(refused(node)),
    ),
];

/// Why CRIU is of no use on this kernel.
pub(super) fn unfit() -> Option<String> {
    let checked = Command::new("criu").arg("check").output().ok()?;
    (!checked.status.success()).then(|| "criu check fails on this kernel".to_owned())
}

/// Counts in a variable, in a file and in the log.
pub(super) fn counter() -> cri::ContainerConfig {
    shell(
        "c",
        "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i > /count; echo line $i; sleep 0.1; done",
    )
}

pub(super) async fn checkpoint(
    node: &Node,
    id: &str,
    location: &Path,
) -> Result<(), tonic::Status> {
    let request = cri::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout: 0,
    };
    let mut runtime = node.cri.runtime.clone();
    runtime.checkpoint_container(request).await.map(drop)
}

/// A directory that is root's alone, outside of what podwright keeps.
pub(super) fn shelf(node: &Node) -> Outcome<PathBuf> {
    let dir = node.home.join("checkpoints");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    Ok(dir)
}

fn members(archive: &Path) -> Outcome<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        found.insert(name, data);
    }
    Ok(found)
}

pub(super) async fn count(node: &Node, id: &str) -> Outcome<u64> {
    // The file is empty for a moment whenever it is written.
    let read = "until n=$(cat /count) && [ -n \"$n\" ]; do :; done; echo $n";
    Ok(node.ask(id, read).await?.trim().parse()?)
}

/// It counts on, from where it was.
pub(super) async fn ensure_alive(node: &Node, id: &str, at_least: u64) -> Outcome {
    let now = count(node, id).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = count(node, id).await?;
    ensure(now >= at_least && later > now, || {
        format!("{at_least}, then {now}, then {later}")
    })
}

async fn whole(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let container = counter();
    let id = node.run(&pod, &config, &container).await?;
    let status = node.status(&id).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = count(node, &id).await?;
    let place = shelf(node)?.join("checkpoint-p_ns-c-2026-01-01T00:00:00Z.tar");

    checkpoint(node, &id, &place).await?;

    ensure_alive(node, &id, before).await?;
    let mode = fs::metadata(&place)?.permissions().mode() & 0o7777;
    ensure(mode == 0o600, || format!("{mode:o}"))?;
    let members = members(&place)?;
    for name in [
        "checkpoint/inventory.img",
        "checkpoint/pages-1.img",
        "config.dump",
        "container.log",
        "dump.log",
        "rootfs-diff.tar",
        "spec.dump",
        "stats-dump",
        "status",
        "status.dump",
    ] {
        ensure(members.contains_key(name), || {
            format!("no {name} among {:?}", members.keys())
        })?;
    }
    let member = |name: &str| {
        let found = members.get(name);
        found.ok_or_else(|| format!("no {name}"))
    };
    let config: Value = serde_json::from_slice(member("config.dump")?)?;
    let is_of = |key: &str, wanted: &str| config.get(key).and_then(Value::as_str) == Some(wanted);
    ensure(
        is_of("id", &id) && is_of("rootfsImageRef", &status.image_id),
        || format!("{config:#}"),
    )?;
    let shown: Value = serde_json::from_slice(member("status.dump")?)?;
    let log = shown.get("log_path").and_then(Value::as_str);
    ensure(log == Some(&status.log_path), || format!("{shown:#}"))?;
    let changes = packed(member("rootfs-diff.tar")?)?;
    ensure(changes.iter().any(|name| name == "count"), || {
        format!("{changes:?}")
    })?;
    ensure_nothing_left(node)?;
    let again = checkpoint(node, &id, &place).await;
    fails("a second time", again, Code::AlreadyExists).map(drop)
}

/// The names in a gzipped tar.
fn packed(bytes: &[u8]) -> Outcome<Vec<String>> {
    let mut gzip = Command::new("tar")
        .args(["-tzf", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut input = gzip.stdin.take().ok_or("no input")?;
    std::io::Write::write_all(&mut input, bytes)?;
    drop(input);
    let said = String::from_utf8(gzip.wait_with_output()?.stdout)?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn ensure_nothing_left(node: &Node) -> Outcome {
    let dir = node.home.join("root/checkpoints");
    let left: Vec<_> = match fs::read_dir(&dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_none) => Vec::new(),
    };
    ensure(left.is_empty(), || format!("{left:?}"))
}

async fn thawed(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &counter()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = count(node, &id).await?;
    let shelf = shelf(node)?;
    let small = shelf.join("small");
    fs::create_dir(&small)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"])
        .arg(&small)
        .status()?;
    ensure(mounted.success(), || String::from("mount"))?;

    let full = checkpoint(node, &id, &small.join("a.tar")).await;

    fails("a full disk", full, Code::ResourceExhausted)?;
    ensure(fs::read_dir(&small)?.next().is_none(), || {
        String::from("a part of the archive stays")
    })?;
    let unmounted = Command::new("umount").arg(&small).status()?;
    ensure(unmounted.success(), || String::from("umount"))?;
    ensure_alive(node, &id, before).await?;
    ensure_nothing_left(node)
}

/// The next process thaws what the last one froze.
async fn taken_over(node: &Node) -> Outcome {
    let gates = Gates::listen()?;
    node.podwright.stop().await?;
    node.podwright.start_with(Gates::ENVIRONMENT).await?;
    node.until_ready().await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &counter()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let shelf = shelf(node)?;
    for step in ["pause after", "criu after", "resume after"] {
        let before = count(node, &id).await?;
        gates.hold_at(&format!("checkpoint_container.{step}"));
        let place = shelf.join("a.tar");
        tokio::select! {
            () = gates.held() => {}
            ended = checkpoint(node, &id, &place) => {
                return Err(format!("{step} was not reached: {ended:?}").into());
            }
        }
        node.podwright.kill().await?;
        node.podwright.start_with(Gates::ENVIRONMENT).await?;
        node.until_ready().await?;
        ensure_alive(node, &id, before).await?;
        ensure_nothing_left(node)?;
        ensure(fs::read_dir(&shelf)?.next().is_none(), || {
            String::from("a part of the archive stays")
        })?;
    }
    Ok(())
}

async fn refused(node: &Node) -> Outcome {
    let shelf = shelf(node)?;
    let unknown = checkpoint(node, "none", &shelf.join("a.tar")).await;
    fails("an unknown one", unknown, Code::NotFound)?;
    node.configure("[containers]\nenable_criu = false").await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &counter()).await?;

    let refused = checkpoint(node, &id, &shelf.join("a.tar")).await;

    let status = refused.err().ok_or("it was written down")?;
    ensure(
        status.code() == Code::Unimplemented
            && status.message() == "method CheckpointContainer not implemented",
        || format!("{status:?}"),
    )
}
