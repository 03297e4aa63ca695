//! A project id of its own for each writable layer, so that the file system itself counts what the layer takes. Nothing is
//! limited by it.
//!
//! An id lives as long as the directories that bear it: nothing else is kept of it but the container's record, and what
//! the file system counts tells whether an id is free. Where there can be none, the layer is walked as ever.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::containerd::RootfsMount;
use crate::index::LayerProject;
use crate::model::{Classify as _, Error, Kind, Result};
use crate::sys::project_quota::{self as quota, Used};
use crate::sys::{self, rootfs};

use super::Containers;

/// The first of our ids. kubelet counts upwards from 1048577 (`FirstQuota` in its `volume/util/fsquota`), moby from the
/// id of its directory, and systemd has the upper half (`PROJ_ID_MIN` in its `exec-invoke.c`).
const FIRST: u32 = 0x5000_0000;
/// How many there are. XFS never gives up the entry of an id that was used once, so they must come round again.
const COUNT: u32 = 0x1_0000;
/// How many are tried. Even where half of all are taken, some are free among these.
const TRIES: usize = 64;
/// Where operators and kubelet write down which ids are theirs: projects(5), projid(5).
const LISTS: [&str; 2] = ["/etc/projects", "/etc/projid"];
/// Longer ones are not ours to read.
const LIST_MAX: u64 = 1 << 20;

/// Gives ids out, one container at a time.
#[derive(Debug, Default)]
pub(super) struct Projects {
    /// The file systems of which it was said that ids cannot be given there. Held while one is chosen.
    refused: Mutex<BTreeSet<u64>>,
}

impl Containers {
    /// Gives the new layer below `mounts` a project id, where the file system counts projects. `sealed` says that the
    /// container has a user namespace.
    pub(super) async fn begin_project(
        &self,
        mounts: &[RootfsMount],
        sealed: bool,
    ) -> Option<LayerProject> {
        if !self.deps.settings().stats.project_quotas {
            return None;
        }
        let mount = mounts.last()?;
        let dirs = rootfs::written_dirs(&mount.kind, &mount.source, &mount.options);
        let projects = std::sync::Arc::clone(&self.projects);
        let work = move || Ok(projects.give_blocking(&dirs, sealed));
        sys::off_thread("give a writable layer its project id", work)
            .await
            .ok()
            .flatten()
    }

    /// The project that the record of a container names, where its layer still bears it.
    pub(super) async fn found_project(
        &self,
        project: Option<LayerProject>,
    ) -> Option<LayerProject> {
        let project = project?;
        let work = move || {
            let bears = quota::project_of_blocking(&project.dir)? == project.id;
            Ok(bears.then_some(project))
        };
        sys::off_thread("look up the project id of a writable layer", work)
            .await
            .ok()
            .flatten()
    }
}

impl Projects {
    fn give_blocking(&self, dirs: &[PathBuf], sealed: bool) -> Option<LayerProject> {
        let dir = dirs.first()?;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match choose_blocking(dirs, &taken_blocking()) {
            Ok(id) => Some(LayerProject {
                dir: dir.clone(),
                id: id?,
                sealed,
            }),
            Err(error) => {
                // The number of no file system stands for those that are not even there.
                let place = std::fs::metadata(dir).map_or(0, |facts| facts.dev());
                if refused.insert(place) {
                    tracing::warn!(
                        dir = %dir.display(), error = %error.chain(),
                        remedy = "see that podwright is root of the host and sees containerd's directories, or set stats.project_quotas = false",
                        "writable layers get no project ids on this file system; they are walked instead"
                    );
                }
                None
            }
        }
    }
}

/// Gives `dirs` one id that nobody uses; `None` where projects are not counted there, or the directories have one.
fn choose_blocking(dirs: &[PathBuf], taken: &BTreeSet<u32>) -> Result<Option<u32>> {
    for dir in dirs {
        if !quota::is_counted_blocking(dir)? || quota::project_of_blocking(dir)? != 0 {
            return Ok(None);
        }
    }
    for _ in 0..TRIES {
        let id = draw()?;
        if !taken.contains(&id) && try_blocking(dirs, id)? {
            return Ok(Some(id));
        }
    }
    Err(Error::exhausted(format!(
        "{TRIES} project ids were tried from {FIRST} on, and all of them are in use"
    )))
}

fn draw() -> Result<u32> {
    // At random, so that nobody can know the id of a container that is yet to come.
    let drawn = getrandom::u32().classify(Kind::Internal, || "draw a project id".to_owned())?;
    Ok(FIRST + drawn % COUNT)
}

/// Gives `dirs` the project `id`, unless somebody else has it; then they are left as they were.
fn try_blocking(dirs: &[PathBuf], id: u32) -> Result<bool> {
    let Some(first) = dirs.first() else {
        return Ok(false);
    };
    if quota::used_blocking(first, id)? != Used::default() {
        return Ok(false);
    }
    let given = dirs
        .iter()
        .try_for_each(|dir| quota::give_blocking(dir, id));
    let used = given.and_then(|()| quota::used_blocking(first, id));
    // Whoever chose the same at the same moment would show here.
    match used {
        Ok(used) if used.inodes == dirs.len() as u64 => Ok(true),
        used => {
            for dir in dirs {
                // Only what bears the id got it here: it was nobody's, and these had none.
                if quota::project_of_blocking(dir).is_ok_and(|found| found == id) {
                    quota::take_back_blocking(dir)?;
                }
            }
            used.map(|_others| false)
        }
    }
}

/// The ids that operators and kubelet have written down.
fn taken_blocking() -> BTreeSet<u32> {
    let read = |path| sys::files::read_capped_blocking(Path::new(path), LIST_MAX);
    let texts = LISTS.iter().filter_map(|path| read(path).ok());
    texts
        .flat_map(|text| listed(&String::from_utf8_lossy(&text)))
        .collect()
}

/// The numbers in lines of `id:path` (projects) and `name:id` (projid).
fn listed(text: &str) -> Vec<u32> {
    let sides = text.lines().filter_map(|line| line.split_once(':'));
    sides
        .flat_map(|(before, after)| [before, after])
        .filter_map(|side| side.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_drawn_from_a_range_that_is_nobody_elses() {
        for _ in 0..1_000 {
            let id = draw().unwrap();
            assert!(id > 1_048_577 + 1_000_000 && id < 1 << 31, "{id}");
        }
    }

    #[test]
    fn both_lists_name_ids() {
        let projects = "# mine\n1342177280:/srv/a\n1048577:/var/lib/kubelet/pods/x\nbroken\n";
        assert_eq!(listed(projects), [1_342_177_280, 1_048_577]);
        assert_eq!(listed("volume1048577:1048577\nnothing:\n"), [1_048_577]);
    }

    #[test]
    fn a_file_system_that_counts_no_projects_is_left_alone() {
        if !sys::survey::is_root() {
            eprintln!("SKIPPED: asking for quotas needs root");
            return;
        }
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let dirs = [dir.path().to_owned()];

        assert_eq!(choose_blocking(&dirs, &BTreeSet::new()).unwrap(), None);
        assert_eq!(Projects::default().give_blocking(&dirs, false), None);
        assert_eq!(Projects::default().give_blocking(&[], false), None);
    }

    #[test]
    fn a_failure_is_told_once() {
        let projects = Projects::default();
        let dirs = [PathBuf::from("/none/such")];

        assert_eq!(projects.give_blocking(&dirs, false), None);
        assert_eq!(projects.give_blocking(&dirs, false), None);
        assert_eq!(projects.refused.lock().unwrap().len(), 1);
    }
}
