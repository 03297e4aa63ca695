//! Gathers what specs must know about the node (`model::HostFacts`), and about the paths that mounts name.

use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::apparmor;
use super::cgroup::{Cgroups, Mode};
use super::errno::SysContext;
use super::files::read_capped_blocking;
use super::mounts::{self, MountInfo};
use super::selinux;
use super::survey;
use crate::model::host_facts::{
    Arch, CapabilityMask, CgroupVersion, HostFacts, KernelVersion, SourcePropagation,
};
use crate::model::{Classify, Error, Kind, Pid, Result};

/// Files of `/proc` and `/sys` that are read here are short.
const SMALL: u64 = 64 << 10;
/// What `/proc/<pid>/uid_map` says outside every user namespace, blanks squeezed.
const WHOLE_ID_RANGE: &str = "0 0 4294967295";

/// Looks the node over. `containerd` is the process that containers descend from, found through its socket; what
/// it may do bounds what they may.
///
/// # Errors
/// `NotFound` where that process is gone; otherwise where `/proc` or the cgroups are not readable.
pub fn gather_blocking(containerd: Pid) -> Result<HostFacts> {
    let table = mounts::table_blocking()?;
    let cgroups = Cgroups::discover_blocking()?;
    let names = nix::sys::utsname::uname().sys(|| "ask for the host name".into())?;
    let kernel = survey::kernel_version()?;
    let cgroup = match cgroups.mode() {
        Mode::V1 | Mode::Hybrid => CgroupVersion::V1,
        Mode::V2 => CgroupVersion::V2,
    };
    let uid_map = proc_text(containerd, "uid_map")?;
    Ok(HostFacts {
        hostname: names.nodename().to_string_lossy().into_owned(),
        cgroup,
        cgroup_superblock_options: superblock_options(&table),
        kernel,
        arch: Arch::native(),
        has_seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
            || kernel < KernelVersion::new(4, 14) && own_status_has("Seccomp:"),
        has_apparmor: apparmor::is_usable_blocking(),
        selinux: selinux::contexts_blocking(),
        has_swap_limit: cgroups.has_swap_control_blocking(),
        has_hugetlb: has_hugetlb(&table, cgroup),
        in_user_namespace: !is_whole_range(&uid_map),
        capabilities: bounding_set_blocking(containerd)?,
        oom_score_adj: oom_score_adj_blocking(containerd)?,
    })
}

/// Whether this process is in a user namespace, where some files cannot be made.
pub fn is_in_user_namespace_blocking() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_whole_range(&map))
}

fn is_whole_range(uid_map: &str) -> bool {
    let parts: Vec<&str> = uid_map.split_ascii_whitespace().collect();
    parts.join(" ") == WHOLE_ID_RANGE
}

/// The capabilities that children of `pid` can have: its bounding set.
///
/// # Errors
/// `NotFound` where the process is gone.
pub fn bounding_set_blocking(pid: Pid) -> Result<CapabilityMask> {
    let status = proc_text(pid, "status")?;
    bounding_set(&status)
        .ok_or_else(|| Error::internal(format!("/proc/{pid}/status: no bounding set in it")))
}

// The last: a link to what is not there, which stands in the way of a directory.
fn leads_nowhere(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG | Errno::EEXIST)
    )
}

fn bounding_set(status: &str) -> Option<CapabilityMask> {
    let digits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))?;
    u64::from_str_radix(digits.trim(), 16)
        .ok()
        .map(CapabilityMask)
}

/// The OOM score adjustment of `pid`.
///
/// # Errors
/// `NotFound` where the process is gone.
pub fn oom_score_adj_blocking(pid: Pid) -> Result<i32> {
    let text = proc_text(pid, "oom_score_adj")?;
    text.trim().parse().classify(Kind::Internal, || {
        format!("/proc/{pid}/oom_score_adj: {text:?}")
    })
}

/// Makes the missing host path of a mount as a directory, follows its links, and says which peers its mount point has.
/// The table of mounts is read only where `wants_peers`.
///
/// # Errors
/// `InvalidArgument` where no directory can ever be at the path: it leads below a file or round in circles, or is too
/// long. Otherwise where the path cannot be made or followed.
pub fn mount_source_blocking(
    host_path: &Path,
    wants_peers: bool,
) -> Result<(PathBuf, SourcePropagation)> {
    let what = || format!("host path {} of a mount", host_path.display());
    let resolved = match host_path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(host_path)
            .and_then(|()| std::fs::set_permissions(host_path, Permissions::from_mode(0o755)))
            .and_then(|()| host_path.canonicalize()),
        resolved => resolved,
    };
    let resolved = match resolved {
        Err(error) if leads_nowhere(&error) => {
            return Err(Error::new(Kind::InvalidArgument, what()).caused_by(error));
        }
        resolved => resolved.sys(what)?,
    };
    let peers = if wants_peers {
        let table = mounts::table_blocking()?;
        mounts::containing(&table, &resolved)
            .map_or(SourcePropagation::Private, |mount| mount.propagation.into())
    } else {
        SourcePropagation::Private
    };
    Ok((resolved, peers))
}

impl From<mounts::Propagation> for SourcePropagation {
    fn from(propagation: mounts::Propagation) -> Self {
        match propagation {
            mounts::Propagation::Private => Self::Private,
            mounts::Propagation::Slave => Self::Slave,
            mounts::Propagation::Shared | mounts::Propagation::SlaveAndShared => Self::Shared,
        }
    }
}

fn superblock_options(table: &[MountInfo]) -> Vec<String> {
    let unified = table
        .iter()
        .rfind(|mount| mount.mount_point == Path::new("/sys/fs/cgroup"))
        .filter(|mount| mount.fs_type == "cgroup2");
    let options = unified.map_or("", |mount| mount.super_options.as_str());
    options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(String::from)
        .collect()
}

fn has_hugetlb(table: &[MountInfo], cgroup: CgroupVersion) -> bool {
    match cgroup {
        CgroupVersion::V1 => table.iter().any(|mount| {
            mount.fs_type == "cgroup" && mounts::has_option(&mount.super_options, "hugetlb")
        }),
        CgroupVersion::V2 => table
            .iter()
            .find(|mount| mount.fs_type == "cgroup2")
            .and_then(|mount| {
                std::fs::read_to_string(mount.mount_point.join("cgroup.controllers")).ok()
            })
            .is_some_and(|list| list.split_ascii_whitespace().any(|name| name == "hugetlb")),
    }
}

fn own_status_has(line_start: &str) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with(line_start)))
}

fn proc_text(pid: Pid, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    let bytes = read_capped_blocking(&path, SMALL)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn own_pid() -> Pid {
        Pid(std::process::id())
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = gather_blocking(own_pid()).unwrap();

        assert!(facts.kernel > KernelVersion::new(4, 0));
        assert!(!facts.hostname.is_empty());
        assert!((-1000..=1000).contains(&facts.oom_score_adj));
        assert_eq!(
            facts.capabilities,
            bounding_set_blocking(own_pid()).unwrap()
        );
        if facts.cgroup == CgroupVersion::V1 {
            assert_eq!(facts.cgroup_superblock_options, Vec::<String>::new());
        }
    }

    #[test]
    fn a_process_that_is_gone_is_not_found() {
        let error = gather_blocking(Pid(u32::MAX >> 1)).unwrap_err();

        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn the_bounding_set_is_read_from_its_line() {
        let status = "CapEff:\t0000000000000001\nCapBnd:\t000001fffeffffff\nCapAmb:\t0\n";

        assert_eq!(bounding_set(status), Some(CapabilityMask(0x1ff_feff_ffff)));
        assert_eq!(bounding_set("CapBnd:\tx\n"), None);
        assert_eq!(bounding_set(""), None);
    }

    fn mount(mount_point: &str, fs_type: &str, super_options: &str) -> MountInfo {
        MountInfo {
            root: "/".into(),
            mount_point: mount_point.into(),
            options: "rw".into(),
            propagation: mounts::Propagation::Shared,
            fs_type: fs_type.into(),
            source: "cgroup".into(),
            super_options: super_options.into(),
        }
    }

    #[test]
    fn only_a_cgroup2_at_the_usual_place_has_superblock_options() {
        let unified = mount(
            "/sys/fs/cgroup",
            "cgroup2",
            "rw,nsdelegate,memory_recursiveprot",
        );
        let hybrid = [
            mount("/sys/fs/cgroup", "tmpfs", "rw,mode=755"),
            mount("/sys/fs/cgroup/unified", "cgroup2", "rw,nsdelegate"),
        ];

        assert_eq!(
            superblock_options(&[unified]),
            ["rw", "nsdelegate", "memory_recursiveprot"]
        );
        assert!(superblock_options(&hybrid).is_empty());
    }

    #[test]
    fn the_huge_page_controller_is_found_by_its_v1_mount() {
        let with = [mount("/sys/fs/cgroup/hugetlb", "cgroup", "rw,hugetlb")];
        let without = [mount("/sys/fs/cgroup/memory", "cgroup", "rw,memory")];

        assert!(has_hugetlb(&with, CgroupVersion::V1));
        assert!(!has_hugetlb(&without, CgroupVersion::V1));
    }

    #[test]
    fn a_mount_source_that_can_never_be_is_the_callers_mistake() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        symlink("ring", dir.path().join("ring")).unwrap();
        symlink("nowhere", dir.path().join("dangling")).unwrap();

        for path in [
            "file/below",
            "ring",
            "ring/below",
            "dangling",
            &"x".repeat(300),
        ] {
            let error = mount_source_blocking(&dir.path().join(path), false).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{path}: {error}");
        }
    }

    #[test]
    fn a_missing_mount_source_becomes_a_directory_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        std::fs::create_dir(root.join("real")).unwrap();

        let (made, _) = mount_source_blocking(&root.join("a/b"), true).unwrap();
        let (followed, peers) = mount_source_blocking(&root.join("link"), false).unwrap();

        assert_eq!(made, root.join("a/b"));
        let mode = made.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o755);
        assert_eq!(
            (followed, peers),
            (root.join("real"), SourcePropagation::Private)
        );
    }
}
