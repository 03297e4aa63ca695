//! Control groups of the host, v1, v2 and both at once, behind one type: who lives in a group, ending them all, and
//! whether the kernel killed one of them.
//!
//! A container's group is found in every hierarchy that knows its path, but one where the path is the hierarchy's root
//! is never touched: a process that a runtime did not move there shares it with the whole host.

mod files;
mod members;
mod memory;

use std::path::{Component, Path, PathBuf};

pub use files::GroupFiles;
pub use members::Cgroup;

use super::errno::SysContext;
use super::mounts::{self, MountInfo};
use crate::model::{Error, Pid, Result};

/// Which generation of control groups a host runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Controllers in hierarchies of their own.
    V1,
    /// One hierarchy for all.
    V2,
    /// Controllers as in v1, and an empty v2 hierarchy beside them.
    Hybrid,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Controllers, or `name=…`; empty for v2.
    controllers: Vec<String>,
    mount_point: PathBuf,
    /// What of the hierarchy is visible at the mount point: `/` except inside a container.
    root: PathBuf,
    /// Groups of it count only their own events, not those below them.
    has_local_events: bool,
}

impl Hierarchy {
    fn of_mount(mount: &MountInfo) -> Option<Self> {
        let controllers = match mount.fs_type.as_str() {
            "cgroup2" => Vec::new(),
            "cgroup" => controllers_in(&mount.super_options),
            _ => return None,
        };
        Some(Self {
            controllers,
            mount_point: mount.mount_point.clone(),
            root: mount.root.clone(),
            has_local_events: mount
                .super_options
                .split(',')
                .any(|option| option == "memory_localevents"),
        })
    }

    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }

    /// The directory of group `path`; `None` for the root, for what is not visible, and for names that climb.
    fn dir_of(&self, path: &Path) -> Option<PathBuf> {
        let below = path
            .strip_prefix(&self.root)
            .or_else(|_not_below| path.strip_prefix("/"))
            .ok()?;
        let mut components = below.components().peekable();
        components.peek()?;
        components
            .all(|component| matches!(component, Component::Normal(_)))
            .then(|| self.mount_point.join(below))
    }
}

const NOT_CONTROLLERS: [&str; 5] = ["rw", "ro", "xattr", "noprefix", "clone_children"];

/// The controllers in a comma-separated list, in an order of their own.
fn controllers_in(list: &str) -> Vec<String> {
    let mut controllers: Vec<String> = list
        .split(',')
        .filter(|name| !name.is_empty() && !NOT_CONTROLLERS.contains(name))
        .filter(|name| !name.starts_with("release_agent="))
        .map(str::to_owned)
        .collect();
    controllers.sort_unstable();
    controllers
}

/// The hierarchies of this host as mounted now.
#[derive(Clone, Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    /// Finds the mounted hierarchies.
    ///
    /// # Errors
    /// `FailedPrecondition` where none is mounted.
    pub fn discover_blocking() -> Result<Self> {
        Self::of_table(&mounts::table_blocking()?)
    }

    /// A v2 hierarchy at `dir`, which the test plays.
    #[cfg(test)]
    pub(crate) fn played(dir: &Path) -> Self {
        Self::of_table(&[tests::mount("cgroup2", &dir.to_string_lossy(), "/", "rw")]).unwrap()
    }

    /// Hierarchies of v1 below `dir`, one for each of `controllers`, which the test plays.
    #[cfg(test)]
    pub(crate) fn played_v1(dir: &Path, controllers: &[&str]) -> Self {
        let mount =
            |name: &&str| tests::mount("cgroup", &dir.join(name).to_string_lossy(), "/", name);
        Self::of_table(&controllers.iter().map(mount).collect::<Vec<_>>()).unwrap()
    }

    fn of_table(table: &[MountInfo]) -> Result<Self> {
        let hierarchies: Vec<Hierarchy> = table.iter().filter_map(Hierarchy::of_mount).collect();
        if hierarchies.is_empty() {
            return Err(Error::precondition(
                "no control groups are mounted; mount them at /sys/fs/cgroup",
            ));
        }
        Ok(Self { hierarchies })
    }

    /// Which generation this host runs.
    pub fn mode(&self) -> Mode {
        let v2 = self.hierarchies.iter().any(Hierarchy::is_v2);
        let v1 = self.hierarchies.iter().any(|hierarchy| !hierarchy.is_v2());
        match (v1, v2) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V1,
            (false, _) => Mode::V2,
        }
    }

    /// Whether limits on swap can be set: the group of this process (v2) or the root (v1) has the file for it.
    pub fn has_swap_control_blocking(&self) -> bool {
        if let Some(memory) = self.hierarchies.iter().find(|one| one.has("memory")) {
            return memory
                .mount_point
                .join("memory.memsw.limit_in_bytes")
                .exists();
        }
        let own = own_lines_blocking("self").unwrap_or_default();
        let path = own.iter().find(|line| line.controllers.is_empty());
        match (self.v2(), path) {
            (Some(v2), Some(line)) => v2
                .dir_of(&line.path)
                .is_some_and(|dir| dir.join("memory.swap.max").exists()),
            _ => false,
        }
    }

    fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.is_v2())
    }

    /// The directory of group `path` that holds the files of `controller`; with v2 the one directory of the group.
    /// `None` where the controller is not there or `path` is the root.
    pub fn controller_dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        self.hierarchies
            .iter()
            .find(|hierarchy| hierarchy.has(controller))
            .or_else(|| self.v2())
            .and_then(|hierarchy| hierarchy.dir_of(Path::new(path)))
    }

    /// The group at `path` (as `/kubepods/pod1/<id>`), in every hierarchy.
    pub fn at(&self, path: &str) -> Cgroup {
        let path = Path::new(path);
        let dirs = self
            .hierarchies
            .iter()
            .filter_map(|hierarchy| hierarchy.dir_of(path));
        Cgroup::new(dirs.collect())
    }

    /// The groups that process `pid` is in, as far as a component of their path contains `owner` (the container's id):
    /// where the runtime left the process in a group of someone else, that group is not the container's.
    ///
    /// # Errors
    /// `NotFound` where the process is gone.
    pub fn of_process_blocking(&self, pid: Pid, owner: &str) -> Result<Cgroup> {
        let lines = own_lines_blocking(&pid.to_string())?;
        let dirs = self.hierarchies.iter().filter_map(|hierarchy| {
            let line = lines
                .iter()
                .find(|line| line.controllers == hierarchy.controllers)?;
            line.is_owned_by(owner)
                .then(|| hierarchy.dir_of(&line.path))
                .flatten()
        });
        Ok(Cgroup::new(dirs.collect()))
    }
}

/// A line of `/proc/<pid>/cgroup`: in one hierarchy, where the process is.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    controllers: Vec<String>,
    path: PathBuf,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let (_id, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some(Self {
            controllers: controllers_in(controllers),
            path: path.into(),
        })
    }

    fn is_owned_by(&self, owner: &str) -> bool {
        !owner.is_empty()
            && self.path.components().any(|component| {
                matches!(component, Component::Normal(name) if name.to_string_lossy().contains(owner))
            })
    }
}

fn own_lines_blocking(pid: &str) -> Result<Vec<Line>> {
    let path = format!("/proc/{pid}/cgroup");
    let text = std::fs::read_to_string(&path).sys(|| format!("read {path}"))?;
    Ok(text.lines().filter_map(Line::parse).collect())
}

/// The path below the hierarchies that a runtime makes of `cgroupsPath`: `slice:prefix:name` (systemd) becomes the
/// nested slices and the scope in them, anything else is a path already.
pub fn path_of(cgroups_path: &str) -> String {
    let mut parts = cgroups_path.splitn(3, ':');
    let (Some(slice), Some(prefix), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return cgroups_path.to_owned();
    };
    let scope = match (prefix, name.ends_with(".slice")) {
        (_, true) => name.to_owned(),
        ("", false) => format!("{name}.scope"),
        (prefix, false) => format!("{prefix}-{name}.scope"),
    };
    format!("{}/{scope}", expand_slice(slice))
}

/// The path of the group that a pod's `cgroup_parent` names, which systemd spells by the last slice alone; `None` where
/// it names none.
pub fn path_of_parent(parent: &str) -> Option<String> {
    let path = parent.trim_end_matches('/');
    match path.rsplit('/').next()? {
        "" => None,
        slice if slice.ends_with(".slice") => Some(expand_slice(slice)),
        _ => Some(path.to_owned()),
    }
}

/// `a-b.slice` lies in `a.slice`: `/a.slice/a-b.slice`.
fn expand_slice(slice: &str) -> String {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = String::new();
    if stem.is_empty() || stem == "-" {
        return path;
    }
    let ends = stem.match_indices('-').map(|(at, _dash)| at);
    for end in ends.chain([stem.len()]) {
        path.push('/');
        path.push_str(stem.get(..end).unwrap_or(stem));
        path.push_str(".slice");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::mounts::Propagation;
    use super::*;

    pub(super) fn mount(
        fs_type: &str,
        mount_point: &str,
        root: &str,
        super_options: &str,
    ) -> MountInfo {
        MountInfo {
            root: root.into(),
            mount_point: mount_point.into(),
            options: "rw".into(),
            propagation: Propagation::Private,
            fs_type: fs_type.into(),
            source: fs_type.into(),
            super_options: super_options.into(),
        }
    }

    fn hybrid() -> Cgroups {
        Cgroups::of_table(&[
            mount("proc", "/proc", "/", "rw"),
            mount("cgroup", "/cg/cpu,cpuacct", "/", "rw,cpu,cpuacct"),
            mount(
                "cgroup",
                "/cg/systemd",
                "/",
                "rw,xattr,release_agent=/x,name=systemd",
            ),
            mount("cgroup2", "/cg/unified", "/", "rw,nsdelegate"),
        ])
        .unwrap()
    }

    #[test]
    fn the_mounts_tell_the_generation() {
        let of = |table: &[MountInfo]| Cgroups::of_table(table).map(|found| found.mode());

        assert_eq!(hybrid().mode(), Mode::Hybrid);
        assert_eq!(of(&[mount("cgroup2", "/cg", "/", "rw")]).unwrap(), Mode::V2);
        assert_eq!(
            of(&[mount("cgroup", "/cg", "/", "rw,memory")]).unwrap(),
            Mode::V1
        );
        assert!(of(&[]).is_err());
    }

    #[test]
    fn a_group_has_a_directory_in_each_hierarchy_and_the_root_has_none() {
        let cgroups = hybrid();
        let dirs = |path: &str| cgroups.at(path).dirs().to_vec();

        assert_eq!(
            dirs("/pod/c1"),
            [
                "/cg/cpu,cpuacct/pod/c1",
                "/cg/systemd/pod/c1",
                "/cg/unified/pod/c1"
            ]
            .map(PathBuf::from)
        );
        for refused in ["/", "", "/..", "/a/../..", "relative"] {
            assert_eq!(dirs(refused), Vec::<PathBuf>::new(), "{refused:?}");
        }
        let cpu = cgroups.controller_dir("cpuacct", "/pod/c1").unwrap();
        assert_eq!(cpu, Path::new("/cg/cpu,cpuacct/pod/c1"));
        let other = cgroups.controller_dir("memory", "/pod/c1").unwrap();
        assert_eq!(other, Path::new("/cg/unified/pod/c1"));
    }

    #[test]
    fn inside_a_container_paths_count_from_what_is_visible() {
        let table = [mount("cgroup2", "/cg", "/outer", "rw")];
        let cgroups = Cgroups::of_table(&table).unwrap();
        assert_eq!(cgroups.at("/outer/c1").dirs(), [PathBuf::from("/cg/c1")]);
        assert!(cgroups.at("/outer").dirs().is_empty());
    }

    #[test]
    fn only_paths_that_name_the_owner_are_its_own() {
        let line = |text: &str| Line::parse(text).unwrap();
        assert_eq!(line("0::/a").controllers, Vec::<String>::new());
        assert_eq!(line("4:cpuacct,cpu:/a").controllers, ["cpu", "cpuacct"]);

        assert!(line("4:memory:/kubepods/pod1/c1").is_owned_by("c1"));
        assert!(line("0::/a.slice/cri-containerd-c1.scope").is_owned_by("c1"));
        for foreign in ["4:memory:/system.slice/containerd.service", "5:pids:/"] {
            assert!(!line(foreign).is_owned_by("c1"), "{foreign}");
        }
        assert!(!line("4:memory:/a").is_owned_by(""));
    }

    #[test]
    fn systemd_forms_become_paths() {
        for (form, path) in [
            ("/kubepods/pod1/c1", "/kubepods/pod1/c1"),
            ("a-b.slice:cri:c1", "/a.slice/a-b.slice/cri-c1.scope"),
            ("system.slice::c1", "/system.slice/c1.scope"),
            ("-.slice:cri:c1", "/cri-c1.scope"),
            ("a.slice:cri:a-b.slice", "/a.slice/a-b.slice"),
        ] {
            assert_eq!(path_of(form), path, "{form}");
        }
    }

    #[test]
    fn the_group_of_a_pod_is_its_parent() {
        for (parent, path) in [
            ("/kubepods/burstable/pod1", Some("/kubepods/burstable/pod1")),
            ("/kubepods/pod1/", Some("/kubepods/pod1")),
            ("/test.slice", Some("/test.slice")),
            ("/a.slice/a-b.slice", Some("/a.slice/a-b.slice")),
            ("a-b.slice", Some("/a.slice/a-b.slice")),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(path_of_parent(parent).as_deref(), path, "{parent}");
        }
    }

    #[test]
    fn this_host_is_understood() {
        let cgroups = Cgroups::discover_blocking().unwrap();
        let own = Pid(std::process::id());
        let nobody = cgroups.of_process_blocking(own, "no-such-owner").unwrap();
        assert!(nobody.dirs().is_empty());
        assert!(
            !cgroups.has_swap_control_blocking()
                || cgroups.controller_dir("memory", "/x").is_some()
        );
    }
}
