//! What podwright asks of containerd: one narrow trait a service, domain types only. The real client stands in
//! `grpc/`, a world with failure points for tests in `fake/`.
//!
//! Every method may fail with `Unavailable` (containerd away), `DeadlineExceeded` (it did not answer within the call's
//! own limit) and the kinds that its documentation names. Dropping a future abandons the call; containerd may still
//! finish it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::storage::{Content, Diff, Images, Leases, Snapshots};
use crate::model::{ExecId, Pid, Result, Signal, Timestamp};

/// A typed payload (protobuf `Any`). containerd's type URLs are bare, without a host before the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What `value` is.
    pub type_url: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

impl Payload {
    /// Type URL of an OCI runtime spec in JSON.
    pub const SPEC: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
    /// Type URL of an OCI process in JSON.
    pub const PROCESS: &'static str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
    /// Type URL of OCI Linux resources in JSON.
    pub const RESOURCES: &'static str =
        "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
    /// Type URL of the runc shim's options.
    pub const RUNC_OPTIONS: &'static str = "containerd.runc.v1.Options";

    /// A payload of `type_url`.
    pub fn new(type_url: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            type_url: type_url.into(),
            value: value.into(),
        }
    }

    /// The same options of the runc shim with another owner of the standard streams' pipes. A field that stands twice in
    /// a message counts with its last value, so they are only added at the end.
    #[must_use]
    pub fn with_io_owner(mut self, uid: u32, gid: u32) -> Self {
        const IO_UID: u8 = 4;
        const IO_GID: u8 = 5;
        for (field, number) in [(IO_UID, uid), (IO_GID, gid)] {
            self.value.push(field << 3);
            self.push_varint(number);
        }
        self
    }

    /// The same options of the runc shim for a task that goes on from CRIU's images, added in the same way.
    #[must_use]
    pub fn with_checkpoint(mut self, dirs: &CheckpointDirs) -> Self {
        const CRIU_IMAGE_PATH: u8 = 10;
        const CRIU_WORK_PATH: u8 = 11;
        const TEXT: u8 = 2;
        for (field, dir) in [
            (CRIU_IMAGE_PATH, &dirs.images),
            (CRIU_WORK_PATH, &dirs.work),
        ] {
            let path = dir.as_os_str().as_encoded_bytes();
            self.value.push(field << 3 | TEXT);
            self.push_varint(u32::try_from(path.len()).unwrap_or(u32::MAX));
            self.value.extend_from_slice(path);
        }
        self
    }

    fn push_varint(&mut self, mut rest: u32) {
        while rest >= 0x80 {
            self.value.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        self.value.push(rest.to_le_bytes()[0]);
    }
}

/// A mount as snapshotters describe it and tasks take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsMount {
    /// File system type, e.g. `overlay` or `bind`.
    pub kind: String,
    /// Source.
    pub source: String,
    /// Target below the root; usually empty.
    pub target: String,
    /// Options.
    pub options: Vec<String>,
}

/// containerd's record of a container: metadata without a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Container id.
    pub id: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Image name that the record refers to, which keeps its content from being collected.
    pub image: String,
    /// Shim, e.g. `io.containerd.runc.v2`.
    pub runtime: String,
    /// The shim's options.
    pub runtime_options: Option<Payload>,
    /// OCI runtime spec.
    pub spec: Option<Payload>,
    /// Snapshotter of the root file system; empty where there is none.
    pub snapshotter: String,
    /// Key of the root file system's snapshot.
    pub snapshot_key: String,
    /// When containerd made it.
    pub created_at: Timestamp,
    /// Typed extensions by name.
    pub extensions: BTreeMap<String, Payload>,
    /// The sandbox it belongs to (containerd 1.7 and later), so that its shim is joined without a start of the binary.
    pub sandbox: String,
}

/// Which fields an update of a record writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordField {
    /// The OCI spec.
    Spec,
    /// All extensions.
    Extensions,
    /// All labels.
    Labels,
}

/// containerd's Containers service.
pub trait Containers: Send + Sync {
    /// The record of `id`; `NotFound` without one.
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerRecord>>;
    /// The records that carry label `key` = `value`; all records where `label` is `None`.
    fn list<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<ContainerRecord>>>;
    /// Creates a record; `AlreadyExists` where the id is taken.
    fn create<'a>(&'a self, record: &'a ContainerRecord) -> BoxFuture<'a, Result<ContainerRecord>>;
    /// Writes the named fields of an existing record.
    fn update<'a>(
        &'a self,
        record: &'a ContainerRecord,
        fields: &'a [RecordField],
    ) -> BoxFuture<'a, Result<()>>;
    /// Deletes a record, not its snapshot; `NotFound` without one, `FailedPrecondition` while it has a task.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// Standard streams of a task or exec: FIFO paths, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// FIFO that the process reads.
    pub stdin: Option<PathBuf>,
    /// FIFO that the process writes.
    pub stdout: Option<PathBuf>,
    /// FIFO for errors; none with a terminal.
    pub stderr: Option<PathBuf>,
    /// Whether the process gets a terminal.
    pub terminal: bool,
}

/// What a new task needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRequest {
    /// The container it runs.
    pub id: String,
    /// Mounts of the root file system.
    pub rootfs: Vec<RootfsMount>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Options in place of the record's, as a whole; `None` keeps the record's.
    pub options: Option<Payload>,
}

/// Where a task or exec is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Frozen, or about to be.
    Paused,
    /// Its process ended.
    Stopped,
    /// The shim does not say.
    Unknown,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + n after signal n.
    pub code: u32,
    /// When.
    pub at: Timestamp,
}

/// What the shim says about a task or exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    /// Host pid of the process; 0 where it is gone.
    pub pid: Pid,
    /// State.
    pub state: TaskState,
    /// How it ended; only when stopped.
    pub exit: Option<Exit>,
    /// Standard streams it was created with.
    pub stdio: Stdio,
}

/// What a further process in a task needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container.
    pub id: String,
    /// Name of the process.
    pub exec: ExecId,
    /// Standard streams.
    pub stdio: Stdio,
    /// OCI process in JSON.
    pub process: Payload,
}

/// Where CRIU writes to: directories that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointDirs {
    /// The images of the processes.
    pub images: PathBuf,
    /// Its log and its statistics.
    pub work: PathBuf,
}

/// containerd's Tasks service. `exec` names a further process, `None` the init process.
pub trait Tasks: Send + Sync {
    /// Creates the task of a container: the shim is found or started, the OCI runtime's `create` done.
    fn create<'a>(&'a self, request: &'a TaskRequest) -> BoxFuture<'a, Result<Pid>>;
    /// Starts a created task or exec.
    fn start<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Pid>>;
    /// Asks for one task or exec, with a short limit of its own; `NotFound` where the shim or the process is unknown.
    fn get<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<TaskInfo>>;
    /// Sends `signal`; with `all`, to every process of the container. `NotFound` once it ended.
    fn kill<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
        signal: Signal,
        all: bool,
    ) -> BoxFuture<'a, Result<()>>;
    /// Waits without limit until the process ends.
    fn wait<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Exit>>;
    /// Deletes an ended task or exec and says how it ended; `FailedPrecondition` while it runs.
    fn delete<'a>(&'a self, id: &'a str, exec: Option<&'a ExecId>) -> BoxFuture<'a, Result<Exit>>;
    /// Adds a process to a running task.
    fn exec<'a>(&'a self, request: &'a ExecRequest) -> BoxFuture<'a, Result<()>>;
    /// Applies OCI Linux resources to a running task.
    fn update<'a>(&'a self, id: &'a str, resources: Payload) -> BoxFuture<'a, Result<()>>;
    /// Freezes every process of a running task.
    fn pause<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Thaws a frozen task; one that runs counts as success, one that is gone answers `NotFound`.
    fn resume<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
    /// Has the OCI runtime write down the state of a task's processes with CRIU; they live on.
    fn checkpoint<'a>(&'a self, id: &'a str, dirs: &'a CheckpointDirs)
    -> BoxFuture<'a, Result<()>>;
    /// Sets the size of a terminal.
    fn resize<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
        width: u16,
        height: u16,
    ) -> BoxFuture<'a, Result<()>>;
    /// Closes the process's stdin.
    fn close_stdin<'a>(
        &'a self,
        id: &'a str,
        exec: Option<&'a ExecId>,
    ) -> BoxFuture<'a, Result<()>>;
    /// How often the kernel's OOM killer struck in the task's cgroup, read through the shim; `None` where unknown.
    fn oom_kills<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<u64>>>;
    /// What the task uses as its shim sees it; `None` where the shim tells nothing that we understand.
    fn usage<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<TaskUsage>>>;
}

/// What a task uses, in the words of both versions of control groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskUsage {
    /// Processor time in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory that are charged.
    pub memory_bytes: u64,
    /// The limit on them.
    pub memory_limit: u64,
    /// Bytes of files not in active use.
    pub inactive_file: u64,
    /// Bytes of anonymous memory.
    pub rss: u64,
    /// Page faults.
    pub faults: u64,
    /// Those that waited for a disk.
    pub major_faults: u64,
    /// Bytes of swap space.
    pub swap_bytes: u64,
    /// Tasks, where they are counted.
    pub tasks: Option<u64>,
}

/// What containerd tells us unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process ended; `exec` is `None` for the init process.
    TaskExit {
        /// Container id.
        container: String,
        /// Exec id text, where it was an exec.
        exec: Option<String>,
        /// Host pid.
        pid: Pid,
        /// How it ended.
        exit: Exit,
    },
    /// The OOM killer struck in a container's cgroup.
    TaskOom {
        /// Container id.
        container: String,
    },
    /// An image record was created, re-pointed or deleted, perhaps by another client.
    ImageChanged {
        /// Record name.
        name: String,
        /// Whether it is gone.
        deleted: bool,
    },
}

/// containerd's Events service, filtered to our namespace and to the topics of [`Event`].
pub trait Events: Send + Sync {
    /// A stream from now on. Events before it are lost; it ends with an error when the connection does.
    fn subscribe(&self) -> BoxFuture<'_, Result<BoxStream<'static, Result<Event>>>>;
}

/// A plugin of containerd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginInfo {
    /// E.g. [`Self::SNAPSHOTTER`].
    pub kind: String,
    /// E.g. `overlayfs`.
    pub id: String,
    /// Exported facts such as `root`.
    pub exports: BTreeMap<String, String>,
    /// Capabilities.
    pub capabilities: Vec<String>,
    /// Why it did not load; `None` for a working plugin.
    pub error: Option<String>,
}

impl PluginInfo {
    /// The kind of snapshotters.
    pub const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
    /// The kind of content stores.
    pub const CONTENT: &str = "io.containerd.content.v1";
}

/// What containerd is: asked at start and after each reconnect, since it may be replaced under us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerVersion {
    /// As it says itself, e.g. `1.6.20~ds1` or `v2.3.4`.
    pub text: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// containerd's Version and Introspection services.
pub trait Introspection: Send + Sync {
    /// Asks for the version, with a short limit: the health probe.
    fn version(&self) -> BoxFuture<'_, Result<ServerVersion>>;
    /// All plugins.
    fn plugins(&self) -> BoxFuture<'_, Result<Vec<PluginInfo>>>;
    /// The OCI `features` document of a runtime (containerd 2.x); `Unimplemented` before.
    fn runtime_features<'a>(
        &'a self,
        runtime: &'a str,
        options: Option<Payload>,
    ) -> BoxFuture<'a, Result<Vec<u8>>>;
    /// Pid of the containerd process by the socket's peer credentials; `None` where it cannot be told.
    fn server_pid(&self) -> Option<Pid>;
    /// How many connections were made so far: a changed number means that events may have been missed.
    fn connections(&self) -> u64;
}

/// The whole seam: one handle a service.
#[derive(Clone)]
pub struct Containerd {
    /// Containers.
    pub containers: Arc<dyn Containers>,
    /// Tasks.
    pub tasks: Arc<dyn Tasks>,
    /// Snapshots.
    pub snapshots: Arc<dyn Snapshots>,
    /// Content.
    pub content: Arc<dyn Content>,
    /// Diff.
    pub diff: Arc<dyn Diff>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Leases.
    pub leases: Arc<dyn Leases>,
    /// Events.
    pub events: Arc<dyn Events>,
    /// Version and Introspection.
    pub introspection: Arc<dyn Introspection>,
}
