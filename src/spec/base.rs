//! The specs that everything starts from. The contract's defaults, spelt out: those of `oci_spec` are other ones.

use oci_spec::runtime::{
    Linux, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Process,
    Root, Spec, User,
};

use super::capabilities;

/// Version of the runtime specification that our specs follow.
const OCI_VERSION: &str = "1.1.0";

const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Destination, type, source and options of the default mounts, in order.
const MOUNTS: [(&str, &str, &str, &str); 6] = [
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    (
        "/dev",
        "tmpfs",
        "tmpfs",
        "nosuid,strictatime,mode=755,size=65536k",
    ),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
    ),
    (
        "/dev/shm",
        "tmpfs",
        "shm",
        "nosuid,noexec,nodev,mode=1777,size=65536k",
    ),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
];

/// The base of both kinds of container: new namespaces but cgroup and user, the default capabilities, mounts and
/// masked paths, `no_new_privs`, every device denied.
pub(super) fn spec() -> Spec {
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(None);
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.into())
        .set_root(Some(root))
        .set_mounts(Some(mounts()))
        .set_process(Some(process()))
        .set_hostname(None)
        .set_annotations(None)
        .set_linux(Some(linux()));
    spec
}

/// An entry of `linux.namespaces`.
pub(super) fn namespace(kind: LinuxNamespaceType, path: Option<String>) -> LinuxNamespace {
    let mut entry = LinuxNamespace::default();
    entry.set_typ(kind).set_path(path.map(Into::into));
    entry
}

/// A rule of the device cgroup about all devices.
pub(super) fn all_devices(allow: bool) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some("rwm".into()));
    rule
}

pub(super) fn masked_paths() -> Vec<String> {
    MASKED_PATHS.map(String::from).to_vec()
}

pub(super) fn readonly_paths() -> Vec<String> {
    READONLY_PATHS.map(String::from).to_vec()
}

/// A mount with options as a comma list.
pub(super) fn mount(destination: &str, kind: &str, source: &str, options: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.split(',').map(String::from).collect()));
    mount
}

fn mounts() -> Vec<Mount> {
    MOUNTS
        .iter()
        .map(|(destination, kind, source, options)| mount(destination, kind, source, options))
        .collect()
}

fn process() -> Process {
    let mut process = Process::default();
    process
        .set_terminal(None)
        .set_user(User::default())
        .set_args(None)
        .set_env(None)
        .set_cwd("/".into())
        .set_no_new_privileges(Some(true))
        .set_capabilities(Some(capabilities::DEFAULT.to_oci()))
        .set_rlimits(None);
    process
}

fn linux() -> Linux {
    use LinuxNamespaceType::{Ipc, Mount, Network, Pid, Uts};
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![all_devices(false)]));
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources))
        .set_namespaces(Some(
            [Pid, Ipc, Uts, Mount, Network]
                .map(|kind| namespace(kind, None))
                .to_vec(),
        ))
        .set_masked_paths(Some(masked_paths()))
        .set_readonly_paths(Some(readonly_paths()));
    linux
}
