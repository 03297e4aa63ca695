//! Where a pod's files lie on the host.

use std::path::{Path, PathBuf};

use super::defaults::Plan;

/// The two roots; what is below them belongs to one pod each.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Volumes, hosts files and termination messages: one directory a pod, named by its uid.
    pub state: PathBuf,
    /// Container logs: one directory a pod, named as kubelet names it.
    pub logs: PathBuf,
    /// Where `Localhost` seccomp profiles lie.
    pub seccomp: PathBuf,
}

impl Default for Dirs {
    fn default() -> Self {
        Self {
            state: "/var/lib/podwright-play".into(),
            logs: "/var/log/pods".into(),
            seccomp: "/var/lib/kubelet/seccomp".into(),
        }
    }
}

impl Dirs {
    pub(super) fn pod(&self, plan: &Plan) -> PathBuf {
        self.state.join(&plan.uid)
    }

    pub(super) fn log_directory(&self, plan: &Plan) -> PathBuf {
        self.logs
            .join(format!("{}_{}_{}", plan.k8s_namespace, plan.name, plan.uid))
    }

    pub(super) fn volume(&self, plan: &Plan, name: &str) -> PathBuf {
        self.pod(plan).join("volumes").join(name)
    }

    pub(super) fn hosts(&self, plan: &Plan) -> PathBuf {
        self.pod(plan).join("etc-hosts")
    }

    /// Stands there while the pod is being deleted.
    pub(super) fn deleting(&self, plan: &Plan) -> PathBuf {
        self.pod(plan).join("deleting")
    }

    pub(super) fn termination_message(
        &self,
        plan: &Plan,
        container: &str,
        attempt: u32,
    ) -> PathBuf {
        let own = self.pod(plan).join("containers").join(container);
        own.join(format!("{attempt}.message"))
    }
}

/// The log of one attempt, below the pod's log directory.
pub(super) fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// CRI paths are strings.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
