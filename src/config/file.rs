//! The file as it is written: serde structs with the defaults, private to this room. Everything else sees
//! [`super::Config`], which cannot be wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::Span;
use super::values::{
    CgroupDriver, IpPreference, LogFormat, OtlpProtocol, OverQuota, Policy, Unpacker,
};

/// Declares one table of the file: its fields and their defaults, once.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name { $(pub(super) $field: $kind,)* }

        impl Default for $name {
            fn default() -> Self { Self { $($field: $default,)* } }
        }
    };
}

table! {
    /// The whole file.
    File {
        server: Server = Server::default(),
        diagnostics: Diagnostics = Diagnostics::default(),
        containerd: Containerd = Containerd::default(),
        managed_containerd: Managed = Managed::default(),
        runtimes: Runtimes = Runtimes::default(),
        sandbox: Sandbox = Sandbox::default(),
        containers: Containers = Containers::default(),
        cni: Cni = Cni::default(),
        images: Images = Images::default(),
        logs: Logs = Logs::default(),
        operations: Operations = Operations::default(),
        streaming: Streaming = Streaming::default(),
        nri: Nri = Nri::default(),
        metrics: Metrics = Metrics::default(),
        tracing: Tracing = Tracing::default(),
        stats: Stats = Stats::default(),
    }
}

table! {
    Server {
        socket: PathBuf = "/run/podwright/podwright.sock".into(),
        socket_group: Option<String> = None,
        root_dir: PathBuf = "/var/lib/podwright".into(),
        state_dir: PathBuf = "/run/podwright".into(),
        drain_deadline: Span = Span::seconds(25),
        watch_config: bool = true,
        max_message_bytes: u32 = 16 * 1024 * 1024,
        max_connections: u32 = 256,
        max_requests: u32 = 2_000,
    }
}

table! {
    Diagnostics {
        level: String = "info".into(),
        format: LogFormat = LogFormat::Text,
    }
}

table! {
    Containerd {
        address: PathBuf = "/run/containerd/containerd.sock".into(),
        namespace: String = "k8s.io".into(),
        snapshotter: String = "overlayfs".into(),
        unready_after: Span = Span::seconds(30),
        allow_cri_plugin: bool = false,
    }
}

table! {
    Managed {
        enabled: bool = false,
        binary: PathBuf = "containerd".into(),
        root: PathBuf = "/var/lib/podwright/containerd".into(),
        state: PathBuf = "/run/podwright/containerd".into(),
        start_deadline: Span = Span::seconds(30),
        stop_at_exit: bool = false,
    }
}

table! {
    Runtimes {
        default: String = "runc".into(),
        cgroup_driver: CgroupDriver = CgroupDriver::Auto,
        handlers: BTreeMap<String, Handler> = builtin_handlers(),
    }
}

table! {
    Handler {
        runtime_type: String = super::settings::RUNC_SHIM.into(),
        runtime_path: Option<PathBuf> = None,
        binary: Option<PathBuf> = None,
        root: Option<PathBuf> = None,
        no_new_keyring: bool = false,
        snapshotter: Option<String> = None,
        network_first: bool = false,
        privileged_without_host_devices: bool = false,
        privileged_without_host_devices_all_devices_allowed: bool = false,
        pod_annotations: Vec<String> = Vec::new(),
        container_annotations: Vec<String> = Vec::new(),
        base_runtime_spec: Option<PathBuf> = None,
    }
}

table! {
    Sandbox {
        netns_dir: PathBuf = "/run/netns".into(),
        pause_image: Option<String> = None,
        enable_unprivileged_ports: bool = true,
        enable_unprivileged_icmp: bool = true,
    }
}

table! {
    Containers {
        unset_seccomp_profile: String = String::new(),
        disable_apparmor: bool = false,
        disable_selinux: bool = false,
        enable_criu: bool = true,
        enable_restore: bool = false,
        selinux_category_range: u32 = 1_024,
        exit_diagnosis_in_message: bool = false,
        device_ownership_from_security_context: bool = false,
        cdi_spec_dirs: Vec<PathBuf> = vec!["/etc/cdi".into(), "/var/run/cdi".into()],
        hooks_dirs: Vec<PathBuf> = Vec::new(),
        blockio_config_file: Option<PathBuf> = None,
        ignore_blockio_not_enabled_errors: bool = false,
        rdt_config_file: Option<PathBuf> = None,
        ignore_rdt_not_enabled_errors: bool = false,
        exec_sync_drain: Span = Span::seconds(2),
        exec_sync_output_bytes: u32 = 15 * 1024 * 1024,
        max_execs: u32 = 1_000,
        max_execs_per_container: u32 = 500,
    }
}

table! {
    Cni {
        conf_dir: PathBuf = "/etc/cni/net.d".into(),
        bin_dirs: Vec<PathBuf> = vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
        max_conf_num: u32 = 1,
        ip_pref: IpPreference = IpPreference::Ipv4,
        add_deadline: Span = Span::seconds(240),
        del_deadline: Span = Span::seconds(60),
    }
}

table! {
    Images {
        registry_config_path: Vec<PathBuf> = vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
        max_concurrent_downloads: u32 = 3,
        progress_timeout: Span = Span::seconds(300),
        mirror_dial_timeout: Span = Span::seconds(3),
        hedge_after: Span = Span::seconds(5),
        pinned: Vec<String> = Vec::new(),
        max_layer_bytes: u64 = 128 * 1024 * 1024 * 1024,
        max_unpacked_layer_bytes: u64 = 256 * 1024 * 1024 * 1024,
        max_unpacked_image_bytes: u64 = 512 * 1024 * 1024 * 1024,
        range_size: u64 = 4 * 1024 * 1024,
        range_memory: u64 = 12 * 1024 * 1024,
        lazy_snapshotters: Vec<String> = Vec::new(),
        credentials_file: Option<PathBuf> = None,
        trusted_mirrors: Vec<String> = Vec::new(),
        pressure_limit: u32 = 0,
        unpack: Unpacker = Unpacker::Auto,
        pull_policy: Vec<PullRule> = Vec::new(),
        verifiers: Vec<Verifier> = Vec::new(),
    }
}

table! {
    Verifier {
        pattern: String = String::new(),
        program: PathBuf = PathBuf::new(),
        arguments: Vec<String> = Vec::new(),
        timeout: Span = Span::seconds(10),
    }
}

table! {
    PullRule {
        pattern: String = String::new(),
        policy: Policy = Policy::Always,
        trust_local: bool = false,
    }
}

table! {
    Streaming {
        address: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: u16 = 0,
        tls: bool = false,
        tls_cert_file: Option<PathBuf> = None,
        tls_key_file: Option<PathBuf> = None,
        tls_client_ca_file: Option<PathBuf> = None,
        creation_timeout: Span = Span::seconds(30),
        idle_timeout: Span = Span::seconds(4 * 3_600),
        max_streams: u32 = 1_000,
    }
}

table! {
    Logs {
        max_line_bytes: u32 = 16 * 1024,
        buffer_bytes: u32 = 256 * 1024,
        max_bytes_per_second: u64 = 0,
        max_file_bytes: u64 = 0,
        over_quota: OverQuota = OverQuota::Drop,
    }
}

table! {
    Stats {
        collect_period: Span = Span::seconds(10),
        disk_period: Span = Span::seconds(10),
        project_quotas: bool = true,
    }
}

table! {
    Operations {
        ceiling: Span = Span::seconds(600),
        undo_deadline: Span = Span::seconds(60),
        park_time: Span = Span::seconds(240),
        reconcile_interval: Span = Span::seconds(10),
    }
}

table! {
    Nri {
        enabled: bool = true,
        socket: PathBuf = "/var/run/nri/nri.sock".into(),
        disable_connections: bool = false,
        plugin_dir: PathBuf = "/opt/nri/plugins".into(),
        plugin_config_dir: PathBuf = "/etc/nri/conf.d".into(),
        registration_timeout: Span = Span::seconds(5),
        request_timeout: Span = Span::seconds(2),
        synchronize_timeout: Span = Span::seconds(15),
        default_validator: Validator = Validator::default(),
    }
}

table! {
    Validator {
        enabled: bool = false,
        reject_oci_hook_adjustment: bool = false,
        reject_runtime_default_seccomp_adjustment: bool = false,
        reject_unconfined_seccomp_adjustment: bool = false,
        reject_custom_seccomp_adjustment: bool = false,
        reject_namespace_adjustment: bool = false,
        reject_sysctl_adjustment: bool = false,
        required_plugins: Vec<String> = Vec::new(),
        tolerate_missing_plugins_annotation: String = String::new(),
    }
}

table! {
    Metrics {
        address: String = String::new(),
    }
}

table! {
    Tracing {
        endpoint: String = String::new(),
        protocol: OtlpProtocol = OtlpProtocol::Http,
        sampling_rate_per_million: u32 = 1_000_000,
    }
}

/// The handlers of a node whose file names none: runc and crun, both through containerd's runc shim.
fn builtin_handlers() -> BTreeMap<String, Handler> {
    let crun = Handler {
        binary: Some("crun".into()),
        ..Handler::default()
    };
    BTreeMap::from([("runc".into(), Handler::default()), ("crun".into(), crun)])
}
