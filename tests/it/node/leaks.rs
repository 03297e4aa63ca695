//! Nothing may be left when the pods are gone: a survey before the case, another one after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use podwright::wire::cri;

use super::{Node, layout};
use crate::case::Outcome;

/// How long what is left may take to go: shims and cgroups leave a moment after the reply, and what would not go while
/// containerd was away goes with the janitor's next round.
const GRACE: Duration = Duration::from_secs(45);

/// What a node holds, a line each, by kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Survey(BTreeMap<&'static str, Vec<String>>);

impl Survey {
    pub(crate) async fn of(node: &Node) -> Outcome<Self> {
        let mut kinds = BTreeMap::new();
        kinds.insert("processes", processes());
        kinds.insert("mounts", mounts()?);
        kinds.insert("network namespaces", entries("/run/netns"));
        kinds.insert("addresses", addresses());
        kinds.insert("cgroups", cgroups(&node.cgroup_parent));
        kinds.insert("descriptors", descriptors(node.podwright.pid().await?)?);
        for (kind, arguments) in CONTAINERD_HOLDS {
            kinds.insert(kind, ctr(node, arguments)?);
        }
        kinds.insert("step records", files("/run/podwright".as_ref()));
        let mut records = files(&layout::records(&node.home));
        // The pause program's root is laid out once, by the first pod, for all of them.
        records.retain(|path| !path.contains("/podwright/pause/"));
        kinds.insert("records", records);
        Ok(Self(kinds))
    }

    /// What is here and was not in `before`.
    fn beyond(&self, before: &Self) -> Vec<String> {
        let mut more = Vec::new();
        for (kind, lines) in &self.0 {
            let mut known = before.0.get(kind).cloned().unwrap_or_default();
            for line in lines {
                match known.iter().position(|one| one == line) {
                    Some(at) => drop(known.swap_remove(at)),
                    None => more.push(format!("{kind}: {line}")),
                }
            }
        }
        more
    }
}

const CONTAINERD_HOLDS: [(&str, &[&str]); 5] = [
    ("containers", &["containers", "ls", "-q"]),
    ("tasks", &["tasks", "ls", "-q"]),
    ("snapshots", &["snapshots", "ls"]),
    ("leases", &["leases", "ls", "-q"]),
    ("ingests", &["content", "active"]),
];

fn ctr(node: &Node, arguments: &[&str]) -> Outcome<Vec<String>> {
    Ok(node
        .ctr(arguments)?
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

/// Stops and removes whatever pods the case left.
pub(crate) async fn remove_pods(node: &Node) -> Outcome {
    let mut runtime = node.cri.runtime.clone();
    let listed = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await?;
    for sandbox in listed.into_inner().items {
        let pod_sandbox_id = sandbox.id;
        runtime
            .stop_pod_sandbox(cri::StopPodSandboxRequest {
                pod_sandbox_id: pod_sandbox_id.clone(),
            })
            .await?;
        runtime
            .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
            .await?;
    }
    Ok(())
}

/// Fails with a list of what is here now and was not before.
pub(crate) async fn check(node: &Node, before: &Survey) -> Outcome {
    let deadline = tokio::time::Instant::now() + GRACE;
    loop {
        let left = Survey::of(node).await?.beyond(before);
        if left.is_empty() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(format!("left behind:\n    {}", left.join("\n    ")).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Names of all programs that run on the node.
fn processes() -> Vec<String> {
    entries("/proc")
        .iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| name != "ctr")
        .collect()
}

pub(super) fn mounts() -> Outcome<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    Ok(table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(str::to_owned)
        .collect())
}

pub(super) fn addresses() -> Vec<String> {
    entries(layout::CNI_ADDRESSES)
        .into_iter()
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

/// The node's cgroups below its own; the parent itself goes when the node does.
fn cgroups(parent: &str) -> Vec<String> {
    layout::cgroups(parent)
        .into_iter()
        .filter(|path| !path.to_string_lossy().ends_with(parent))
        .map(|path| path.display().to_string())
        .collect()
}

/// What podwright's descriptors are, without numbers. Sockets come and go with its clients, so they do not count.
fn descriptors(pid: nix::unistd::Pid) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        let kind = target.split(":[").next().unwrap_or_default();
        if kind != "socket" {
            found.push(kind.to_owned());
        }
    }
    Ok(found)
}

fn entries(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}
