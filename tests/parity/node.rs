//! What the run needs of its machine besides servers: the pinned containerd, files that requests name, and a look at
//! the cgroups that both servers make by default.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::case::Outcome;
use crate::machine::{self, CGROUPS, script};
use crate::pinned::{containerd_folder, runc_folder};

/// The run's own files, which requests name.
pub(crate) const FILES: &str = "/run/parity";

/// Why the servers cannot be compared here, if they cannot.
pub(crate) fn obstacle() -> Option<String> {
    if let Some(obstacle) = machine::obstacle() {
        return Some(obstacle);
    }
    let missing = |e: Box<dyn std::error::Error + Send + Sync>| e.to_string();
    containerd_folder().and(runc_folder()).err().map(missing)
}

/// Starts this program again on a machine of its own, and waits for it.
pub(crate) fn enter() -> Outcome {
    let had_default = default_cgroups();
    let (status, home) = machine::enter("parity")?;
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
    let home = machine::prepare()?;
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
    cdi()?;
    let runc = runc_folder()?.join("runc");
    script(&format!(
        "cd {FILES}; mkdir devices shared-1 shared-2; mknod devices/one c 1 3; mknod devices/two c 1 5; \
         ln -s /dev/zero device-link; ln -s {} runc; \
         for n in 1 2; do mount -t tmpfs tmpfs shared-$n; mount --make-shared shared-$n; done",
        runc.display()
    ))
}

/// Specifications of CDI devices, where both servers look for them by default.
fn cdi() -> Outcome {
    let folder = Path::new("/run/cdi");
    fs::create_dir_all(folder)?;
    for n in 1..=2 {
        let text = include_str!("cdi.yaml").replace("<n>", &n.to_string());
        fs::write(folder.join(format!("whole-{n}.yaml")), text)?;
        let text = format!(
            r#"{{"cdiVersion": "0.5.0", "kind": "example.com/twice", "devices": [
{{"name": "both", "containerEdits": {{"env": ["BOTH={n}"]}}}},
{{"name": "only{n}", "containerEdits": {{"env": ["ONLY={n}"]}}}}]}}"#
        );
        fs::write(folder.join(format!("twice-{n}.json")), text)?;
    }
    Ok(fs::write(folder.join("broken.json"), "{")?)
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
