//! The host: who runs us, network, control groups, kernel, socket, space, and records that stay behind.

use super::Check;
use super::facts::{Facts, Occupant};
use crate::container::Criu;
use crate::devices::BrokenFile;
use crate::model::host_facts::{CgroupDriver, KernelVersion};
use crate::sys::cgroup::Mode;

const GIB: u64 = 1 << 30;

pub(super) fn user(facts: &Facts) -> Check {
    if facts.is_root {
        Check::ok("user", "root")
    } else {
        Check::fail("user", "not root", "run podwright and this check as root")
    }
}

pub(super) fn network(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "pod network";
    match &facts.networks {
        Err(error) => vec![Check::warn(
            NAME,
            error,
            "install a network plugin's configuration (most clusters do it by themselves once the node has joined); until \
             then only pods on the host's network run",
        )],
        Ok(networks) => networks
            .iter()
            .map(|network| match network.broken_plugins.as_slice() {
                [] => Check::ok(NAME, format!("{}: configuration and plugins are there", network.name)),
                broken => Check::fail(
                    NAME,
                    format!("{}: {}", network.name, broken.join("; ")),
                    "install the plugins (Debian: containernetworking-plugins), or set cni.bin_dirs",
                ),
            })
            .collect(),
    }
}

pub(super) fn cgroups(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "control groups";
    let mode = match &facts.cgroups {
        Ok(mode) => *mode,
        Err(error) => return vec![Check::fail(NAME, error, "mount them at /sys/fs/cgroup")],
    };
    let driver = match facts.cgroup_driver {
        CgroupDriver::Systemd => "systemd",
        CgroupDriver::Cgroupfs => "cgroupfs",
    };
    let version = match mode {
        Mode::V1 => "version 1",
        Mode::V2 => "version 2",
        Mode::Hybrid => "version 1 with an empty version 2 beside it",
    };
    let found = format!("{version}, made by {driver}");
    let mut checks = Vec::new();
    if facts.cgroup_driver == CgroupDriver::Systemd && !facts.is_systemd_booted {
        checks.push(Check::fail(
            NAME,
            format!("{found}, but this host was not booted with systemd"),
            "set runtimes.cgroup_driver to auto or cgroupfs",
        ));
    } else if mode == Mode::Hybrid && facts.handlers.iter().any(|handler| handler.runs("crun")) {
        checks.push(Check::warn(
            NAME,
            format!("{found}; crun refuses such a host"),
            "boot with systemd.unified_cgroup_hierarchy=1, unmount /sys/fs/cgroup/unified, or use runc only",
        ));
    } else {
        checks.push(Check::ok(NAME, found));
    }
    if !facts.missing_controllers.is_empty() {
        checks.push(Check::fail(
            NAME,
            format!("no controller {}", facts.missing_controllers.join(", ")),
            "enable it on the kernel's command line (for memory: cgroup_enable=memory)",
        ));
    }
    checks
}

pub(super) fn kernel(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "kernel";
    let mut checks = Vec::new();
    match &facts.kernel {
        Err(error) => checks.push(Check::warn(NAME, error, "run uname -r")),
        Ok(version) => {
            let found = format!("{}.{}", version.major, version.minor);
            if *version < KernelVersion::new(5, 12) {
                let lacks = format!("{found}: no recursive read-only mounts, no id-mapped mounts");
                checks.push(Check::warn(
                    NAME,
                    lacks,
                    "upgrade it to 5.12 or later for these",
                ));
            } else {
                checks.push(Check::ok(NAME, found));
            }
        }
    }
    for (call, outcome, since) in [
        ("openat2", &facts.openat2, "5.6"),
        ("pidfd_open", &facts.pidfd, "5.3"),
    ] {
        checks.push(match outcome {
            Ok(()) => Check::ok(call, "works"),
            Err(error) => Check::fail(
                call,
                error,
                format!("it needs Linux {since}, and a seccomp filter that lets it through"),
            ),
        });
    }
    checks.push(match facts.has_overlayfs {
        true => Check::ok("overlayfs", "known to the kernel"),
        false => Check::warn(
            "overlayfs",
            "not known to the kernel yet",
            "modprobe overlay, or use another snapshotter",
        ),
    });
    checks
}

pub(super) fn socket(facts: &Facts) -> Check {
    const NAME: &str = "socket";
    let path = facts.socket.display();
    match &facts.occupant {
        Occupant::Nobody => Check::ok(NAME, format!("{path} is free")),
        Occupant::Server => Check::ok(NAME, format!("{path} answers")),
        Occupant::Stale => Check::ok(
            NAME,
            format!("{path} was left behind; the next start replaces it"),
        ),
        Occupant::NoSocket => Check::fail(
            NAME,
            format!("{path} is no socket"),
            "remove it, or set server.socket",
        ),
        Occupant::Unknown(error) => Check::fail(NAME, error, "look at the path and its directory"),
    }
}

pub(super) fn space(facts: &Facts) -> Vec<Check> {
    let judge = |(path, space): &(
        std::path::PathBuf,
        Result<crate::sys::survey::Space, String>,
    )| {
        let title = format!("space at {}", path.display());
        let remedy = "free some: crictl rmi --prune removes unused images";
        let space = match space {
            Ok(space) => space,
            Err(error) => return Check::warn(title, error, "make the directory readable for root"),
        };
        let percent = space.free_bytes.saturating_mul(100) / space.total_bytes.max(1);
        let found = format!("{} MiB free, {percent} %", space.free_bytes >> 20);
        match () {
            () if space.free_bytes < 64 << 20 || space.free_inodes == Some(0) => {
                Check::fail(title, found, remedy)
            }
            () if space.free_bytes < GIB && percent < 10
                || space.free_inodes.is_some_and(|inodes| inodes < 10_000) =>
            {
                Check::warn(title, found, remedy)
            }
            () => Check::ok(title, found),
        }
    };
    facts.spaces.iter().map(judge).collect()
}

pub(super) fn project_quotas(facts: &Facts) -> Vec<Check> {
    let judge = |(snapshotter, counted): &(String, Result<bool, String>)| {
        let title = format!("project quotas of {snapshotter}");
        match counted {
            Ok(true) => Check::ok(
                title,
                "the file system counts what writable layers take: exact and at once",
            ),
            Ok(false) => Check::ok(
                title,
                "not on this file system: writable layers are walked (ext4 and XFS mounted with prjquota would count them)",
            ),
            Err(error) => Check::warn(
                title,
                error,
                "run this check as root of the host, or set stats.project_quotas = false",
            ),
        }
    };
    facts.project_quotas.iter().map(judge).collect()
}

pub(super) fn registries(facts: &Facts) -> Vec<Check> {
    facts
        .broken_hosts_files
        .iter()
        .map(|(path, reason)| {
            Check::warn(
                "registry hosts",
                format!("{}: {reason}", path.display()),
                "correct the file: until then its mirrors are off, or pulls from its registry fail",
            )
        })
        .collect()
}

pub(super) fn verifiers(facts: &Facts) -> Vec<Check> {
    let programs = facts.broken_verifiers.iter();
    programs
        .map(|(_program, reason)| {
            Check::warn(
                "image verifiers",
                reason,
                "install the program, executable and writable by root alone: until then it refuses every image whose reference it is asked about",
            )
        })
        .collect()
}

pub(super) fn interrupted(facts: &Facts) -> Option<Check> {
    const NAME: &str = "interrupted pulls";
    let found = facts.interrupted.filter(|found| found.pulls > 0)?;
    let said = format!(
        "{} pulls that run or were cut off, {} MiB of blobs that are not complete",
        found.pulls,
        found.bytes >> 20
    );
    Some(match found.overdue {
        0 => Check::ok(NAME, said),
        late => Check::warn(
            NAME,
            format!("{said}; {late} are a day old and nobody took them away"),
            "see that podwright runs; podwright image prune takes them away now",
        ),
    })
}

pub(super) fn selinux(facts: &Facts) -> Option<Check> {
    const NAME: &str = "SELinux";
    Some(match facts.selinux? {
        true => Check::ok(NAME, "containers get labels of the policy"),
        false => Check::warn(
            NAME,
            "it is on, and its policy has no labels for containers: they run with the label of containerd's shims",
            "install the policy for containers (container-selinux), or set containers.disable_selinux = true",
        ),
    })
}

pub(super) fn checkpoints(facts: &Facts) -> Option<Check> {
    const NAME: &str = "checkpoints";
    Some(match facts.criu.as_ref()? {
        Criu::Works(version) if facts.restores => Check::ok(
            NAME,
            format!(
                "criu {version}; containers.enable_restore is on: whoever can have a checkpoint restored owns this node"
            ),
        ),
        Criu::Works(version) => Check::ok(NAME, format!("criu {version}")),
        Criu::Missing if facts.restores => Check::warn(
            NAME,
            "containers.enable_restore is on, and criu is not installed",
            "install criu, or set containers.enable_restore = false",
        ),
        Criu::Missing => Check::ok(
            NAME,
            "criu is not installed: CheckpointContainer is answered as unimplemented",
        ),
        unfit => Check::warn(
            NAME,
            unfit.obstacle().unwrap_or_default(),
            "install a criu that fits this kernel, or set containers.enable_criu = false",
        ),
    })
}

pub(super) fn device_files(facts: &Facts) -> Vec<Check> {
    let judge = |title: &'static str, files: &[BrokenFile], remedy: &'static str| {
        let one = |file: &BrokenFile| {
            let found = format!("{}: {}", file.path.display(), file.reason);
            Check::warn(title, found, remedy)
        };
        files.iter().map(one).collect::<Vec<_>>()
    };
    let mut checks = judge(
        "CDI specification",
        &facts.broken_cdi_files,
        "correct the file, or whatever writes it: until then containers that ask for its devices are refused",
    );
    checks.extend(judge(
        "OCI hook",
        &facts.broken_hook_files,
        "correct the file: until then containers run without its hook",
    ));
    checks
}

pub(super) fn classes(facts: &Facts) -> Vec<Check> {
    const BLOCK_IO: &str = "block I/O classes";
    let listed = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let of_file = |title: &'static str, found: &std::result::Result<Vec<String>, String>| {
        match found {
            Ok(names) => Check::ok(title, listed(names)),
            Err(error) => Check::warn(
                title,
                error,
                "correct the file, or give the node what it lacks: until then containers that name a class are refused",
            ),
        }
    };
    let known = &facts.classes;
    let block_io = known.block_io.as_ref();
    let rdt = known.rdt_file.as_ref();
    let groups = known.rdt.as_ref();
    [
        block_io.map(|found| of_file(BLOCK_IO, found)),
        rdt.map(|found| of_file("cache classes (RDT)", found)),
        groups.map(|names| Check::ok("groups of resctrl (RDT)", listed(names))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn plugins(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "NRI plugins";
    let mut checks: Vec<Check> = facts
        .no_plugins
        .iter()
        .map(|(path, reason)| {
            Check::warn(
                NAME,
                format!("{}: {reason}", path.display()),
                "rename or remove the file: it is not started",
            )
        })
        .collect();
    if let Some((path, Occupant::Server)) = &facts.nri_socket {
        checks.push(Check::warn(
            NAME,
            format!("another runtime answers on {}", path.display()),
            "switch its NRI off (containerd: disable of plugins.\"io.containerd.nri.v1.nri\"), or set nri.socket to another path",
        ));
    }
    checks
}

pub(super) fn records(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "records";
    let mut checks = Vec::new();
    for leftover in &facts.leftovers {
        checks.push(Check::warn(
            NAME,
            format!(
                "{} {} has been half made or half removed for {} s; still there: {}",
                leftover.kind,
                leftover.id,
                leftover.age.as_secs(),
                leftover.steps.join(", ")
            ),
            "a running podwright takes it back again and again; its log names what is in the way",
        ));
    }
    for path in &facts.unreadable {
        checks.push(Check::warn(
            NAME,
            format!("{} cannot be read", path.display()),
            "look what it was about, then remove it",
        ));
    }
    if let Some(error) = &facts.records_error {
        checks.push(Check::warn(NAME, error, "run this check as root"));
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, "nothing is left half made"));
    }
    checks
}
