//! `podwright play` on a real node: a pod comes up from its manifest, is followed, and goes.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use podwright::wire::cri;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;

pub(super) const CASES: &[Case] = &[
    Case::new("play.a_pod_is_run_followed_and_deleted", |node| {
        Box::pin(whole_life(node, MANIFEST.to_owned()))
    }),
    Case::new("play.a_pod_has_users_of_its_own", |node| {
        Box::pin(whole_life(
            node,
            MANIFEST
                .replace("spec:\n", "spec:\n  hostUsers: false\n")
                .replace("echo tick", MAPPED_TICK),
        ))
    })
    .newest(),
];

/// Only root of a user namespace of 65536 ids, to whom the volume's file belongs, ticks.
const MAPPED_TICK: &str =
    "grep -q 65536$ /proc/self/uid_map && test $(stat -c %u /shared/greeting) = 0 && echo tick";

const MANIFEST: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {greeting: well met}
---
apiVersion: v1
kind: Pod
metadata: {name: played}
spec:
  terminationGracePeriodSeconds: 5
  volumes:
  - {name: words, configMap: {name: words}}
  - {name: shared, emptyDir: {}}
  initContainers:
  - name: first
    image: podwright.local/busybox:1
    command: [sh, -c, 'cat /words/greeting > /shared/greeting']
    volumeMounts: [{name: words, mountPath: /words}, {name: shared, mountPath: /shared}]
  containers:
  - name: app
    image: podwright.local/busybox:1
    command: [sh, -c, 'trap \"echo asked to go; exit 0\" TERM; cat /shared/greeting; echo; while :; do echo tick; sleep 0.2; done']
    volumeMounts: [{name: shared, mountPath: /shared}]
    lifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook > /shared/hook']}}}
";

async fn whole_life(node: &Node, manifest_text: String) -> Outcome {
    let manifest = node.home.join("played.yaml");
    fs::write(&manifest, manifest_text)?;
    let play = |more: &[&str]| {
        let mut all = vec![String::from("play")];
        all.extend(more.iter().map(ToString::to_string));
        for (flag, value) in [
            ("--state-dir", node.home.join("play").display().to_string()),
            (
                "--log-dir",
                node.home.join("play-logs").display().to_string(),
            ),
            ("--cgroup-parent", node.cgroup_parent.clone()),
        ] {
            all.extend([flag.to_owned(), value]);
        }
        all.push(manifest.display().to_string());
        all
    };
    let run = async |more: &[&str]| {
        let all = play(more);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        node.cli(&all).await
    };

    run(&["--detach"]).await?;
    let listed = node.pods(cri::PodSandboxFilter::default()).await?;
    ensure(listed.len() == 1, || format!("{listed:?}"))?;
    let logs = run(&["--logs", "--container", "app"]).await?;
    ensure(logs.starts_with("well met\n"), || logs)?;
    let mut follower = Command::new(env!("CARGO_BIN_EXE_podwright"))
        .args(play(&["--logs", "-f", "--container", "app"]))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(follower.stdout.take().ok_or("no output")?).lines();
    let mut ticks = 0;
    while ticks < 5 {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await??;
        ticks += usize::from(line.ok_or("the follower ended early")? == "tick");
    }
    let down = run(&["--down"]).await?;
    let mut last = Vec::new();
    let rest = async {
        while let Some(line) = lines.next_line().await? {
            last.push(line);
        }
        follower.wait().await
    };
    let status = tokio::time::timeout(Duration::from_secs(20), rest).await??;
    let again = run(&["--down"]).await?;

    ensure(status.success(), || format!("the follower: {status}"))?;
    ensure(last.iter().any(|line| line == "asked to go"), || {
        format!("{last:?}")
    })?;
    ensure(down.contains("deleted"), || down)?;
    ensure(again.contains("was not there"), || again)?;
    let left = node.pods(cri::PodSandboxFilter::default()).await?;
    ensure(left.is_empty(), || format!("{left:?}"))?;
    let files = fs::read_dir(node.home.join("play"))?.count();
    ensure(files == 0, || format!("{files} folders of pods are left"))
}
