//! Fields whose effect is not in the OCI spec.

use std::fs;
use std::path::Path;

/// A field, or all below it.
pub(super) struct Row {
    pub(super) field: &'static str,
    pub(super) where_it_acts: &'static str,
    /// A test function, or a case of `tests/it`.
    pub(super) test: &'static str,
}

impl Row {
    /// Whether the row is about the field at `path`.
    pub(super) fn covers(&self, path: &str) -> bool {
        let below = path.strip_prefix(self.field);
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

const fn row(field: &'static str, where_it_acts: &'static str, test: &'static str) -> Row {
    Row {
        field,
        where_it_acts,
        test,
    }
}

pub(super) const ROWS: &[Row] = &[
    row(
        "PodSandboxConfig.metadata.attempt",
        "names the pod: another attempt is another sandbox",
        "join.names_are_not_mixed_up",
    ),
    row(
        "PodSandboxConfig.dns_config",
        "the pod's resolv.conf",
        "resolv_conf_has_a_line_for_each_kind_that_is_asked",
    ),
    row(
        "PodSandboxConfig.port_mappings",
        "handed to the network plugins",
        "network.a_host_port_leads_into_the_pod",
    ),
    row(
        "PodSandboxConfig.labels",
        "status, lists and their filters",
        "sandbox.is_found_by_every_filter",
    ),
    row(
        "PodSandboxConfig.annotations",
        "status; the spec where the handler's patterns let them through",
        "cgroup_paths_and_annotations",
    ),
    row(
        "PodSandboxConfig.linux.security_context.namespace_options.target_id",
        "a target is for containers; a pod in mode TARGET is refused",
        "requests_that_make_no_pod_are_refused",
    ),
    row(
        "PodSandboxConfig.linux.security_context.selinux_options",
        "the label, which is reserved before the spec is made",
        "privileged_with_labels",
    ),
    row(
        "PodSandboxConfig.linux.security_context.readonly_rootfs",
        "the pause program's root is read-only always",
        "plain",
    ),
    row(
        "PodSandboxConfig.linux.security_context.supplemental_groups_policy",
        "no image gives groups to the pause program; containers have a policy of their own",
        "strict_groups_leave_the_images_out_and_keep_the_primary_one",
    ),
    row(
        "PodSandboxConfig.linux.security_context.apparmor",
        "the pause program has no profile, with the peer as here",
        "parity",
    ),
    row(
        "PodSandboxConfig.linux.overhead",
        "kubelet owns the pod's cgroup; shown in verbose info and given to NRI",
        "verbose_info_is_one_json_object_with_the_stored_texts_inside",
    ),
    row(
        "PodSandboxConfig.linux.resources",
        "as the overhead",
        "verbose_info_is_one_json_object_with_the_stored_texts_inside",
    ),
    row(
        "PodSandboxConfig.windows",
        "means nothing on Linux, with the peer as here",
        "parity",
    ),
    row(
        "ContainerConfig.metadata.attempt",
        "names the container: another attempt is another container",
        "join.names_are_not_mixed_up",
    ),
    row(
        "ContainerConfig.image.image",
        "which image it runs; one that is not there is refused",
        "refused.containers_that_cannot_be",
    ),
    row(
        "ContainerConfig.image.annotations",
        "about a pull, not about a container, with the peer as here",
        "parity",
    ),
    row(
        "ContainerConfig.image.runtime_handler",
        "about a pull, not about a container, with the peer as here",
        "parity",
    ),
    row(
        "ContainerConfig.image.image_ref",
        "about a pull, not about a container, with the peer as here",
        "parity",
    ),
    row(
        "ContainerConfig.mounts.selinux_relabel",
        "the files of the volume, on nodes with SELinux",
        "mounts",
    ),
    row(
        "ContainerConfig.mounts.image",
        "what stands behind the mount's source",
        "volume.shows_an_image_and_takes_no_writes",
    ),
    row(
        "ContainerConfig.mounts.image_sub_path",
        "what stands behind the mount's source",
        "volume.shows_an_image_and_takes_no_writes",
    ),
    row(
        "ContainerConfig.labels",
        "status, lists and their filters",
        "a_container_record_reads_back",
    ),
    row(
        "ContainerConfig.annotations",
        "status; the spec where the handler's patterns let them through",
        "cgroup_paths_and_annotations",
    ),
    row(
        "ContainerConfig.log_path",
        "where the log is written",
        "the_path_is_directory_and_log_path",
    ),
    row(
        "ContainerConfig.CDI_devices",
        "edits of the spec that the devices room looks up",
        "devices_come_from_the_field_then_from_annotations_by_key_each_once",
    ),
    row(
        "ContainerConfig.stdin_once",
        "what attach does at the end of its standard input",
        "parity",
    ),
    row(
        "ContainerConfig.stdin",
        "the task's standard input, which attach opens",
        "parity",
    ),
    row(
        "ContainerConfig.linux.security_context.capabilities.add_ambient_capabilities",
        "ambient capabilities would survive an exec: never given, with the peers as here",
        "inheritable_and_ambient_stay_empty",
    ),
    row(
        "ContainerConfig.linux.security_context.namespace_options.network",
        "a container is in its pod's network",
        "the_pods_network_mode_leaves_joined_namespaces_alone",
    ),
    row(
        "ContainerConfig.linux.security_context.namespace_options.ipc",
        "a container shares its pod's IPC",
        "sandbox.containers_share_what_a_pod_shares",
    ),
    row(
        "ContainerConfig.linux.security_context.namespace_options.target_id",
        "whose PID namespace is joined, in mode TARGET",
        "pid_modes",
    ),
    row(
        "ContainerConfig.linux.security_context.selinux_options",
        "the label, which is reserved before the spec is made",
        "options_replace_the_parts_they_name",
    ),
    row(
        "ContainerConfig.windows",
        "means nothing on Linux, with the peer as here",
        "parity",
    ),
    row(
        "ContainerConfig.stop_signal",
        "what the stop sends first",
        "container.stop_signals_then_kills",
    ),
];

/// The text of everything that has tests.
pub(super) fn test_sources() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text += &fs::read_to_string(path).expect("a source");
            }
        }
    }
    text
}
