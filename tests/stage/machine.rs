//! Where podwright and its peer stand side by side: namespaces of the run's own, which take everything with them when
//! they end. The benchmark and the parity run share it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::case::Outcome;
use crate::daemon::build_images;
use crate::daemon::run;

/// The run's folder, in the environment of the process inside the namespaces.
const INSIDE: &str = "PODWRIGHT_STAGE_HOME";
/// Where control groups are mounted.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";

/// True for the process that does the work.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why there can be no such run here, if there cannot.
pub(crate) fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it makes namespaces and mounts; remedy: run it as root".into());
    }
    cni_plugins().err().map(|e| e.to_string())
}

/// Makes the images that the run needs, starts this program again inside new namespaces, and waits for it. Gives what it ended with, and the run's folder.
pub(crate) fn enter(name: &str) -> Outcome<(ExitStatus, TempDir)> {
    build_images()?;
    let home = tempfile::Builder::new()
        .prefix(&format!("podwright-{name}-"))
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
    Ok((status, home))
}

/// Mounts and networks of the run, a network each for podwright and the peer; returns its folder on disk.
pub(crate) fn prepare() -> Outcome<PathBuf> {
    let home = PathBuf::from(std::env::var(INSIDE)?);
    script(
        "for d in /run /var/lib/cni /etc/cni; do mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d; done; \
         if [ -e /sys/fs/cgroup/unified ]; then umount -l /sys/fs/cgroup/unified; \
         mount -t tmpfs tmpfs /sys/fs/cgroup/unified; fi; \
         hostname stage; ip link set lo up",
    )?;
    network("/etc/cni/net.d", "ours0", "10.77.0.0/16")?;
    network("/etc/cni/peer.d", "peer0", "10.78.0.0/16")?;
    Ok(home)
}

/// Runs a shell script that stops at the first failure.
pub(crate) fn script(text: &str) -> Outcome {
    run(Command::new("sh").args(["-ec", text]))
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

/// Parent of the cgroup of every pod of this run that names one.
pub(crate) fn cgroup_parent(home: &Path) -> String {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    format!("/{name}")
}

fn remove_cgroups(parent: &str) {
    let name = parent.trim_start_matches('/');
    let script = format!("find {CGROUPS} -depth -type d -path '*/{name}*' -exec rmdir {{}} +");
    drop(Command::new("sh").args(["-c", &script]).status());
}
