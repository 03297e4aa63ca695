//! The machine of the run: namespaces of its own, which take everything with them when they end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::case::Outcome;

/// The run's folder, in the environment of the process inside the namespaces.
const INSIDE: &str = "PODWRIGHT_PARITY_HOME";
/// The run's own files, which requests name.
pub(crate) const FILES: &str = "/run/parity";
const CGROUPS: &str = "/sys/fs/cgroup";

/// True for the process that compares.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why the servers cannot be compared here, if they cannot.
pub(crate) fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(String::from(
            "it makes namespaces and mounts; remedy: run it as root",
        ));
    }
    if cni_plugins().is_err() {
        return Some(String::from(
            "no CNI plugins; remedy: run deploy/setup test",
        ));
    }
    let missing = |e: Box<dyn std::error::Error + Send + Sync>| e.to_string();
    containerd_folder().err().map(missing)
}

/// Where the pinned containerd lies that the conformance suite uses, too.
pub(crate) fn containerd_folder() -> Outcome<PathBuf> {
    let versions = include_str!("../../critest/versions");
    let version = versions
        .lines()
        .find_map(|line| {
            line.strip_prefix("CONTAINERD_2=")?
                .split_whitespace()
                .next()
        })
        .ok_or("critest/versions names no CONTAINERD_2")?;
    let cache = std::env::var("PODWRIGHT_CRITEST_CACHE")
        .unwrap_or_else(|_unset| String::from("/var/cache/podwright-critest"));
    let folder = Path::new(&cache)
        .join("bin")
        .join(format!("containerd-{version}"));
    if folder.join("containerd").exists() {
        Ok(folder)
    } else {
        Err(
            format!("there is no containerd {version} in {cache}; remedy: run critest/build")
                .into(),
        )
    }
}

/// Starts this program again inside new namespaces, and waits for it.
pub(crate) fn enter() -> Outcome {
    let home = tempfile::Builder::new()
        .prefix("podwright-parity-")
        .tempdir()?;
    let had_default = default_cgroups();
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
    for folder in default_cgroups() {
        if !had_default.contains(&folder) {
            remove_soon(&folder);
        }
    }
    if std::env::var_os("PODWRIGHT_PARITY_KEEP").is_some() {
        crate::say(&format!("parity: kept {}", home.keep().display()));
    }
    if status.success() {
        Ok(())
    } else {
        Err("the servers differ, or could not be compared; the lines above say where".into())
    }
}

/// Mounts, networks and files of the run; returns its folder on disk.
pub(crate) fn prepare() -> Outcome<PathBuf> {
    let home = PathBuf::from(std::env::var(INSIDE)?);
    script(
        "for d in /run /var/lib/cni /etc/cni; do mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d; done; \
         if [ -e /sys/fs/cgroup/unified ]; then umount -l /sys/fs/cgroup/unified; \
         mount -t tmpfs tmpfs /sys/fs/cgroup/unified; fi; \
         hostname parity; ip link set lo up",
    )?;
    network("/etc/cni/net.d", "ours0", "10.77.0.0/16")?;
    network("/etc/cni/peer.d", "peer0", "10.78.0.0/16")?;
    files()?;
    Ok(home)
}

/// What requests name below [`FILES`].
fn files() -> Outcome {
    let root = Path::new(FILES);
    for n in 1..=2 {
        let volume = root.join(format!("volume-{n}"));
        fs::create_dir_all(&volume)?;
        fs::write(volume.join("file"), "")?;
        symlink(&volume, root.join(format!("link-{n}")))?;
        let profile = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["swapon","sethostname"],"action":"SCMP_ACT_ERRNO","errnoRet":{n}}}]}}"#
        );
        fs::write(root.join(format!("seccomp-{n}.json")), profile)?;
    }
    script(&format!(
        "cd {FILES}; mkdir devices shared-1 shared-2; mknod devices/one c 1 3; mknod devices/two c 1 5; \
         ln -s /dev/zero device-link; ln -s $(command -v runc) runc; \
         for n in 1 2; do mount -t tmpfs tmpfs shared-$n; mount --make-shared shared-$n; done"
    ))
}

fn script(text: &str) -> Outcome {
    let output = Command::new("sh").args(["-ec", text]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("the run could not be prepared: {complaint}").into())
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

/// Parent of the cgroup of every pod that names one.
pub(crate) fn cgroup_parent(home: &Path) -> String {
    let name = home.file_name().unwrap_or_default().to_string_lossy();
    format!("/{name}")
}

fn remove_cgroups(parent: &str) {
    let name = parent.trim_start_matches('/');
    let script = format!("find {CGROUPS} -depth -type d -path '*/{name}*' -exec rmdir {{}} +");
    drop(Command::new("sh").args(["-c", &script]).status());
}

/// The parents of the cgroups of pods that name none; only those that this run made are its to remove.
fn default_cgroups() -> Vec<PathBuf> {
    let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    controllers
        .map(|controller| controller.path().join("k8s.io"))
        .chain([Path::new(CGROUPS).join("k8s.io")])
        .filter(|folder| folder.exists())
        .collect()
}

/// Removes a cgroup once the last process below it has ended; where somebody else has come to use it, it stays.
fn remove_soon(folder: &Path) {
    for _ in 0..20 {
        if fs::remove_dir(folder).is_ok() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
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
