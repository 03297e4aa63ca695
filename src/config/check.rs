//! From the file to [`Config`]: every rule, each naming its key. All problems are found in one go.

use std::num::NonZeroU32;

use super::problem::Problem;
use super::rules::Rules;
use super::units::Span;
use super::{Config, file, settings};

/// Longest path of a unix socket, without the closing NUL.
pub(super) const SOCKET_PATH_MAX: usize = 107;
/// kubelet's clients send messages up to this size.
const MESSAGE_MIN: u32 = 16 * 1024 * 1024;
/// Paths that other tools take for another runtime (behaviour-node, trap 11).
const FOREIGN_SOCKETS: [&str; 2] = ["run/crio/crio.sock", "run/containerd/containerd.sock"];

/// Turns the file into settings.
///
/// # Errors
/// Every broken rule.
pub(super) fn check(file: &file::File) -> Result<Config, Vec<Problem>> {
    let mut rules = Rules::default();
    let config = Config {
        server: rules.server(&file.server),
        diagnostics: rules.diagnostics(&file.diagnostics),
        containerd: rules.containerd(&file.containerd, &file.managed_containerd),
        managed_containerd: rules.managed(&file.managed_containerd),
        runtimes: rules.runtimes(file),
        sandbox: rules.sandbox(&file.sandbox),
        containers: rules.containers(&file.containers),
        cni: rules.cni(&file.cni),
        images: rules.images(&file.images),
        logs: rules.logs(&file.logs),
        operations: rules.operations(&file.operations),
        streaming: rules.streaming(&file.streaming),
        nri: rules.nri(&file.nri),
        metrics: rules.metrics(&file.metrics),
        tracing: rules.tracing(&file.tracing),
        stats: rules.stats(&file.stats),
        effective: serde_json::to_value(file).unwrap_or_default(),
    };
    rules.across(&config);
    if rules.problems.is_empty() {
        Ok(config)
    } else {
        Err(rules.problems)
    }
}

impl Rules {
    fn server(&mut self, file: &file::Server) -> settings::Server {
        let socket = self.absolute("server.socket", &file.socket);
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            self.broken(
                "server.socket",
                format!("must not be longer than {SOCKET_PATH_MAX} bytes"),
            );
        }
        if FOREIGN_SOCKETS.iter().any(|other| socket.ends_with(other)) {
            self.broken("server.socket", "must not be another runtime's well-known path: kubelet and kubeadm treat that runtime differently");
        }
        if file.socket_group.as_deref() == Some("") {
            self.broken(
                "server.socket_group",
                "must not be empty: leave the key out for root only",
            );
        }
        settings::Server {
            socket,
            socket_group: file.socket_group.clone(),
            root_dir: self.absolute("server.root_dir", &file.root_dir),
            state_dir: self.absolute("server.state_dir", &file.state_dir),
            watch_config: file.watch_config,
            drain_deadline: self.span(
                "server.drain_deadline",
                file.drain_deadline,
                Span::seconds(1),
            ),
            max_message_bytes: self.size(
                "server.max_message_bytes",
                file.max_message_bytes,
                MESSAGE_MIN,
                1 << 30,
            ),
            max_connections: self.count("server.max_connections", file.max_connections),
            max_requests: self.count("server.max_requests", file.max_requests),
        }
    }

    fn diagnostics(&mut self, file: &file::Diagnostics) -> settings::Diagnostics {
        let is_level =
            |text: &str| matches!(text, "off" | "error" | "warn" | "info" | "debug" | "trace");
        let is_target = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
        };
        let ok = file
            .level
            .split(',')
            .all(|part| match part.trim().split_once('=') {
                Some((target, level)) => is_target(target) && is_level(level),
                None => is_level(part.trim()),
            });
        if !ok {
            self.broken(
                "diagnostics.level",
                format!("{:?} must be off, error, warn, info, debug or trace, or a list such as info,podwright::network=debug", file.level),
            );
        }
        settings::Diagnostics {
            level: file.level.clone(),
            format: file.format,
        }
    }

    fn containerd(
        &mut self,
        file: &file::Containerd,
        managed: &file::Managed,
    ) -> settings::Containerd {
        let own = self.absolute("containerd.address", &file.address);
        settings::Containerd {
            address: if managed.enabled {
                managed.state.join("containerd.sock")
            } else {
                own
            },
            namespace: self.word("containerd.namespace", &file.namespace),
            snapshotter: self.word("containerd.snapshotter", &file.snapshotter),
            unready_after: self.span(
                "containerd.unready_after",
                file.unready_after,
                Span::seconds(0),
            ),
            allow_cri_plugin: file.allow_cri_plugin,
        }
    }

    fn managed(&mut self, file: &file::Managed) -> settings::Managed {
        let managed = settings::Managed {
            enabled: file.enabled,
            binary: self.program("managed_containerd.binary", &file.binary),
            root: self.absolute("managed_containerd.root", &file.root),
            state: self.absolute("managed_containerd.state", &file.state),
            start_deadline: self.span(
                "managed_containerd.start_deadline",
                file.start_deadline,
                Span::seconds(1),
            ),
            stop_at_exit: file.stop_at_exit,
        };
        if managed.root == managed.state {
            self.broken(
                "managed_containerd.state",
                "must not be managed_containerd.root",
            );
        }
        managed
    }

    fn runtimes(&mut self, whole: &file::File) -> settings::Runtimes {
        let file = &whole.runtimes;
        if !file.handlers.contains_key(&file.default) {
            let known: Vec<&str> = file.handlers.keys().map(String::as_str).collect();
            self.broken(
                "runtimes.default",
                format!(
                    "no handler is called {:?}; the file has {}",
                    file.default,
                    known.join(", ")
                ),
            );
        }
        let handlers = file
            .handlers
            .iter()
            .map(|(name, handler)| (name.clone(), self.handler(name, handler, whole)))
            .collect();
        settings::Runtimes {
            default: file.default.clone(),
            cgroup_driver: file.cgroup_driver,
            handlers,
        }
    }

    fn handler(
        &mut self,
        name: &str,
        file: &file::Handler,
        whole: &file::File,
    ) -> settings::Handler {
        let key = |field: &str| format!("runtimes.handlers.{name}.{field}");
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        if name.is_empty()
            || name.len() > 63
            || !name.bytes().all(|b| inner(&b))
            || name.starts_with('-')
            || name.ends_with('-')
        {
            self.broken(&format!("runtimes.handlers.{name}"), "a handler's name must be a DNS label: lower-case letters, digits and '-', at most 63, as RuntimeClass wants it");
        }
        let binary = file
            .binary
            .as_ref()
            .map(|binary| self.program(&key("binary"), binary));
        // The OCI runtime's state of a managed containerd lies with its other state, apart from the host's.
        let managed = &whole.managed_containerd;
        let managed_root = (managed.enabled && file.runtime_type == settings::RUNC_SHIM)
            .then(|| managed.state.join("runc"));
        settings::Handler {
            runtime_type: self.word(&key("runtime_type"), &file.runtime_type),
            runtime_path: self.optional_absolute(&key("runtime_path"), file.runtime_path.as_ref()),
            binary,
            root: self
                .optional_absolute(&key("root"), file.root.as_ref().or(managed_root.as_ref())),
            no_new_keyring: file.no_new_keyring,
            snapshotter: self.word(
                &key("snapshotter"),
                file.snapshotter
                    .as_deref()
                    .unwrap_or(&whole.containerd.snapshotter),
            ),
            network_first: file.network_first,
            privileged_without_host_devices: file.privileged_without_host_devices,
            privileged_all_devices_allowed: file
                .privileged_without_host_devices_all_devices_allowed,
            pod_annotations: self.patterns(&key("pod_annotations"), &file.pod_annotations),
            container_annotations: self
                .patterns(&key("container_annotations"), &file.container_annotations),
            base_runtime_spec: self
                .optional_absolute(&key("base_runtime_spec"), file.base_runtime_spec.as_ref()),
        }
    }

    fn sandbox(&mut self, file: &file::Sandbox) -> settings::Sandbox {
        settings::Sandbox {
            netns_dir: self.absolute("sandbox.netns_dir", &file.netns_dir),
            pause_image: self.optional_image("sandbox.pause_image", file.pause_image.as_deref()),
            unprivileged_ports: file.enable_unprivileged_ports,
            unprivileged_icmp: file.enable_unprivileged_icmp,
        }
    }

    fn containers(&mut self, file: &file::Containers) -> settings::Containers {
        let profile = file.unset_seccomp_profile.as_str();
        let known = matches!(profile, "" | "unconfined" | "runtime/default")
            || profile
                .strip_prefix("localhost/")
                .is_some_and(|p| !p.is_empty());
        if !known {
            self.broken(
                "containers.unset_seccomp_profile",
                "must be unconfined, runtime/default or localhost/PATH, or empty",
            );
        }
        settings::Containers {
            unset_seccomp_profile: (!profile.is_empty()).then(|| profile.into()),
            disable_apparmor: file.disable_apparmor,
            disable_selinux: file.disable_selinux,
            enable_criu: file.enable_criu,
            enable_restore: file.enable_restore,
            selinux_categories: self.size(
                "containers.selinux_category_range",
                file.selinux_category_range,
                2,
                1_024,
            ),
            exit_diagnosis_in_message: file.exit_diagnosis_in_message,
            device_ownership_from_security_context: file.device_ownership_from_security_context,
            cdi_spec_dirs: self.directories("containers.cdi_spec_dirs", &file.cdi_spec_dirs),
            hooks_dirs: self.directories("containers.hooks_dirs", &file.hooks_dirs),
            blockio_config_file: self.optional_absolute(
                "containers.blockio_config_file",
                file.blockio_config_file.as_ref(),
            ),
            ignore_blockio_not_enabled_errors: file.ignore_blockio_not_enabled_errors,
            rdt_config_file: self
                .optional_absolute("containers.rdt_config_file", file.rdt_config_file.as_ref()),
            ignore_rdt_not_enabled_errors: file.ignore_rdt_not_enabled_errors,
            exec_sync_drain: self.span(
                "containers.exec_sync_drain",
                file.exec_sync_drain,
                Span::millis(1),
            ),
            exec_sync_output_bytes: self.size(
                "containers.exec_sync_output_bytes",
                file.exec_sync_output_bytes,
                1,
                1 << 30,
            ),
            max_execs: self.count("containers.max_execs", file.max_execs),
            max_execs_per_container: self.count(
                "containers.max_execs_per_container",
                file.max_execs_per_container,
            ),
        }
    }

    fn cni(&mut self, file: &file::Cni) -> settings::Cni {
        if file.bin_dirs.is_empty() {
            self.broken("cni.bin_dirs", "must name at least one directory");
        }
        let max_conf_num = NonZeroU32::new(file.max_conf_num).unwrap_or_else(|| {
            self.broken("cni.max_conf_num", "must be at least 1");
            NonZeroU32::MIN
        });
        let second = Span::seconds(1);
        settings::Cni {
            conf_dir: self.absolute("cni.conf_dir", &file.conf_dir),
            bin_dirs: self.directories("cni.bin_dirs", &file.bin_dirs),
            max_conf_num,
            ip_pref: file.ip_pref,
            add_deadline: self.span("cni.add_deadline", file.add_deadline, second),
            del_deadline: self.span("cni.del_deadline", file.del_deadline, second),
        }
    }

    fn operations(&mut self, file: &file::Operations) -> settings::Operations {
        let second = Span::seconds(1);
        settings::Operations {
            ceiling: self.span("operations.ceiling", file.ceiling, second),
            undo_deadline: self.span("operations.undo_deadline", file.undo_deadline, second),
            park_time: self.span("operations.park_time", file.park_time, second),
            reconcile_interval: self.span(
                "operations.reconcile_interval",
                file.reconcile_interval,
                second,
            ),
        }
    }

    /// Rules between tables.
    fn across(&mut self, config: &Config) {
        let server = &config.server;
        if server.socket == config.containerd.address {
            self.broken("server.socket", "must not be containerd's socket");
        }
        if server.root_dir == server.state_dir {
            self.broken("server.state_dir", "must not be server.root_dir");
        }
        if let Some(settings::MetricsAddress::Unix(path)) = &config.metrics.address {
            if *path == server.socket {
                self.broken("metrics.address", "must not be server.socket");
            }
            if config.nri.socket.as_ref() == Some(path) {
                self.broken("metrics.address", "must not be nri.socket");
            }
        }
    }
}
