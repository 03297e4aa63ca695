//! What a case looks up on its node, and does to it behind podwright's back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Node, layout, leaks, namespaces};
use crate::case::Outcome;

impl Node {
    /// The primary address of a pod.
    pub(crate) async fn pod_ip(&self, id: &str) -> Outcome<String> {
        let network = self.pod_status(id).await?.network;
        Ok(network.map(|network| network.ip).unwrap_or_default())
    }

    /// Processes whose name begins with `name`, oldest first.
    pub(crate) fn processes(&self, name: &str) -> Outcome<Vec<Pid>> {
        let mut found: Vec<Pid> = pids()?
            .into_iter()
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|comm| comm.starts_with(name))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// As [`Self::processes`], once there are `count`: a process that was just started bears the OCI runtime's name until
    /// it has become its own program.
    pub(crate) async fn until_processes(&self, name: &str, count: usize) -> Outcome<Vec<Pid>> {
        let mut found = self.processes(name)?;
        for _ in 0..500 {
            if found.len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            found = self.processes(name)?;
        }
        Ok(found)
    }

    /// Waits until podwright's log has `text`.
    pub(crate) async fn until_said(&self, text: &str) -> Outcome {
        for _ in 0..200 {
            if self.podwright.log().contains(text) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("podwright did not say {text:?} within 10 s").into())
    }

    /// Adds `lines` to podwright's configuration and has it read. Lines without a table of their own are keys of
    /// `[images]`, as long as no other table was added.
    pub(crate) async fn configure(&self, lines: &str) -> Outcome {
        let settings = layout::podwright_config(&self.home);
        let text = fs::read_to_string(&settings)?;
        fs::write(&settings, format!("{text}{lines}\n"))?;
        self.cli(&["config", "reload"]).await.map(drop)
    }

    /// The values of a file of all the case's cgroups, by its name in version 1 or in version 2.
    pub(crate) fn cgroup_values(&self, v1: &str, v2: &str) -> Vec<String> {
        layout::cgroups(&self.cgroup_parent)
            .iter()
            .flat_map(|cgroup| [cgroup.join(v1), cgroup.join(v2)])
            .filter_map(|file| fs::read_to_string(file).ok())
            .map(|text| text.trim().to_owned())
            .collect()
    }

    /// Addresses that the network's plugin holds to be taken.
    pub(crate) fn addresses(&self) -> Vec<String> {
        leaks::addresses()
    }

    /// Asks containerd past podwright.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> Outcome<String> {
        let mut all = vec!["-a", layout::CONTAINERD_SOCKET, "-n", "k8s.io"];
        all.extend(arguments);
        namespaces::run("ctr", &all)
    }

    /// The text of containerd's configuration.
    pub(crate) fn containerd_config(&self) -> Outcome<String> {
        Ok(fs::read_to_string(layout::containerd_config(&self.home))?)
    }

    /// Replaces containerd's configuration; its next start reads it.
    pub(crate) fn set_containerd_config(&self, text: &str) -> Outcome {
        Ok(fs::write(layout::containerd_config(&self.home), text)?)
    }

    /// Does what a power cut does: all processes gone, `/run` empty, no interface, another boot id; then starts again.
    pub(crate) async fn reboot(&self) -> Outcome {
        self.podwright.kill().await?;
        self.containerd.kill().await?;
        for pid in pids()? {
            if pid != Pid::this() && pid.as_raw() != 1 {
                match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(nix::Error::ESRCH) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        let mut mounts = leaks::mounts()?;
        mounts.reverse();
        for path in mounts.iter().filter(|path| path.starts_with("/run")) {
            umount2(path.as_str(), MntFlags::MNT_DETACH)?;
        }
        mount(
            Some("tmpfs"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )?;
        // The bridge may never have been made.
        drop(namespaces::run("ip", &["link", "delete", layout::BRIDGE]));
        namespaces::run("iptables", &["-t", "nat", "-F"])?;
        fs::write(
            self.home.join("boot_id"),
            "11111111-2222-4333-8444-555555555555\n",
        )?;
        layout::remove_cgroups(&self.cgroup_parent)?;
        self.containerd.start().await?;
        self.podwright.start().await?;
        self.until_ready().await
    }
}

/// All processes of the node.
fn pids() -> Outcome<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new("/proc"))? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}
