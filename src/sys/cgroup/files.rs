//! The files of one control group, read as they are: what they mean is for the reader to say.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::{Cgroups, Hierarchy};
use crate::model::Pid;

/// More than any file of a group has that is read whole; the rest of a longer one is left.
const READ_MAX: u64 = 1 << 20;
/// Processes of one group that are listed, at most.
const PROCESSES_MAX: usize = 100_000;

/// Where the files of one control group lie, in each hierarchy that it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFiles {
    unified: Option<PathBuf>,
    /// Controller and directory, v1 only.
    own: Vec<(String, PathBuf)>,
}

impl Cgroups {
    /// The files of group `path`; the root of a hierarchy has none.
    pub fn files(&self, path: &str) -> GroupFiles {
        let path = Path::new(path);
        let mut files = GroupFiles {
            unified: self.v2().and_then(|hierarchy| hierarchy.dir_of(path)),
            own: Vec::new(),
        };
        for hierarchy in self.hierarchies.iter().filter(|one| !one.is_v2()) {
            files.add(hierarchy, path);
        }
        files
    }
}

impl GroupFiles {
    fn add(&mut self, hierarchy: &Hierarchy, path: &Path) {
        let Some(dir) = hierarchy.dir_of(path) else {
            return;
        };
        let controllers = hierarchy.controllers.iter();
        self.own
            .extend(controllers.map(|controller| (controller.clone(), dir.clone())));
    }

    /// Whether the files of `controller` are those of v1.
    pub fn is_v1(&self, controller: &str) -> bool {
        self.own.iter().any(|(own, _)| own == controller)
    }

    /// The directory with the files of `controller`.
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        let own = self.own.iter().find(|(own, _)| own == controller);
        own.map(|(_, dir)| dir)
            .or(self.unified.as_ref())
            .map(PathBuf::as_path)
    }

    /// What file `name` of `controller` says now. `None` where it is not there, cannot be read (kernels without
    /// pressure information show its files and refuse to read them), or the group goes meanwhile.
    pub fn read_blocking(&self, controller: &str, name: &str) -> Option<String> {
        read_blocking(&self.dir(controller)?.join(name))
    }

    /// The names of the files of `controller`; empty where the group is gone.
    pub fn names_blocking(&self, controller: &str) -> Vec<String> {
        let entries = self.dir(controller).map(std::fs::read_dir);
        let Some(Ok(entries)) = entries else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.into_string().ok()).collect()
    }

    /// The processes in the group and in groups below it, as the hierarchy of `controller` has them; zombies too.
    pub fn processes_blocking(&self, controller: &str) -> Vec<Pid> {
        let mut pids = Vec::new();
        let mut pending: Vec<PathBuf> = self
            .dir(controller)
            .map(Path::to_owned)
            .into_iter()
            .collect();
        while let Some(dir) = pending.pop() {
            let text = read_blocking(&dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid));
            if pids.len() > PROCESSES_MAX {
                break;
            }
            let Ok(entries) = std::fs::read_dir(&dir) else {
                continue;
            };
            let below = entries.flatten();
            pending.extend(
                below
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        pids
    }
}

fn read_blocking(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    let mut bytes = Vec::with_capacity(4096);
    file.take(READ_MAX).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::mount;
    use super::*;

    #[test]
    fn a_controller_is_read_where_it_is_mounted() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for dir in ["cpu,cpuacct/a", "unified/a/below"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        std::fs::write(at("cpu,cpuacct/a/cpuacct.usage"), "7\n").unwrap();
        std::fs::write(at("unified/a/cpuacct.usage"), "8\n").unwrap();
        std::fs::write(at("unified/a/memory.current"), "9\n").unwrap();
        std::fs::write(at("unified/a/cgroup.procs"), "1\n2\n").unwrap();
        std::fs::write(at("unified/a/below/cgroup.procs"), "3\n").unwrap();
        let cgroups = Cgroups::of_table(&[
            mount(
                "cgroup",
                at("cpu,cpuacct").to_str().unwrap(),
                "/",
                "rw,cpu,cpuacct",
            ),
            mount("cgroup2", at("unified").to_str().unwrap(), "/", "rw"),
        ])
        .unwrap();

        let files = cgroups.files("/a");

        assert!(files.is_v1("cpuacct") && !files.is_v1("memory"));
        assert_eq!(
            files.read_blocking("cpuacct", "cpuacct.usage").as_deref(),
            Some("7\n")
        );
        assert_eq!(
            files.read_blocking("memory", "memory.current").as_deref(),
            Some("9\n")
        );
        assert_eq!(files.read_blocking("memory", "none"), None);
        assert_eq!(files.processes_blocking("pids"), [1, 2, 3].map(Pid));
        assert_eq!(files.names_blocking("cpu"), ["cpuacct.usage"]);
        assert_eq!(cgroups.files("/"), GroupFiles::default());
    }

    #[test]
    fn a_group_that_is_gone_says_nothing() {
        let files = Cgroups::discover_blocking()
            .unwrap()
            .files("/no-such-group");

        assert_eq!(files.read_blocking("memory", "memory.stat"), None);
        assert_eq!(files.processes_blocking("memory"), []);
        assert!(files.names_blocking("memory").is_empty());
    }
}
