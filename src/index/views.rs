//! What is shown of pods and containers: immutable values, shared by reference.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::state::{ContainerState, SandboxState};
use crate::model::{
    ContainerConfig, ContainerId, Pid, PodConfig, Resources, SandboxId, Signal, Termination,
    Timestamp,
};

/// A sandbox and its containers at one moment.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The picture's generation when this pod last changed.
    pub generation: u64,
    /// The sandbox.
    pub sandbox: Arc<SandboxView>,
    /// Its containers.
    pub containers: BTreeMap<ContainerId, Arc<ContainerView>>,
}

/// What is shown of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxView {
    /// Id.
    pub id: SandboxId,
    /// The request's configuration, typed.
    pub config: Arc<PodConfig>,
    /// The request's configuration as opaque record text, shown unread.
    pub record: Arc<str>,
    /// Runtime handler as asked for; empty means the default.
    pub handler: String,
    /// State.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Pod IPs, primary first; empty with the host's network and once stopped.
    pub ips: Vec<String>,
    /// Pinned network namespace; `None` with the host's network and once it is closed.
    pub netns: Option<PathBuf>,
    /// The pause process; `None` once it ended.
    pub pause_pid: Option<Pid>,
    /// Shim that runs it, e.g. `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// What the pause container runs, where that is an image.
    pub pause_image: Option<PauseImage>,
    /// The pause container's OCI spec in JSON.
    pub spec: Arc<str>,
    /// The CNI result in the form of containerd's records; `null` before there is one.
    pub cni_result: Arc<str>,
    /// Sums asked for by UpdatePodSandboxResources, where any were: resources, then overhead.
    pub updated: Option<(Option<Resources>, Option<Resources>)>,
    /// Steps that would not unwind, newest first; empty while all is well.
    pub stuck: Vec<String>,
}

/// The image of a pause container. Its snapshot is called as the sandbox is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseImage {
    /// Its name in containerd.
    pub name: String,
    /// Whose its snapshot is.
    pub snapshotter: String,
}

/// What is shown of a container.
#[derive(Clone, Debug)]
pub struct ContainerView {
    /// Id.
    pub id: ContainerId,
    /// Its sandbox.
    pub sandbox: SandboxId,
    /// The request's configuration, typed.
    pub config: Arc<ContainerConfig>,
    /// The request's configuration as opaque record text, shown unread.
    pub record: Arc<str>,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its process began; `None` before.
    pub started_at: Option<Timestamp>,
    /// How it ended; only once it did.
    pub ended: Option<Termination>,
    /// Its init process; `None` before and after it runs.
    pub pid: Option<Pid>,
    /// The image it runs.
    pub image: ContainerImage,
    /// The images that it mounts as volumes, in the order of its mounts.
    pub volume_images: Vec<ContainerImage>,
    /// The checkpoint that it goes on from, as the request named it; `None` for one that begins anew.
    pub restored_from: Option<String>,
    /// Absolute path of the log file; empty without a log.
    pub log_path: String,
    /// Limits in force.
    pub resources: Resources,
    /// User of the init process.
    pub user: ContainerUser,
    /// Signal that asks it to stop.
    pub stop_signal: Signal,
    /// Shim that runs it.
    pub runtime_type: String,
    /// Snapshotter of its root file system.
    pub snapshotter: String,
    /// OCI spec in JSON, as in force.
    pub spec: Arc<str>,
    /// Not listed yet: finished for a caller that left before the reply.
    pub parked: bool,
    /// An out-of-memory kill was seen, perhaps before the exit.
    pub oom_killed: bool,
    /// By what the file system counts its writable layer; `None` where that must be walked.
    pub project: Option<LayerProject>,
}

impl ContainerView {
    /// The path of the root file system's snapshot: the container's own id.
    pub fn snapshot_key(&self) -> &str {
        self.id.as_str()
    }

    /// Whether a process of it runs as far as we know.
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running)
    }
}

/// The image of a container, kept from its creation on, since the image may be deleted or re-tagged meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerImage {
    /// Digest of the image's configuration.
    pub id: String,
    /// A repo digest where there is one, else the id.
    pub reference: String,
    /// A tag where there is one, else as asked for.
    pub name: String,
}

/// The project whose use a file system counts, which is a writable layer's alone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LayerProject {
    /// The directory that bears the id, and what was written below it.
    pub dir: PathBuf,
    /// The project id.
    pub id: u32,
    /// Its processes have a user namespace of their own, from which nobody can give files another project.
    pub sealed: bool,
}

/// User of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups, the primary one among them, ascending.
    pub groups: Vec<u32>,
}
