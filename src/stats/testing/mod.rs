//! Trees of control groups as kernels showed them, for tests.

pub(super) mod views;

use std::path::Path;

use crate::sys::cgroup::{Cgroups, GroupFiles};

/// A hierarchy, or several, below a directory of its own.
pub(super) struct Tree {
    dir: tempfile::TempDir,
    cgroups: Cgroups,
    is_v1: bool,
}

impl Tree {
    fn new(is_v1: bool, recorded: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = if is_v1 {
            Cgroups::played_v1(
                dir.path(),
                &["cpu", "cpuacct", "memory", "blkio", "pids", "hugetlb"],
            )
        } else {
            Cgroups::played(dir.path())
        };
        let tree = Self {
            dir,
            cgroups,
            is_v1,
        };
        for file in recorded.split("\n== ") {
            let Some((name, text)) = file.trim_start_matches("== ").split_once('\n') else {
                continue;
            };
            tree.write("pod/c", name.trim(), &format!("{text}\n"));
        }
        tree
    }

    pub(super) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    pub(super) fn files(&self, path: &str) -> GroupFiles {
        self.cgroups.files(path)
    }

    /// Writes a file of a group; with v1 into the hierarchy that its name begins with.
    pub(super) fn write(&self, group: &str, name: &str, text: &str) {
        let dir = self.dir_of(group, name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
    }

    pub(super) fn remove(&self, group: &str, name: &str) {
        std::fs::remove_file(self.dir_of(group, name).join(name)).unwrap();
    }

    /// Removes a group of v2.
    pub(super) fn vanish(&self, group: &str) {
        std::fs::remove_dir_all(self.dir.path().join(group)).unwrap();
    }

    fn dir_of(&self, group: &str, name: &str) -> std::path::PathBuf {
        let controller = match name.split_once('.') {
            Some(("cgroup", _)) | None => "pids",
            Some((controller, _)) => controller,
        };
        let hierarchy = if self.is_v1 { controller } else { "" };
        self.dir.path().join(hierarchy).join(Path::new(group))
    }
}

/// A container of 64 MiB without a limit on swap, on Linux 6.
pub(super) fn recorded_v2() -> Tree {
    Tree::new(false, include_str!("v2.txt"))
}

/// A container of 64 MiB and 16 MiB of swap, on Linux 6 with the controllers of v1.
pub(super) fn recorded_v1() -> Tree {
    Tree::new(true, include_str!("v1.txt"))
}
