//! Where things lie on a node, and the configuration files that say so.

use std::fs;
use std::path::{Path, PathBuf};

use super::registry;
use crate::case::Outcome;

pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
pub(crate) const PODWRIGHT_SOCKET: &str = "/run/podwright/podwright.sock";
/// Addresses that host-local has given away, a file each.
pub(super) const CNI_ADDRESSES: &str = "/var/lib/cni/networks/pods";
/// The network's bridge, and its address.
pub(super) const BRIDGE: &str = "pods0";
/// Where a case puts plugins of its own.
pub(crate) const TRAPS: &str = "/run/cni-bin";
const CNI_CONFIG: &str = "/etc/cni/net.d/10-pods.conflist";

pub(super) fn containerd_config(home: &Path) -> PathBuf {
    home.join("containerd.toml")
}

pub(crate) fn podwright_config(home: &Path) -> PathBuf {
    home.join("podwright.toml")
}

/// The durable folder of podwright on this node.
pub(super) fn records(home: &Path) -> PathBuf {
    home.join("podwright")
}

/// The node's own part of the cgroup tree.
pub(super) fn cgroup_parent(home: &Path) -> String {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    format!("/{name}")
}

/// Writes every configuration file of the node.
pub(super) fn write(home: &Path) -> Outcome {
    let root = home.join("containerd");
    fs::write(
        containerd_config(home),
        format!(
            "version = 2\nroot = \"{}\"\nstate = \"/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.runtime\", \"io.containerd.cri.v1.images\"]\n\
             [debug]\nlevel = \"warn\"\n[grpc]\naddress = \"{CONTAINERD_SOCKET}\"\n",
            root.display()
        ),
    )?;
    fs::write(
        podwright_config(home),
        format!(
            "[server]\nsocket = \"{PODWRIGHT_SOCKET}\"\nroot_dir = \"{}\"\n\
             [diagnostics]\nlevel = \"info,podwright=debug\"\n\
             [containerd]\naddress = \"{CONTAINERD_SOCKET}\"\n\
             [cni]\nbin_dirs = [\"{TRAPS}\", \"/opt/cni/bin\", \"/usr/lib/cni\"]\n\
             [images]\nregistry_config_path = [\"{}\"]\n",
            records(home).display(),
            registry::HOSTS
        ),
    )?;
    fs::create_dir_all("/etc/cni/net.d")?;
    replace_network(bridge_network())
}

/// Puts another CNI configuration in the place of the present one, at once and whole.
pub(crate) fn replace_network(text: &str) -> Outcome {
    let unseen = "/etc/cni/net.d/next";
    fs::write(unseen, text)?;
    Ok(fs::rename(unseen, CNI_CONFIG)?)
}

/// The network that most cases want: a bridge with host ports.
pub(crate) fn bridge_network() -> &'static str {
    r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    { "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.77.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }] } },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
"#
}

/// Every cgroup below `parent` in every hierarchy, deepest first.
pub(super) fn cgroups(parent: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut tops = vec![root.join(parent.trim_start_matches('/'))];
    if let Ok(controllers) = fs::read_dir(root) {
        tops.extend(
            controllers
                .flatten()
                .map(|entry| entry.path().join(parent.trim_start_matches('/'))),
        );
    }
    // What lies under no hierarchy is only a folder.
    tops.retain(|top| top.join("cgroup.procs").exists());
    let mut found = Vec::new();
    for top in tops {
        descend(&top, &mut found);
    }
    found
}

fn descend(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            descend(&entry.path(), found);
        }
    }
    found.push(folder.to_owned());
}

/// Removes the node's part of the cgroup tree; fails where a process still lives in it.
pub(super) fn remove_cgroups(parent: &str) -> Outcome {
    for cgroup in cgroups(parent) {
        fs::remove_dir(&cgroup).map_err(|e| format!("{}: {e}", cgroup.display()))?;
    }
    Ok(())
}
