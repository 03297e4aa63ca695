//! Writable layers on a file system that counts what projects use.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use podwright::sys::project_quota::{self as quota, Used};
use podwright::wire::cri;

use super::STALE;
use crate::case::{Outcome, find_program};
use crate::ensure;
use crate::node::layout::podwright_config;
use crate::node::namespaces::run;
use crate::node::{Node, leaks};
use crate::pods::{pod, sleeper};

/// A file system that can count what projects use.
pub(super) struct Kind {
    name: &'static str,
    program: &'static str,
    options: &'static [&'static str],
    bytes: u64,
}

pub(super) const EXT4: Kind = Kind {
    name: "ext4",
    program: "mkfs.ext4",
    options: &[
        "-q",
        "-F",
        "-I",
        "256",
        "-O",
        "quota,project",
        "-E",
        "quotatype=prjquota",
    ],
    bytes: 256 << 20,
};

pub(super) const XFS: Kind = Kind {
    name: "xfs",
    program: "mkfs.xfs",
    options: &["-q", "-f"],
    // The least that it takes.
    bytes: 320 << 20,
};

/// Ids that nobody else gives out.
const OURS: std::ops::Range<u32> = 0x5000_0000..0x5001_0000;

/// So that nothing is measured by a walk while a case goes on.
const SELDOM: &str = "disk_period = \"6h\"";

impl Kind {
    fn make(&self, image: &Path) -> Outcome {
        fs::File::create(image)?.set_len(self.bytes)?;
        let mut arguments = self.options.to_vec();
        let image = image.to_string_lossy();
        arguments.push(&image);
        run(self.program, &arguments).map(drop)
    }

    /// Why this machine has none.
    pub(super) fn obstacle(&self) -> Option<String> {
        let mut needed = [self.program, "chattr"].into_iter();
        if let Some(lacking) = needed.find(|program| find_program(program).is_none()) {
            return Some(format!("{lacking} is not installed"));
        }
        let tried = self.try_out();
        tried
            .err()
            .map(|error| format!("no {} with project quotas here: {error}", self.name))
    }

    fn try_out(&self) -> Outcome {
        let dir = tempfile::tempdir()?;
        let (image, place) = (dir.path().join("disk"), dir.path().join("place"));
        self.make(&image)?;
        fs::create_dir(&place)?;
        // In a mount namespace of its own, with which the mount and its loop device go.
        let tried = Command::new("unshare")
            .args(["--mount", "mount", "-o", "loop,prjquota"])
            .args([&image, &place])
            .output()?;
        let said = String::from_utf8_lossy(&tried.stderr);
        let said = said.lines().next().unwrap_or_default();
        ensure(tried.status.success(), || said.to_owned())
    }
}

/// The disk that containerd keeps everything on.
struct Disk(PathBuf);

impl Disk {
    async fn put_under(node: &Node, kind: &Kind) -> Outcome<Self> {
        let (image, root) = (node.home.join("disk"), node.home.join("containerd"));
        kind.make(&image)?;
        node.podwright.stop().await?;
        node.containerd.stop().await?;
        let (from, to) = (image.to_string_lossy(), root.to_string_lossy());
        run("mount", &["-o", "loop,prjquota", &from, &to])?;
        node.containerd.start().await?;
        node.podwright.start().await?;
        node.until_ready().await?;
        node.import("busybox").await?;
        Ok(Self(root))
    }

    async fn take_away(self, node: &Node) -> Outcome {
        node.podwright.stop().await?;
        node.containerd.stop().await?;
        run("umount", &[&self.0.to_string_lossy()])?;
        node.containerd.start().await?;
        node.podwright.start().await?;
        node.until_ready().await
    }
}

/// What the files of a layer take, looked at one by one.
fn taken(layer: &Layer) -> Outcome<Used> {
    let mut seen = BTreeSet::new();
    let mut used = Used::default();
    let mut add = |facts: &Metadata| {
        if seen.insert(facts.ino()) {
            used.bytes += facts.blocks() * 512;
            used.inodes += 1;
        }
    };
    for dir in [&layer.upper, &layer.work] {
        add(&fs::symlink_metadata(dir)?);
        walk(dir, &mut add)?;
    }
    Ok(used)
}

fn walk(dir: &Path, add: &mut impl FnMut(&Metadata)) -> Outcome {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let facts = entry.metadata()?;
        add(&facts);
        if facts.is_dir() {
            walk(&entry.path(), add)?;
        }
    }
    Ok(())
}

/// Where a container writes to.
struct Layer {
    upper: PathBuf,
    work: PathBuf,
    project: u32,
}

/// The verbose info of a container.
async fn info(node: &Node, id: &str) -> Outcome<serde_json::Value> {
    let request = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let reply = node.cri.runtime.clone().container_status(request).await?;
    let info = reply.into_inner().info;
    Ok(serde_json::from_str(info.get("info").ok_or("no info")?)?)
}

async fn layer(node: &Node, id: &str) -> Outcome<Layer> {
    let info = info(node, id).await?;
    let project = info.get("quotaProject").and_then(serde_json::Value::as_u64);
    let project = u32::try_from(project.ok_or("the layer has no project")?)?;
    let said = node.ctr(&["snapshots", "mounts", "/x", id])?;
    let option = |name: &str| -> Outcome<PathBuf> {
        let (_, rest) = said.split_once(name).ok_or_else(|| said.clone())?;
        let end = rest.find([',', ' ', '\n']).unwrap_or(rest.len());
        Ok(PathBuf::from(rest.get(..end).unwrap_or_default()))
    };
    Ok(Layer {
        upper: option("upperdir=")?,
        work: option("workdir=")?,
        project,
    })
}

async fn told(node: &Node, id: &str) -> Outcome<Used> {
    let layer = node.container_stats(id).await?.writable_layer;
    let layer = layer.ok_or("no writable layer is told of")?;
    let place = layer.fs_id.unwrap_or_default().mountpoint;
    ensure(Path::new(&place).is_dir() && layer.timestamp > 0, || place)?;
    Ok(Used {
        bytes: layer.used_bytes.map_or(0, |bytes| bytes.value),
        inodes: layer.inodes_used.map_or(0, |inodes| inodes.value),
    })
}

/// What is told once the last answer is not given again, beside what the files take and what the kernel counts.
async fn ensure_exact(node: &Node, id: &str, when: &str) -> Outcome<Used> {
    let layer = layer(node, id).await?;
    tokio::time::sleep(STALE).await;
    run("sync", &[])?;
    let told = told(node, id).await?;
    let counted = quota::used_blocking(&layer.upper, layer.project)?;
    let taken = taken(&layer)?;
    ensure(told == counted && told == taken, || {
        format!("{when}: told {told:?}, counted {counted:?}, the files take {taken:?}")
    })?;
    Ok(told)
}

pub(super) async fn exact(node: &Node, kind: &Kind) -> Outcome {
    let disk = Disk::put_under(node, kind).await?;
    lives(node).await?;
    forged(node).await?;
    leaks::remove_pods(node).await?;
    disk.take_away(node).await
}

/// From its creation to its removal, a layer is told of as it is counted. Measured it is after hours only.
async fn lives(node: &Node) -> Outcome {
    node.configure(&format!("[stats]\n{SELDOM}")).await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.create(&pod, &config, &sleeper("c")).await?;
    let bare = ensure_exact(node, &id, "created").await?;
    ensure(bare.inodes == 2, || format!("created: {bare:?}"))?;
    node.start(&id).await?;
    let first = layer(node, &id).await?;
    ensure(OURS.contains(&first.project), || first.project.to_string())?;

    let script = "head -c 3000000 /dev/zero >/file; for i in 1 2 3 4 5; do : >/tmp/$i; done; \
                  rm /bin/false; echo x >>/etc/group; mv /tmp/1 /moved; ln /file /linked; mkdir /dir";
    node.ask(&id, script).await?;
    let full = ensure_exact(node, &id, "written").await?;
    ensure(
        (3_000_000..4_000_000).contains(&full.bytes) && full.inodes >= bare.inodes + 10,
        || format!("{bare:?}, then {full:?}"),
    )?;
    let listed = node.list_stats(None).await?;
    let listed = listed
        .first()
        .and_then(|one| one.writable_layer.as_ref()?.used_bytes);
    ensure(
        listed.is_some_and(|bytes| bytes.value == full.bytes),
        || format!("listed: {listed:?}"),
    )?;

    let other = node.run(&pod, &config, &sleeper("other")).await?;
    let second = layer(node, &other).await?;
    ensure(second.project != first.project, || {
        "one project for two".to_owned()
    })?;
    ensure_exact(node, &other, "another").await?;

    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    ensure_exact(node, &id, "after a restart").await?;
    node.ask(&id, "rm /file /linked").await?;
    let less = ensure_exact(node, &id, "less").await?;
    ensure(less.bytes < 1_000_000, || format!("less: {less:?}"))?;
    node.stop(&id, 0).await?;
    ensure_exact(node, &id, "exited").await?;
    let above = first.upper.ancestors().nth(2).ok_or("no directory above")?;
    node.remove(&id).await?;
    // The directories go with containerd's next collection of garbage; this one is waited for.
    let lease = node.ctr(&["leases", "create"])?;
    node.ctr(&["leases", "rm", "--sync", lease.trim()])?;
    let free = quota::used_blocking(above, first.project)?;
    ensure(free == Used::default(), || format!("removed: {free:?}"))
}

/// Root of a container without a user namespace can give its files another project: they are told of all the same.
async fn forged(node: &Node) -> Outcome {
    let settings = podwright_config(&node.home);
    let text = fs::read_to_string(&settings)?.replace(SELDOM, "disk_period = \"1s\"");
    fs::write(&settings, text)?;
    // The pause that goes on was made by the period before.
    node.podwright.stop().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    let config = pod(node, "forger");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;
    node.ask(&id, "head -c 40000000 /dev/zero >/file").await?;
    let full = ensure_exact(node, &id, "before the forgery").await?;
    ensure(full.bytes > 40_000_000, || format!("{full:?}"))?;

    // As its root would: through its own root file system, in the host's user namespace.
    let info = info(node, &id).await?;
    let pid = info.get("pid").and_then(serde_json::Value::as_u64);
    let file = format!("/proc/{}/root/file", pid.ok_or("no pid")?);
    run("chattr", &["-p", "7", &file])?;

    let layer = layer(node, &id).await?;
    let counted = quota::used_blocking(&layer.upper, layer.project)?;
    ensure(counted.bytes < 1_000_000, || {
        format!("it was not taken out of the count: {counted:?}")
    })?;
    node.until_said("are not counted for its project").await?;
    let told = told(node, &id).await?;
    ensure(told.bytes > 40_000_000, || {
        format!("what was taken out of the count is not told of: {told:?}")
    })
}
