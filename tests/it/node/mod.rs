//! A node: namespaces, mounts, a network, a private containerd, and podwright on top.

mod daemon;
mod gates;
mod installed;
pub(crate) mod layout;
pub(crate) mod leaks;
pub(crate) mod namespaces;
pub(crate) mod registry;
mod surgery;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use podwright::wire::cri;

pub(crate) use daemon::Daemon;
pub(crate) use gates::Gates;
pub(crate) use installed::{SLICE, UNIT, is_meant as is_installed, run as run_installed};
pub(crate) use namespaces::{enter, init, spawn};

use crate::case::{Case, Outcome};
use crate::client::Cri;
use crate::images;

/// Names the role in which this program was started, where it was started by itself.
pub(crate) const ROLE: &str = "PODWRIGHT_NODE_ROLE";
/// Names the case.
pub(crate) const CASE: &str = "PODWRIGHT_NODE_CASE";
/// The node's folder on disk.
pub(crate) const HOME: &str = "PODWRIGHT_NODE_HOME";

/// The binary under test: the one that was built with this program, unless `PODWRIGHT_BIN` names another.
pub(crate) fn binary() -> String {
    std::env::var("PODWRIGHT_BIN")
        .unwrap_or_else(|_unset| env!("CARGO_BIN_EXE_podwright").to_owned())
}

/// `limit`, stretched by `PODWRIGHT_IT_PATIENCE` on a machine that is so many times slower than most.
pub(crate) fn patient(limit: Duration) -> Duration {
    let factor = std::env::var("PODWRIGHT_IT_PATIENCE")
        .ok()
        .and_then(|factor| factor.parse().ok());
    limit * factor.unwrap_or(1_u32).max(1)
}

/// True where namespaces and mounts can be made.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A running node, seen from the case that has it to itself.
pub(crate) struct Node {
    /// The node's folder on disk: containerd's root, our records, logs, configuration.
    pub(crate) home: PathBuf,
    /// cgroup parent of every pod of the case.
    pub(crate) cgroup_parent: String,
    pub(crate) containerd: Daemon,
    pub(crate) podwright: Daemon,
    pub(crate) cri: Cri,
}

impl Node {
    /// Starts containerd and podwright, and imports busybox.
    async fn assemble(home: PathBuf, cgroup_parent: String) -> Outcome<Self> {
        layout::write(&home)?;
        let containerd = Daemon::new("containerd", &home)
            .args(["--config".into(), layout::containerd_config(&home)])
            .ready_when_answering(layout::CONTAINERD_SOCKET);
        let podwright = Daemon::new(&binary(), &home)
            .args([
                "serve".into(),
                "--config".into(),
                layout::podwright_config(&home),
            ])
            .ready_when_answering(layout::PODWRIGHT_SOCKET);
        let node = Self {
            cri: Cri::at(layout::PODWRIGHT_SOCKET.as_ref())?,
            home,
            cgroup_parent,
            containerd,
            podwright,
        };
        node.containerd.start().await?;
        node.podwright.start().await?;
        node.until_ready().await?;
        node.import("busybox").await?;
        Ok(node)
    }

    /// Waits until both conditions of Status are true.
    pub(crate) async fn until_ready(&self) -> Outcome {
        let mut last = String::from("no answer");
        for _ in 0..300 {
            let request = cri::StatusRequest { verbose: false };
            match self.cri.runtime.clone().status(request).await {
                Ok(reply) => {
                    let conditions = reply
                        .into_inner()
                        .status
                        .map_or_else(Vec::new, |status| status.conditions);
                    if conditions.len() >= 2 && conditions.iter().all(|c| c.status) {
                        return Ok(());
                    }
                    last = format!("{conditions:?}");
                }
                Err(status) => last = status.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("podwright did not become ready in 30 s: {last}").into())
    }

    /// The first condition of Status, as text.
    pub(crate) async fn runtime_condition(&self) -> Outcome<String> {
        let request = cri::StatusRequest { verbose: false };
        let reply = self.cri.runtime.clone().status(request).await?.into_inner();
        let conditions = reply
            .status
            .map_or_else(Vec::new, |status| status.conditions);
        Ok(format!("{:?}", conditions.first()))
    }

    /// Runs the binary under test with `arguments` and returns what it printed.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Outcome<String> {
        let output = tokio::process::Command::new(binary())
            .args(arguments)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(format!(
            "podwright {arguments:?}: {}: {complaint}{text}",
            output.status
        )
        .into())
    }

    /// Imports the stand-in image `name`.
    pub(crate) async fn import(&self, name: &str) -> Outcome {
        let archive = images::archive(name);
        let archive = archive.to_string_lossy();
        self.cli(&["image", "import", &archive]).await.map(drop)
    }
}

/// Runs the case that the environment names, in this process, which has a node around it.
pub(crate) fn run_case(cases: &[Case]) -> Outcome<ExitCode> {
    let name = std::env::var(CASE)?;
    let home = PathBuf::from(std::env::var(HOME)?);
    let case = cases
        .iter()
        .find(|case| case.name == name)
        .ok_or_else(|| format!("no case is called {name}"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let cgroup_parent = layout::cgroup_parent(&home);
        let node = Node::assemble(home, cgroup_parent).await?;
        let before = leaks::Survey::of(&node).await?;
        (case.run)(&node).await?;
        leaks::remove_pods(&node).await?;
        leaks::check(&node, &before).await?;
        node.podwright.stop().await?;
        node.containerd.stop().await
    })?;
    Ok(ExitCode::SUCCESS)
}
