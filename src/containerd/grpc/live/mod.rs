//! The real client against a real containerd: a private one in namespaces of its own, which restarts when killed.

mod link;
mod running;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio as ProcessStdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{ChannelSettings, Client, connect};
use crate::containerd::RootfsMount;

/// Runs as pid 1 of its namespaces: containerd again and again, with a `/run` of its own, since shims of 1.6 put their
/// sockets at a fixed place there.
const INIT: &str = r#"
mount --make-rprivate / && mount -t tmpfs tmpfs /run || exit 1
while :; do containerd --config "$1/config.toml" >>"$1/log" 2>&1; sleep 0.2; done
"#;

/// A containerd of the test's own. All its processes die with it.
pub(crate) struct Node {
    dir: TempDir,
    cgroup: String,
    init: Child,
}

impl Node {
    /// Starts one; `None`, said aloud, where this machine cannot.
    pub(crate) fn start() -> Option<Self> {
        if let Some(reason) = impossible() {
            #[expect(clippy::print_stderr, reason = "a skipped test must say so")]
            {
                eprintln!("SKIPPED: a test against a real containerd: {reason}");
            }
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let config = format!(
            r#"version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{root}/containerd.sock"
"#
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let init = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "-m", "-p", "-f"])
            .args(["--mount-proc", "--kill-child", "sh", "-c", INIT, "sh"])
            .arg(dir.path())
            .stdin(ProcessStdio::null())
            .spawn()
            .unwrap();
        let name = dir.path().file_name().unwrap().to_string_lossy();
        let cgroup = format!("podwright-unit{name}");
        Some(Self { dir, cgroup, init })
    }

    /// A directory for the test's files.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Parent of the cgroups that the test makes, below the root of each hierarchy; removed at the end.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A client, once containerd answers.
    pub(crate) async fn client(&self) -> Client {
        let client = self.quick_client();
        for _attempt in 0..200 {
            if client.containerd.introspection.version().await.is_ok() {
                return client;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        panic!("containerd did not come up:\n{log}");
    }

    /// A client, whether or not anyone answers.
    pub(crate) fn quick_client(&self) -> Client {
        connect(&ChannelSettings {
            address: self.path().join("containerd.sock"),
            namespace: "k8s.io".into(),
        })
        .unwrap()
    }

    /// The mounts of a root file system with busybox in it.
    pub(crate) fn busybox(&self) -> Vec<RootfsMount> {
        let root = self.path().join("rootfs");
        for folder in ["bin", "proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join("bin/busybox"), executable).unwrap();
        vec![RootfsMount {
            kind: "bind".into(),
            source: root.display().to_string(),
            target: String::new(),
            options: vec!["rbind".into(), "rw".into()],
        }]
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.init.kill().ok();
        self.init.wait().ok();
        for _attempt in 0..40 {
            if remove_cgroups(&self.cgroup) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "a drop cannot await the kernel")]
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Removes the cgroup and its children from all hierarchies; whether none is left.
fn remove_cgroups(name: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    let groups = hierarchies
        .map(|hierarchy| hierarchy.path())
        .chain([root.into()]);
    let mut left = false;
    for group in groups.map(|hierarchy| hierarchy.join(name)) {
        std::fs::remove_dir(group.join("c")).ok();
        std::fs::remove_dir(&group).ok();
        left |= group.exists();
    }
    !left
}

fn impossible() -> Option<&'static str> {
    let root = std::fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t"));
    if !root {
        return Some("not root");
    }
    for (program, reason) in [
        ("/usr/bin/containerd", "containerd is not installed"),
        ("/usr/sbin/runc", "runc is not installed"),
        ("/bin/busybox", "busybox-static is not installed"),
    ] {
        if !Path::new(program).exists() {
            return Some(reason);
        }
    }
    None
}
