//! The machine of the run: namespaces of its own, which take everything with them when they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::case::Outcome;

const INSIDE: &str = "PODWRIGHT_BENCH_HOME";

/// True for the process that measures.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Starts this program again inside new namespaces, and waits for it.
pub(crate) fn enter() -> Outcome {
    if !nix::unistd::geteuid().is_root() {
        return Err("it makes namespaces and mounts; remedy: run it as root".into());
    }
    let home = tempfile::Builder::new()
        .prefix("podwright-bench-")
        .tempdir()?;
    // The shell is process 1 there and reaps what containerd orphans.
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork"])
        .args(["--kill-child", "--mount-proc", "--propagation", "private"])
        .args(["sh", "-c", "\"$0\" & wait $!"])
        .arg(std::env::current_exe()?)
        .env(INSIDE, home.path())
        .stdin(Stdio::null())
        .status()?;
    remove_cgroups(&cgroup_parent(home.path()));
    if status.success() {
        Ok(())
    } else {
        Err(format!("the run inside the namespaces ended with {status}").into())
    }
}

/// Mounts and networks of the run; returns its folder on disk.
pub(crate) fn prepare() -> Outcome<PathBuf> {
    let home = PathBuf::from(std::env::var(INSIDE)?);
    let script = "set -e; for d in /run /var/lib/cni /etc/cni; do mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d; done; \
        if [ -e /sys/fs/cgroup/unified ]; then umount -l /sys/fs/cgroup/unified; mount -t tmpfs tmpfs /sys/fs/cgroup/unified; fi; \
        ip link set lo up";
    let status = Command::new("sh").args(["-c", script]).status()?;
    if !status.success() {
        return Err("the mounts of the run could not be made".into());
    }
    network("/etc/cni/net.d", "ours0", "10.77.0.0/16")?;
    network("/etc/cni/peer.d", "peer0", "10.78.0.0/16")?;
    Ok(home)
}

fn network(folder: &str, bridge: &str, subnet: &str) -> Outcome {
    fs::create_dir_all(folder)?;
    let text = format!(
        r#"{{"cniVersion":"0.4.0","name":"{bridge}","plugins":[
{{"type":"bridge","bridge":"{bridge}","isGateway":true,"ipMasq":true,
"ipam":{{"type":"host-local","ranges":[[{{"subnet":"{subnet}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#
    );
    Ok(fs::write(format!("{folder}/10-pods.conflist"), text)?)
}

/// Where the CNI plugins lie.
pub(crate) fn cni_plugins() -> Outcome<&'static str> {
    ["/opt/cni/bin", "/usr/lib/cni"]
        .into_iter()
        .find(|folder| Path::new(folder).join("bridge").exists())
        .ok_or_else(|| "no CNI plugins; remedy: run deploy/setup test".into())
}

/// Parent of every pod's cgroup in this run.
pub(crate) fn cgroup_parent(home: &Path) -> String {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    format!("/{name}")
}

fn remove_cgroups(parent: &str) {
    let name = parent.trim_start_matches('/');
    let script = format!("find /sys/fs/cgroup -depth -type d -path '*/{name}*' -exec rmdir {{}} +");
    drop(Command::new("sh").args(["-c", &script]).status());
}

/// Starts a daemon whose output goes to `log`.
pub(crate) fn daemon(command: &mut Command, log: &Path) -> Outcome<Child> {
    let file = fs::File::options().create(true).append(true).open(log)?;
    Ok(command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?)
}
