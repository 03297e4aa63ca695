//! What the memory controller tells of a group.
//!
//! The count of out-of-memory kills, with v2: every group counts its own and those of all groups below it, and
//! goes on counting those of groups that are gone (kernel documentation, "cgroup-v2", `memory.events`).

use std::path::{Path, PathBuf};

use super::Cgroups;

impl Cgroups {
    /// Processes that the kernel killed for want of memory in group `path` and below, so far. `None` where that is not
    /// counted (v1, the root, no memory controller) or the group is gone.
    pub fn oom_kills_blocking(&self, path: &str) -> Option<u64> {
        kills_in(&self.counting_dir(path)?)
    }

    /// Those of them that happened in groups directly below `path` which are gone: what it counts, less what those
    /// count that are still there.
    pub fn oom_kills_of_gone_blocking(&self, path: &str) -> Option<u64> {
        let dir = self.counting_dir(path)?;
        // In this order a group that goes meanwhile is counted as gone, which it is.
        let all = kills_in(&dir)?;
        let there = std::fs::read_dir(&dir).ok()?.filter_map(|entry| {
            let entry = entry.ok()?;
            let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir());
            is_group.then(|| kills_in(&entry.path())).flatten()
        });
        Some(all.saturating_sub(there.fold(0, u64::saturating_add)))
    }

    /// The most memory that was ever in use in group `path`, in bytes; `None` where that is not kept (v2 before Linux
    /// 5.19) or the group is gone.
    pub fn memory_peak_blocking(&self, path: &str) -> Option<u64> {
        let dir = self.controller_dir("memory", path)?;
        ["memory.peak", "memory.max_usage_in_bytes"]
            .iter()
            .find_map(|name| std::fs::read_to_string(dir.join(name)).ok())?
            .trim()
            .parse()
            .ok()
    }

    fn counting_dir(&self, path: &str) -> Option<PathBuf> {
        self.v2()
            .filter(|hierarchy| !hierarchy.has_local_events)
            .and_then(|hierarchy| hierarchy.dir_of(Path::new(path)))
    }
}

fn kills_in(dir: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(dir.join("memory.events")).ok()?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::mount;
    use super::*;

    fn group(root: &Path, path: &str, kills: u64) {
        let dir = root.join(path);
        std::fs::create_dir_all(&dir).unwrap();
        let text = format!("low 0\nhigh 0\nmax 90\noom 1\noom_kill {kills}\noom_group_kill 9\n");
        std::fs::write(dir.join("memory.events"), text).unwrap();
    }

    fn on(root: &Path, options: &str) -> Cgroups {
        Cgroups::of_table(&[mount("cgroup2", root.to_str().unwrap(), "/", options)]).unwrap()
    }

    #[test]
    fn a_pod_still_counts_the_kills_of_groups_that_are_gone() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "pod", 5);
        group(root.path(), "pod/a", 2);
        group(root.path(), "pod/b", 0);
        let cgroups = on(root.path(), "rw");

        assert_eq!(cgroups.oom_kills_blocking("/pod/a"), Some(2));
        assert_eq!(cgroups.oom_kills_of_gone_blocking("/pod"), Some(3));
        std::fs::remove_dir_all(root.path().join("pod/a")).unwrap();
        assert_eq!(cgroups.oom_kills_blocking("/pod/a"), None);
        assert_eq!(cgroups.oom_kills_of_gone_blocking("/pod"), Some(5));
    }

    #[test]
    fn where_groups_count_only_their_own_nothing_is_said() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "pod", 5);
        let local = on(root.path(), "rw,memory_localevents");

        assert_eq!(local.oom_kills_of_gone_blocking("/pod"), None);
        assert_eq!(on(root.path(), "rw").oom_kills_of_gone_blocking("/"), None);
        assert_eq!(on(root.path(), "rw").oom_kills_blocking("/none"), None);
        let v1 = Cgroups::of_table(&[mount("cgroup", "/cg/memory", "/", "rw,memory")]).unwrap();
        assert_eq!(v1.oom_kills_blocking("/pod"), None);
    }
}
