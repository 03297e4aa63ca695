//! Every key of the file as data: where it stands, when a change takes effect, what it means. The documented default
//! file and the reference are rendered from here; the defaults themselves come from the structs of `file`.

use serde_json::Value;

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// At the next reload (SIGHUP).
    Live,
    /// At the next start.
    Restart,
}

/// One key of the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path. `*` stands for a handler's name, `[]` for each entry of a list of tables.
    pub path: &'static str,
    /// Its type, as people read it.
    pub kind: &'static str,
    /// When a change takes effect.
    pub reload: Reload,
    /// What it means.
    pub doc: &'static str,
    /// A value to show where the key is unset by default; TOML.
    pub example: &'static str,
}

impl Key {
    /// The key's value in `effective`, a file as JSON; `None` where it is unset or stands in a map or list.
    pub fn find<'a>(&self, effective: &'a Value) -> Option<&'a Value> {
        self.holder()
            .split('.')
            .try_fold(effective, |value, part| value.get(part))
            .filter(|value| !value.is_null())
    }

    /// The path up to the map or list that holds it; the whole path where none does.
    pub fn holder(&self) -> &'static str {
        self.path
            .split_once(".*")
            .or_else(|| self.path.split_once("[]"))
            .map_or(self.path, |(map, _field)| map)
    }

    /// The last part of the path.
    pub fn name(&self) -> &'static str {
        self.path.rsplit('.').next().unwrap_or(self.path)
    }

    /// Everything before the last part.
    pub fn table(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or("", |(table, _name)| table)
    }
}

/// What each table is about, in the order of the file.
pub const TABLES: &[(&str, &str)] = &[
    ("server", "Our socket, directories and limits."),
    ("diagnostics", "Our own log lines, on standard error."),
    (
        "containerd",
        "The back end, and how patient we are with it.",
    ),
    (
        "managed_containerd",
        "A private containerd that `serve --managed-containerd` starts, finds again after our restart, and talks to.",
    ),
    (
        "runtimes",
        "The runtime handlers that a RuntimeClass may name.",
    ),
    (
        "runtimes.handlers.*",
        "One handler. A file that names any handler replaces the built-in ones, runc and crun.",
    ),
    ("sandbox", "Pod sandboxes."),
    ("containers", "Containers and the processes in them."),
    ("cni", "Pod networks."),
    ("images", "Images and registries."),
    (
        "images.pull_policy[]",
        "An override of when PullImage asks the registry, for references that match; the first match wins.",
    ),
    (
        "images.verifiers[]",
        "A program that says whether an image may be pulled, called as containerd calls its image verifiers: -name REFERENCE -digest DIGEST -stdin-media-type TYPE, the OCI descriptor on standard input; it ends with 0 to accept, and what it prints is the reason. Each whose pattern matches must accept; one that fails or takes too long has refused.",
    ),
    (
        "streaming",
        "The listener of exec, attach and port-forward.",
    ),
    ("logs", "The logs of containers."),
    (
        "operations",
        "Limits of operations, which run on when their caller has gone.",
    ),
    (
        "nri",
        "Plugins of the Node Resource Interface, which adjust containers.",
    ),
    (
        "nri.default_validator",
        "Rules of the node about what plugins may do; they apply to all plugins.",
    ),
    (
        "metrics",
        "The endpoint that Prometheus scrapes: GET /metrics, in the OpenMetrics text format.",
    ),
    (
        "tracing",
        "Traces for an OpenTelemetry collector. Variables of its specification (OTEL_*) go before these keys.",
    ),
    ("stats", "What containers and pods use, as kubelet is told."),
];

macro_rules! keys {
    ($($path:literal, $kind:literal, $reload:ident, $doc:literal $(, example $example:literal)?;)*) => {
        /// Every key, table by table.
        pub const KEYS: &[Key] = &[$(Key {
            path: $path,
            kind: $kind,
            reload: Reload::$reload,
            doc: $doc,
            example: concat!($($example)?),
        },)*];
    };
}

keys! {
    "server.socket", "path", Restart, "The unix socket that serves CRI and the admin service. Under systemd socket activation the unit's socket is used instead.";
    "server.socket_group", "string", Restart, "A group whose members may use the socket besides root (mode 0660). Whoever may use it is root on this node.", example "\"podwright\"";
    "server.root_dir", "path", Restart, "State that must survive a reboot: CNI intents and exit facts.";
    "server.state_dir", "path", Restart, "State that a reboot takes away: step records, FIFOs, sandbox files.";
    "server.drain_deadline", "duration", Live, "How long a stop of the server waits for running operations. Keep it below the unit's TimeoutStopSec.";
    "server.watch_config", "boolean", Live, "Reload when this file changes and then stays the same for a second, as on SIGHUP and `podwright config reload`. A file that breaks a rule changes nothing.";
    "server.max_message_bytes", "bytes", Restart, "Largest gRPC message, both ways; at least 16 MiB.";
    "server.max_connections", "count", Restart, "Connections served at the same time; further ones wait.";
    "server.max_requests", "count", Restart, "Requests in flight at the same time; further ones are refused with ResourceExhausted.";

    "diagnostics.level", "filter", Live, "off, error, warn, info, debug or trace, or a list such as \"info,podwright::network=debug\". Of other crates only warnings are shown, unless they are named: \"info,h2=debug\".";
    "diagnostics.format", "text | json", Restart, "One readable line, or one JSON object, for each event.";

    "containerd.address", "path", Restart, "containerd's socket. Not used with the managed containerd.";
    "containerd.namespace", "string", Restart, "containerd's namespace of all our objects. Kubernetes tools, cAdvisor among them, look in k8s.io.";
    "containerd.snapshotter", "string", Restart, "The snapshotter of handlers that name none.";
    "containerd.unready_after", "duration", Live, "How long containerd may be away before Status says RuntimeReady=false. A restart of containerd should not make the node NotReady.";
    "containerd.allow_cri_plugin", "boolean", Restart, "Serve although containerd's own CRI plugin is active. Two CRI servers on one namespace damage each other: for experiments only.";

    "managed_containerd.enabled", "boolean", Restart, "Run a private containerd; the same as `serve --managed-containerd`.";
    "managed_containerd.binary", "program", Restart, "containerd's program.";
    "managed_containerd.root", "path", Restart, "Its durable directory: images and snapshots.";
    "managed_containerd.state", "path", Restart, "Its run directory: socket, shims and the OCI runtime's state.";
    "managed_containerd.start_deadline", "duration", Restart, "How long it may take until it answers.";
    "managed_containerd.stop_at_exit", "boolean", Live, "Stop it when the server stops; the same as `--managed-stop`. Containers run on either way.";

    "runtimes.default", "string", Live, "The handler of pods without a RuntimeClass.";
    "runtimes.cgroup_driver", "auto | systemd | cgroupfs", Restart, "Who makes the pods' cgroups; kubelet learns it by RuntimeConfig. auto is systemd where the host was booted with it, else cgroupfs. Must not change while pods run.";

    "runtimes.handlers.*.runtime_type", "string", Live, "containerd's name of the shim.";
    "runtimes.handlers.*.runtime_path", "path", Live, "The shim's program, where containerd does not find it by its type.", example "\"/opt/kata/bin/containerd-shim-kata-v2\"";
    "runtimes.handlers.*.binary", "program", Live, "The OCI runtime that the shim calls; unset is the shim's own default, runc.", example "\"crun\"";
    "runtimes.handlers.*.root", "path", Live, "The OCI runtime's state directory; unset is the shim's own default.", example "\"/run/containerd/runc\"";
    "runtimes.handlers.*.no_new_keyring", "boolean", Live, "Containers share the session keyring instead of getting their own.";
    "runtimes.handlers.*.snapshotter", "string", Live, "The snapshotter of this handler's containers; unset is containerd.snapshotter.", example "\"overlayfs\"";
    "runtimes.handlers.*.network_first", "boolean", Live, "Attach the network before the pause task is created, instead of meanwhile.";
    "runtimes.handlers.*.privileged_without_host_devices", "boolean", Live, "Privileged containers do not get the host's devices.";
    "runtimes.handlers.*.privileged_without_host_devices_all_devices_allowed", "boolean", Live, "Such containers may nevertheless use any device node they make.";
    "runtimes.handlers.*.pod_annotations", "list of patterns", Live, "Pod annotations handed to the OCI runtime.";
    "runtimes.handlers.*.container_annotations", "list of patterns", Live, "Container annotations handed to the OCI runtime.";
    "runtimes.handlers.*.base_runtime_spec", "path", Live, "A JSON OCI runtime spec whose fields ours starts from.", example "\"/etc/podwright/base-spec.json\"";

    "sandbox.netns_dir", "path", Restart, "Where the pods' network namespaces are pinned.";
    "sandbox.pause_image", "image reference", Live, "The image that new pods' pause containers run, with its entrypoint, environment and user; pulled with the credentials of the node where it is not there, and left alone by garbage collection. Unset is the program inside podwright, which needs no image.", example "\"registry.k8s.io/pause:3.10\"";
    "sandbox.enable_unprivileged_ports", "boolean", Live, "Let every user in a pod bind ports below 1024.";
    "sandbox.enable_unprivileged_icmp", "boolean", Live, "Let every user in a pod send ICMP echo requests.";

    "containers.unset_seccomp_profile", "string", Live, "The seccomp profile of containers that ask for none: unconfined, runtime/default or localhost/PATH. Empty is unconfined, as kubelet expects.";
    "containers.disable_apparmor", "boolean", Live, "Behave as on a host without AppArmor.";
    "containers.enable_criu", "boolean", Live, "Let CheckpointContainer write containers down where criu is installed and works.";
    "containers.enable_restore", "boolean", Live, "Let CreateContainer and RestorePod make containers go on from checkpoints. A checkpoint says what CRIU does as root on this node, outside of every profile and limit of its pod, so whoever can have one restored owns the node: switch it on only where every checkpoint is your own.";
    "containers.disable_selinux", "boolean", Live, "Behave as on a host without SELinux: containers get no labels of their own.";
    "containers.selinux_category_range", "count", Live, "Each pod gets two SELinux categories of its own below this number (2 to 1024), so that no pod may touch the files of another.";
    "containers.exit_diagnosis_in_message", "boolean", Live, "Add to the message of a container that failed what podwright found out about its end; verbose info has it always. Kubelet shows the message to users.";
    "containers.device_ownership_from_security_context", "boolean", Live, "Give device nodes to the user that the container runs as.";
    "containers.cdi_spec_dirs", "list of paths", Live, "Directories of CDI specifications (*.json, *.yaml), read again for every container that asks for a device. Where two describe a device the later directory wins; an empty list switches CDI off.";
    "containers.hooks_dirs", "list of paths", Live, "Directories of OCI hook files (*.json, oci-hooks(5) 1.0.0), read again for every container. A file of a later directory replaces one of the same name; an empty list switches hooks off. Pause containers get none.", example "[\"/usr/share/containers/oci/hooks.d\", \"/etc/containers/oci/hooks.d\"]";
    "containers.blockio_config_file", "path", Live, "Block I/O classes that annotations may name: a YAML file in the format of containerd and CRI-O (Classes: name: list of Weight, Devices, ThrottleReadBps, ThrottleWriteBps, ThrottleReadIOPS, ThrottleWriteIOPS), read again for every container that names one.", example "\"/etc/containers/blockio.yaml\"";
    "containers.ignore_blockio_not_enabled_errors", "boolean", Live, "Run containers that name a block I/O class without it while blockio_config_file is unset; otherwise they are refused.";
    "containers.rdt_config_file", "path", Live, "Cache and memory bandwidth classes (RDT) that annotations may name: a YAML file in the format of containerd and CRI-O (partitions with classes, each with l2Allocation, l3Allocation, mbAllocation). Their groups in /sys/fs/resctrl are made and set at start, when the configuration is read again, and for every container that names one; groups that the file does not name and podwright did not make are left alone.", example "\"/etc/containers/rdt.yaml\"";
    "containers.ignore_rdt_not_enabled_errors", "boolean", Live, "Run containers that name a cache class (RDT) without it while resctrl is not mounted; otherwise they are refused. Where it is mounted, the groups in /sys/fs/resctrl are classes beside those of rdt_config_file.";
    "containers.exec_sync_drain", "duration", Live, "How long ExecSync waits for more output after the process has ended.";
    "containers.exec_sync_output_bytes", "bytes", Live, "How much of stdout and stderr together ExecSync returns; the rest is dropped.";
    "containers.max_execs", "count", Live, "Exec processes on this node at the same time.";
    "containers.max_execs_per_container", "count", Live, "Exec processes in one container at the same time.";

    "cni.conf_dir", "path", Restart, "Where network configurations lie; the directory is watched.";
    "cni.bin_dirs", "list of paths", Live, "Where plugins lie, searched in this order.";
    "cni.max_conf_num", "count", Live, "How many of the configurations, in order of their names, a pod is attached to.";
    "cni.ip_pref", "ipv4 | ipv6 | cni", Live, "Which address is a pod's primary one; cni is the order of the plugins.";
    "cni.add_deadline", "duration", Live, "Deadline of one ADD. Operations outlive their caller, so a slow address manager may finish.";
    "cni.del_deadline", "duration", Live, "Deadline of one DEL.";

    "images.registry_config_path", "list of paths", Live, "Directories with HOST/hosts.toml files, as containerd has them; the first that knows the host wins.";
    "images.max_concurrent_downloads", "count", Restart, "Layers fetched at the same time, over all pulls.";
    "images.progress_timeout", "duration", Live, "A download that brings nothing for this long has failed. A registry that is silent for a minute, or for this long where it is less, is asked again or left for the next before.";
    "images.mirror_dial_timeout", "duration", Live, "How long a connection to a registry host may take while another can still be asked; dial_timeout in hosts.toml beats it. The last host gets 10s.";
    "images.hedge_after", "duration", Live, "How long a registry host may send nothing before the next one is asked as well; the first to deliver wins. 0s never asks two.";
    "images.pinned", "list of patterns", Live, "Image references that garbage collection leaves alone.";
    "images.max_layer_bytes", "bytes", Live, "Largest compressed layer.";
    "images.max_unpacked_layer_bytes", "bytes", Live, "What one layer may unpack to; the pull fails beyond it. 0 leaves only the rule that a layer never fills the disk (it leaves 1 GiB or a twentieth of it free). Where containerd's diff service unpacks, the disk is looked at every two seconds, so that it may be exceeded by what is written meanwhile.";
    "images.max_unpacked_image_bytes", "bytes", Live, "The same for all layers together that one pull unpacks; layers that are here already do not count.";
    "images.range_size", "bytes", Live, "A layer of at least four times as many bytes is fetched in pieces of this size, up to four at once where range_memory allows, from a registry that answers requests for ranges and whose one connection brings less than 100 MiB a second. 0 fetches every layer in one stream.";
    "images.range_memory", "bytes", Restart, "What pieces may hold in memory whose turn to be written has not come, over all pulls. Beside it each layer that is being fetched takes a few MiB, however this is set.";
    "images.unpack", "auto | containerd", Live, "Who unpacks layers: auto is podwright itself where a snapshot is a plain directory of the node (overlayfs), else containerd's diff service.";

    "images.lazy_snapshotters", "list of names", Live, "Snapshotters that mount a layer before its blob is here and fetch what is read (stargz, nydus, soci): their snapshots get the labels that name image, manifest and layers. Those whose plugin exports enable_remote_snapshot_annotations get them anyway.", example "[\"stargz\"]";
    "images.credentials_file", "path", Live, "A file in docker's config.json format whose auths are shown to registries by pulls that bring no credentials. Only root may be able to read it; it is read again for every pull.", example "\"/etc/podwright/registries.json\"";
    "images.trusted_mirrors", "list of hosts", Live, "Mirrors of hosts.toml, as host or host:port, that may see the credentials which a pull brings for the registry that the image names. Others see only credentials whose server address names them.", example "[\"mirror.example:5000\"]";
    "images.pressure_limit", "count", Live, "Pulls pause while tasks of this node lose more than this share of their time, in percent over the last ten seconds, waiting for disk, memory or processor (PSI, the some line of /proc/pressure). A pull still goes on at a crawl. 0 never pauses.";

    "images.pull_policy[].pattern", "pattern", Live, "Which references, in their full form.", example "\"registry.example/*\"";
    "images.pull_policy[].policy", "Always | IfNotPresent | Never", Live, "Always resolves the tag afresh; the others are answered by a local image.", example "\"IfNotPresent\"";
    "images.pull_policy[].trust_local", "boolean", Live, "Answer locally even a request that carries credentials. kubelet then records those credentials as proven.", example "false";

    "images.verifiers[].pattern", "pattern", Live, "Which references, in their full form.", example "\"registry.example/*\"";
    "images.verifiers[].program", "path", Live, "The program. It must belong to root, and nobody else may be able to write it.", example "\"/opt/podwright/verify-signature\"";
    "images.verifiers[].arguments", "list of strings", Live, "Arguments before those above.", example "[\"--policy\", \"/etc/podwright/policy.json\"]";
    "images.verifiers[].timeout", "duration", Live, "How long it may take.", example "\"10s\"";

    "streaming.address", "IP address", Restart, "Where it listens. The kubelet dials it from the node, so the loopback serves; whoever reaches it still needs a token of 256 bits that is good once.";
    "streaming.port", "number", Restart, "Its port; 0 lets the kernel choose one.";
    "streaming.tls", "boolean", Restart, "Speak TLS. The kubelet shows no certificate and trusts the node's own store only.";
    "streaming.tls_cert_file", "path", Restart, "The certificate chain, in PEM. A renewed file is taken into use by itself. Without it and its key a self-signed one is made at start, which crictl takes and the kubelet does not.", example "\"/etc/podwright/streaming.crt\"";
    "streaming.tls_key_file", "path", Restart, "The key of that certificate, in PEM.", example "\"/etc/podwright/streaming.key\"";
    "streaming.tls_client_ca_file", "path", Restart, "Clients must show a certificate that this CA signed. The kubelet shows none: with this key its exec, attach and port-forward fail.", example "\"/etc/podwright/streaming-clients.crt\"";
    "streaming.creation_timeout", "duration", Live, "How long a client may take to open the streams that it asked for.";
    "streaming.idle_timeout", "duration", Live, "A connection on which nothing is said for so long is closed; 0s is never. The kubelet pings every 5 s.";
    "streaming.max_streams", "number", Live, "Exec, attach and port-forward connections that may be open at once.";
    "logs.max_line_bytes", "bytes", Live, "A longer line is split into pieces tagged P.";
    "logs.buffer_bytes", "bytes", Live, "Held for one container while the disk is slow.";
    "logs.max_bytes_per_second", "bytes", Live, "What one container may log a second, as it stands in the file with times and tags, both streams together; a burst of a second's worth passes. 0 is any number.";
    "logs.max_file_bytes", "bytes", Live, "Once a container's log file is so large, no more is written to it until it is rotated (ReopenContainerLog). Rather twice kubelet's containerLogMaxSize, which it looks at every 10 s; a file that is full before is never rotated. 0 is any size.";
    "logs.over_quota", "drop | block", Live, "What becomes of output beyond either limit. drop: whole lines are thrown away, and a line in the log says how many; a container that floods faster than 64 MiB a second waits for the reading. block: it is not read, and the container waits when it writes.";

    "operations.ceiling", "duration", Live, "How long an operation runs on when nobody waits for it; then it is undone.";
    "operations.undo_deadline", "duration", Live, "Deadline of undoing one step.";
    "operations.park_time", "duration", Live, "How long a container whose creation was never answered is kept for the caller's retry.";
    "operations.reconcile_interval", "duration", Live, "How often running tasks are compared with containerd's answer.";

    "nri.enabled", "boolean", Restart, "Listen for plugins and start those of plugin_dir. Without any plugin this costs nothing.";
    "nri.socket", "path", Restart, "Where plugins connect. The directory is made for root only where it is missing.";
    "nri.disable_connections", "boolean", Restart, "Do not listen: only the plugins of plugin_dir take part.";
    "nri.plugin_dir", "path", Restart, "Programs called NN-NAME that are started with the server, in order of NN. One that ends is not started again.";
    "nri.plugin_config_dir", "path", Restart, "Their configurations: NN-NAME.conf, else NAME.conf.";
    "nri.registration_timeout", "duration", Live, "How long a plugin may take to say who it is.";
    "nri.request_timeout", "duration", Live, "How long a plugin may take to answer; one that takes longer is disconnected, and the call goes on without it.";
    "nri.synchronize_timeout", "duration", Live, "How long a new plugin may take over what exists on the node. What it asked to hear of waits meanwhile.";

    "nri.default_validator.enabled", "boolean", Live, "Apply the rules of this table.";
    "nri.default_validator.reject_oci_hook_adjustment", "boolean", Live, "No plugin may add OCI hooks.";
    "nri.default_validator.reject_runtime_default_seccomp_adjustment", "boolean", Live, "No plugin may replace the runtime's default seccomp profile.";
    "nri.default_validator.reject_unconfined_seccomp_adjustment", "boolean", Live, "No plugin may give a seccomp filter to a container without one.";
    "nri.default_validator.reject_custom_seccomp_adjustment", "boolean", Live, "No plugin may replace a profile from the node's files.";
    "nri.default_validator.reject_namespace_adjustment", "boolean", Live, "No plugin may change namespaces.";
    "nri.default_validator.reject_sysctl_adjustment", "boolean", Live, "No plugin may set kernel parameters.";
    "nri.default_validator.required_plugins", "list of names", Live, "Plugins without which no container is created.";
    "nri.default_validator.tolerate_missing_plugins_annotation", "string", Live, "An annotation that, set to true on a pod or container, lets it do without the required plugins. Empty is none.";

    "metrics.address", "IP:PORT | unix:/PATH", Restart, "Where it listens; empty is nowhere. It has no credentials: use the loopback, or a unix socket, which is for root only.";

    "tracing.endpoint", "URL", Restart, "The collector, as http://HOST:PORT; empty is none. Over HTTP, /v1/traces is put behind it.";
    "tracing.protocol", "http/protobuf | grpc", Restart, "How spans travel.";
    "tracing.sampling_rate_per_million", "number", Restart, "How many of a million calls are traced that their caller does not trace. What the caller traces is always traced.";

    "stats.collect_period", "duration", Live, "How often processor, memory and the rest are read in the background. Whoever asks gets what is at most a second old anyway; rates are over the time since the last reading. 0s reads only for those who ask.";
    "stats.disk_period", "duration", Live, "The pause between two measurements of writable layers. It is longer where measuring takes long: nine times as long as that, up to a minute.";
    "stats.project_quotas", "boolean", Live, "Give each new writable layer a project id where its file system counts what projects use (ext4 and XFS mounted with prjquota), and tell what is counted: exact and at once. Nothing is limited by it. The layers of containers without a user namespace are measured all the same, since their root could give files another project: where much is missing from the count, the measurement is told.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::file;
    use super::*;

    fn walk(value: &Value, path: &str, out: &mut BTreeSet<String>) {
        let join = |part: &str| {
            if path.is_empty() {
                part.to_owned()
            } else {
                format!("{path}.{part}")
            }
        };
        match value {
            Value::Object(fields) if path == "runtimes.handlers" => {
                fields
                    .values()
                    .for_each(|handler| walk(handler, "runtimes.handlers.*", out));
            }
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, value)| walk(value, &join(name), out)),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let path = format!("{path}[]");
                items.iter().for_each(|rule| walk(rule, &path, out));
            }
            _ => {
                out.insert(path.to_owned());
            }
        }
    }

    #[test]
    fn the_table_names_every_field_of_the_file_and_nothing_else() {
        let mut file = file::File::default();
        file.images.pull_policy.push(file::PullRule::default());
        file.images.verifiers.push(file::Verifier::default());

        let mut fields = BTreeSet::new();
        walk(&serde_json::to_value(&file).unwrap(), "", &mut fields);

        let table: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
        assert_eq!(table, fields);
        assert_eq!(table.len(), KEYS.len());
    }

    #[test]
    fn every_key_stands_in_a_table_that_is_introduced() {
        for key in KEYS {
            assert!(
                TABLES.iter().any(|(name, _)| *name == key.table()),
                "{}",
                key.path
            );
        }
    }
}
