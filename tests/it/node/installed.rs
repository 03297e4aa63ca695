//! The machine itself as a node: the podwright and the containerd that its systemd runs.
//!
//! `PODWRIGHT_INSTALLED=1` has this program run those cases, here, one after the other, and no others. They change the
//! machine, so they are for one that is thrown away: `tests/guest/` has it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Daemon, Node, layout, leaks, namespaces, patient};
use crate::case::{Case, Outcome};
use crate::client::Cri;

/// Set where the cases for the machine itself are meant.
const MEANT: &str = "PODWRIGHT_INSTALLED";
/// Logs of the cases' pods; they stay through a reboot.
const HOME: &str = "/var/lib/podwright-it";
/// A slice such as kubelet makes for a pod.
pub(crate) const SLICE: &str =
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podit.slice";
/// The systemd unit under test.
pub(crate) const UNIT: &str = "podwright.service";

/// True where the cases for the machine itself are meant.
pub(crate) fn is_meant() -> bool {
    std::env::var_os(MEANT).is_some()
}

impl Node {
    /// The machine. Its daemons belong to systemd: those of the node are never started.
    fn installed() -> Outcome<Self> {
        let home = PathBuf::from(HOME);
        std::fs::create_dir_all(&home)?;
        Ok(Self {
            cri: Cri::at(layout::PODWRIGHT_SOCKET.as_ref())?,
            cgroup_parent: String::from(SLICE),
            containerd: Daemon::new("containerd", &home),
            podwright: Daemon::new("podwright", &home),
            home,
        })
    }

    /// Asks systemd, and returns what it printed, without the last newline.
    pub(crate) fn systemctl(&self, arguments: &[&str]) -> Outcome<String> {
        let said = namespaces::run("systemctl", arguments)?;
        Ok(said.trim_end().to_owned())
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, property: &str) -> Outcome<String> {
        self.systemctl(&["show", "--value", "--property", property, unit])
    }
}

/// Runs `case` on the machine; pods that it leaves are removed unless the case is about leaving them.
pub(crate) fn run(case: &Case, keeps_pods: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let limit = patient(case.deadline);
    let ended = runtime.block_on(async {
        let node = Node::installed()?;
        node.until_ready().await?;
        let ended = tokio::time::timeout(limit, (case.run)(&node))
            .await
            .unwrap_or_else(|_elapsed| Err(format!("no end within {limit:?}").into()));
        if keeps_pods {
            return ended;
        }
        let removed = tokio::time::timeout(patient(Duration::from_secs(30)), async {
            node.until_ready().await?;
            leaks::remove_pods(&node).await
        });
        ended.and(
            removed
                .await
                .unwrap_or_else(|_elapsed| Err("pods were not removed".into())),
        )
    });
    ended.map_err(|e| format!("{e}\n  journal:\n{}", journal()).into())
}

/// The end of what the unit has logged.
fn journal() -> String {
    let output = Command::new("journalctl")
        .args(["--unit", UNIT, "--no-pager", "--lines", "25"])
        .args(["--output", "cat"])
        .output();
    output.map_or_else(
        |e| e.to_string(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
