//! What the rest of the crate sees of the configuration: typed, validated, immutable.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use super::values::{
    CgroupDriver, IpPreference, LogFormat, OtlpProtocol, OverQuota, Policy, Unpacker,
};

/// `[server]`: our sockets, directories and limits.
#[derive(Clone, Debug)]
pub struct Server {
    /// The unix socket that serves CRI and admin.
    pub socket: PathBuf,
    /// The group that may use the socket besides root.
    pub socket_group: Option<String>,
    /// Durable state: CNI intents, exit facts.
    pub root_dir: PathBuf,
    /// State that a reboot takes away: step records, FIFOs, sandbox files.
    pub state_dir: PathBuf,
    /// How long a stop waits for running operations.
    pub drain_deadline: Duration,
    /// Whether a change of the file is a reload.
    pub watch_config: bool,
    /// Largest message either way.
    pub max_message_bytes: NonZeroUsize,
    /// Connections served at the same time.
    pub max_connections: NonZeroUsize,
    /// Requests in flight at the same time.
    pub max_requests: NonZeroUsize,
}

/// `[diagnostics]`: our own log lines.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    /// A level, or a comma-separated list of levels and `target=level` pairs.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// `[containerd]`: the back end and how patient we are with it.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Its socket; the managed instance's one where that is enabled.
    pub address: PathBuf,
    /// The containerd namespace of every object of ours.
    pub namespace: String,
    /// Snapshotter of handlers that name none.
    pub snapshotter: String,
    /// How long containerd may be away before RuntimeReady turns false.
    pub unready_after: Duration,
    /// Serve although containerd's own CRI plugin is active.
    pub allow_cri_plugin: bool,
}

/// `[managed_containerd]`: the private instance of `serve --managed-containerd`.
#[derive(Clone, Debug)]
pub struct Managed {
    /// Whether one is run.
    pub enabled: bool,
    /// Its program: a path, or a name looked up in PATH.
    pub binary: PathBuf,
    /// Its durable directory.
    pub root: PathBuf,
    /// Its run directory, with its socket, its shims' state and the OCI runtime's root.
    pub state: PathBuf,
    /// How long it may take to answer.
    pub start_deadline: Duration,
    /// Whether it ends with us.
    pub stop_at_exit: bool,
}

/// `[runtimes]`: the runtime handlers.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// The handler that the empty name means; always a key of `handlers`.
    pub default: String,
    /// Who owns the pods' cgroups.
    pub cgroup_driver: CgroupDriver,
    /// Every handler by its name.
    pub handlers: BTreeMap<String, Handler>,
}

impl Runtimes {
    /// The handler called `name`; the empty name is the default one.
    pub fn handler(&self, name: &str) -> Option<&Handler> {
        let name = if name.is_empty() { &self.default } else { name };
        self.handlers.get(name)
    }
}

/// containerd's shim for runc and crun.
pub const RUNC_SHIM: &str = "io.containerd.runc.v2";

/// One runtime handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// containerd's name of the shim, e.g. `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// The shim's program, where it is not found by its type.
    pub runtime_path: Option<PathBuf>,
    /// The OCI runtime's program (`BinaryName`); `None` is the shim's own choice, runc.
    pub binary: Option<PathBuf>,
    /// The OCI runtime's state directory (`Root`); the managed containerd's own one where that is enabled.
    pub root: Option<PathBuf>,
    /// Do not give containers a session keyring of their own.
    pub no_new_keyring: bool,
    /// Snapshotter of this handler; already filled in from `[containerd]` where the file names none.
    pub snapshotter: String,
    /// Attach the network before the pause task is created.
    pub network_first: bool,
    /// Privileged containers see only their own devices.
    pub privileged_without_host_devices: bool,
    /// Such containers may still use every device node they make.
    pub privileged_all_devices_allowed: bool,
    /// Pod annotations copied into the OCI spec: shell patterns.
    pub pod_annotations: Vec<String>,
    /// Container annotations copied into the OCI spec: shell patterns.
    pub container_annotations: Vec<String>,
    /// A JSON OCI spec that ours starts from.
    pub base_runtime_spec: Option<PathBuf>,
}

impl Handler {
    /// Whether the shim drives runc or crun, as far as its type tells.
    pub fn is_runc_shim(&self) -> bool {
        self.runtime_type == RUNC_SHIM
    }
}

/// `[sandbox]`.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// The image that pause containers run; `None` is the embedded program.
    pub pause_image: Option<String>,
    /// `net.ipv4.ip_unprivileged_port_start = 0` in pods.
    pub unprivileged_ports: bool,
    /// A `net.ipv4.ping_group_range` for everybody in pods.
    pub unprivileged_icmp: bool,
}

/// `[containers]`.
#[derive(Clone, Debug)]
pub struct Containers {
    /// Profile of a container that asks for none: `unconfined`, `runtime/default` or `localhost/…`.
    pub unset_seccomp_profile: Option<String>,
    /// Treat the host as one without AppArmor.
    pub disable_apparmor: bool,
    /// Treat the host as one without SELinux.
    pub disable_selinux: bool,
    /// Checkpoints are taken where CRIU works.
    pub enable_criu: bool,
    /// Checkpoints are restored.
    pub enable_restore: bool,
    /// How many MCS categories the levels of pods are drawn from.
    pub selinux_categories: NonZeroUsize,
    /// Whether the message of a container that failed says what was found out about its end.
    pub exit_diagnosis_in_message: bool,
    /// Device nodes belong to the user the container runs as.
    pub device_ownership_from_security_context: bool,
    /// Directories of CDI specifications, the last wins; none switches CDI off.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Directories of OCI hook files, the last wins; none switches hooks off.
    pub hooks_dirs: Vec<PathBuf>,
    /// File of block I/O classes; none switches them off.
    pub blockio_config_file: Option<PathBuf>,
    /// Containers that name a block I/O class run without it where those are off.
    pub ignore_blockio_not_enabled_errors: bool,
    /// File of cache classes; without it they are the groups that resctrl has.
    pub rdt_config_file: Option<PathBuf>,
    /// Containers that name a cache class run without it where resctrl is not mounted.
    pub ignore_rdt_not_enabled_errors: bool,
    /// How long ExecSync waits for output after the process ended.
    pub exec_sync_drain: Duration,
    /// How much of stdout and stderr together ExecSync keeps.
    pub exec_sync_output_bytes: NonZeroUsize,
    /// Exec processes on the node at the same time.
    pub max_execs: NonZeroUsize,
    /// Exec processes in one container at the same time.
    pub max_execs_per_container: NonZeroUsize,
}

/// `[cni]`.
#[derive(Clone, Debug)]
pub struct Cni {
    /// Where network configurations lie.
    pub conf_dir: PathBuf,
    /// Where plugins lie, searched in order.
    pub bin_dirs: Vec<PathBuf>,
    /// How many networks a pod is attached to.
    pub max_conf_num: NonZeroU32,
    /// Which address is the primary one.
    pub ip_pref: IpPreference,
    /// Deadline of one ADD.
    pub add_deadline: Duration,
    /// Deadline of one DEL.
    pub del_deadline: Duration,
}

/// `[images]`.
#[derive(Clone, Debug)]
pub struct Images {
    /// Directories with a `hosts.toml` per registry, the first that has one wins.
    pub registry_config_path: Vec<PathBuf>,
    /// Layers fetched at the same time, over all pulls.
    pub max_concurrent_downloads: NonZeroUsize,
    /// A download without a byte for this long has failed.
    pub progress_timeout: Duration,
    /// Limit for a connection to a host that is not the last one to ask.
    pub mirror_dial_timeout: Duration,
    /// How long a host may be silent before the next is asked as well; zero for ever.
    pub hedge_after: Duration,
    /// References (shell patterns) that image garbage collection leaves alone.
    pub pinned: Vec<String>,
    /// Largest compressed layer.
    pub max_layer_bytes: u64,
    /// Bytes that one layer may unpack to; 0 is no limit.
    pub max_unpacked_layer_bytes: u64,
    /// Bytes that the layers of one image may unpack to; 0 is no limit.
    pub max_unpacked_image_bytes: u64,
    /// Bytes of a piece of a large layer; 0 for whole layers.
    pub range_size: u64,
    /// Bytes that pieces may hold whose turn has not come, over all pulls.
    pub range_memory: u64,
    /// Snapshotters that fetch layers by themselves.
    pub lazy_snapshotters: Vec<String>,
    /// Credentials by registry host, for requests that bring none.
    pub credentials_file: Option<PathBuf>,
    /// Mirrors (`host[:port]`) that may see what a request brings for the registry that it names.
    pub trusted_mirrors: Vec<String>,
    /// Share of time, in percent, that tasks of the node may lose to waiting before pulls pause; 0 for any.
    pub pressure_limit: u32,
    /// Who unpacks layers.
    pub unpack: Unpacker,
    /// Overrides of the pull policy, the first that matches wins.
    pub pull_policy: Vec<PullRule>,
    /// Programs that say whether an image may be used; each that matches must agree.
    pub verifiers: Vec<Verifier>,
}

/// One `[[images.verifiers]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// Which references: a shell pattern over the normalised reference.
    pub pattern: String,
    /// The program.
    pub program: PathBuf,
    /// Arguments before ours.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// One `[[images.pull_policy]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRule {
    /// Which references: a shell pattern over the normalised reference.
    pub pattern: String,
    /// What PullImage does for them.
    pub policy: Policy,
    /// A local image answers even a request that carries credentials.
    pub trust_local: bool,
}

/// `[logs]`: the logs of containers.
#[derive(Clone, Debug)]
pub struct Logs {
    /// Longest piece of a line before it is split.
    pub max_line_bytes: NonZeroUsize,
    /// Held per container while the disk is slow.
    pub buffer_bytes: NonZeroUsize,
    /// What one container may log.
    pub quota: LogQuota,
}

/// What one container may log, and what becomes of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogQuota {
    /// Bytes of the log that may be written a second, over a second's burst; `None` is any number.
    pub bytes_per_second: Option<NonZeroU64>,
    /// The size of the log file from which on nothing is written until it is rotated; `None` is none.
    pub file_bytes: Option<NonZeroU64>,
    /// What becomes of output beyond either.
    pub over: OverQuota,
}

/// `[streaming]`.
#[derive(Clone, Debug)]
pub struct Streaming {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// TLS, where it is on.
    pub tls: Option<StreamingTls>,
    /// How long a client may take to open its streams.
    pub creation_timeout: Duration,
    /// Silence after which a connection ends; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// Streams that may be open at once.
    pub max_streams: NonZeroUsize,
}

/// TLS of the streaming listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamingTls {
    /// Certificate and key; `None` makes a self-signed one at start.
    pub files: Option<TlsFiles>,
    /// Clients must show a certificate that this CA signed.
    pub client_ca: Option<PathBuf>,
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where metrics are scraped; `None` is nowhere.
    pub address: Option<MetricsAddress>,
}

/// Where the metrics endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A socket for root only.
    Unix(PathBuf),
}

/// `[tracing]`, which variables of the environment go before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector's address; `None` is none.
    pub endpoint: Option<String>,
    /// How spans travel.
    pub protocol: OtlpProtocol,
    /// Of a million calls whose caller does not trace them, so many are traced.
    pub sampling_rate_per_million: u32,
}

/// `[stats]`: how often what is used is looked at.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Between two readings of all groups; zero leaves it to those who ask.
    pub collect_period: Duration,
    /// Between two measurements of all snapshots, at least.
    pub disk_period: Duration,
    /// File systems that count projects are asked what writable layers take.
    pub project_quotas: bool,
}

/// `[nri]`: plugins that adjust containers.
#[derive(Clone, Debug)]
pub struct Nri {
    /// Whether there may be plugins at all.
    pub enabled: bool,
    /// Where they connect; `None` where they may not.
    pub socket: Option<PathBuf>,
    /// Programs that are started with the server.
    pub plugin_dir: PathBuf,
    /// Their configurations.
    pub plugin_config_dir: PathBuf,
    /// How long a plugin may take to register.
    pub registration_timeout: Duration,
    /// How long it may take for an answer.
    pub request_timeout: Duration,
    /// How long it may take over what exists.
    pub synchronize_timeout: Duration,
    /// The node's own rules.
    pub validator: Option<Validator>,
}

/// `[nri.default_validator]`, where it is enabled.
#[derive(Clone, Debug, Default)]
pub struct Validator {
    /// Refuse OCI hooks.
    pub reject_hooks: bool,
    /// Refuse to replace the default seccomp profile.
    pub reject_seccomp_default: bool,
    /// Refuse a seccomp filter where there was none.
    pub reject_seccomp_unconfined: bool,
    /// Refuse to replace a profile of the node's files.
    pub reject_seccomp_custom: bool,
    /// Refuse changed namespaces.
    pub reject_namespaces: bool,
    /// Refuse kernel parameters.
    pub reject_sysctls: bool,
    /// Plugins that must take part.
    pub required_plugins: Vec<String>,
    /// The annotation that lets a container do without them.
    pub tolerate_missing_annotation: Option<String>,
}

/// `[operations]`: limits of what runs detached from its caller.
#[derive(Clone, Debug)]
pub struct Operations {
    /// How long an operation runs on when nobody waits for it.
    pub ceiling: Duration,
    /// Deadline of undoing one step.
    pub undo_deadline: Duration,
    /// How long a finished, undelivered container is kept.
    pub park_time: Duration,
    /// How often tasks are compared with containerd's answer.
    pub reconcile_interval: Duration,
}
