//! Who lives in a control group, and ending them all.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use crate::model::{Context, Pid, Result};
use crate::sys::errno::SysContext;
use crate::sys::process::{PidFd, ProcessStat};

/// One control group, in all hierarchies that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    pub(super) fn new(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    /// Its directories; empty where no hierarchy has the group.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The processes that still run in it or in groups below it. A zombie does not run.
    ///
    /// # Errors
    /// Where a group is there and cannot be read; a group that is gone is empty.
    pub fn live_blocking(&self) -> Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for dir in &self.dirs {
            collect_processes(dir, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| ProcessStat::read_blocking(*pid).is_ok_and(|stat| stat.runs()));
        Ok(pids)
    }

    /// Sends SIGKILL to every process in it and below, also to those that appear meanwhile, and returns those that
    /// still run afterwards: dying, or stuck in the kernel. Does not wait for them.
    ///
    /// # Errors
    /// Where the group cannot be read or the signal not be sent.
    pub fn kill_all_blocking(&self) -> Result<Vec<Pid>> {
        const ROUNDS_MAX: usize = 32;
        for dir in &self.dirs {
            let file = dir.join("cgroup.kill"); // v2 since Linux 5.14: one write, atomic against forks
            if file.exists() {
                std::fs::write(&file, "1").sys(|| format!("write {}", file.display()))?;
            }
        }
        let mut killed = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let live = self.live_blocking()?;
            if live.iter().all(|pid| killed.contains(pid)) {
                return Ok(live);
            }
            self.kill_listed(&live)
                .context(|| "kill all processes of a control group".to_owned())?;
            killed = live;
        }
        self.live_blocking()
    }

    /// Removes the group with all below it, in every hierarchy; answers false where a process is in the way.
    ///
    /// # Errors
    /// Where a directory cannot be read or removed for another reason.
    pub fn remove_blocking(&self) -> Result<bool> {
        for dir in &self.dirs {
            if !remove_tree(dir)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Opens each process first and looks again who is in the group, so that a pid reused in between is spared.
    fn kill_listed(&self, pids: &[Pid]) -> Result<()> {
        let handles: Vec<PidFd> = pids
            .iter()
            .filter_map(|pid| PidFd::open(*pid).ok())
            .collect();
        let still = self.live_blocking()?;
        for handle in handles {
            if still.contains(&handle.pid()) {
                match handle.kill(Signal::SIGKILL) {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _sent_or_gone => {}
                }
            }
        }
        Ok(())
    }
}

/// Control groups are removed by `rmdir` alone, from the bottom up; their files go with them.
fn remove_tree(dir: &Path) -> Result<bool> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).sys(|| format!("list {}", dir.display())),
    };
    for entry in entries.flatten() {
        let is_group = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_group && !remove_tree(&entry.path())? {
            return Ok(false);
        }
    }
    match std::fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(error).sys(|| format!("remove {}", dir.display())),
    }
}

fn collect_processes(dir: &Path, pids: &mut Vec<Pid>) -> Result<()> {
    let gone = |error: &std::io::Error| {
        error.kind() == std::io::ErrorKind::NotFound
            || error.raw_os_error() == Some(nix::libc::ENODEV)
    };
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        let file = dir.join("cgroup.procs");
        match std::fs::read_to_string(&file) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse().ok()).map(Pid)),
            Err(error) if gone(&error) => continue,
            Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {} // threaded: the parent lists them
            Err(error) => return Err(error).sys(|| format!("read {}", file.display())),
        }
        match std::fs::read_dir(&dir) {
            Ok(entries) => pending.extend(
                entries
                    .filter_map(std::result::Result::ok)
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            ),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error).sys(|| format!("read {}", dir.display())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::cgroup::Cgroups;

    #[test]
    fn a_group_that_is_gone_is_empty() {
        let gone = Cgroup::new(vec!["/sys/fs/cgroup/no-such-group".into()]);
        assert_eq!(gone.live_blocking().unwrap(), []);
        assert_eq!(gone.kill_all_blocking().unwrap(), []);
    }

    #[test]
    fn everyone_in_a_group_and_below_is_killed_and_nobody_else() {
        let name = format!("/podwright-test-{}", std::process::id());
        let cgroups = Cgroups::discover_blocking().unwrap();
        let Some(dir) = cgroups.controller_dir("pids", &name) else {
            eprintln!("SKIPPED: no pids controller");
            return;
        };
        let below = dir.join("below");
        if let Err(error) = std::fs::create_dir_all(&below) {
            eprintln!("SKIPPED: making control groups needs root: {error}");
            return;
        }
        let mut sleepers: Vec<_> = (0..3)
            .map(|_| Command::new("sleep").arg("600").spawn().unwrap())
            .collect();
        for (sleeper, group) in sleepers.iter().zip([&dir, &below]) {
            std::fs::write(group.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        }
        let group = cgroups.at(&name);

        let mut inside: Vec<_> = sleepers[..2].iter().map(|one| Pid(one.id())).collect();
        inside.sort_unstable();
        assert_eq!(group.live_blocking().unwrap(), inside);
        let own = cgroups.of_process_blocking(inside[0], &name[1..]).unwrap();
        assert!(
            own.dirs()
                .iter()
                .all(|dir| dir.to_string_lossy().contains(&name))
        );

        let asked = Instant::now();
        while !group.kill_all_blocking().unwrap().is_empty() {
            assert!(asked.elapsed() < Duration::from_secs(10));
        }

        assert!(
            sleepers[2].try_wait().unwrap().is_none(),
            "one outside lives on"
        );
        for sleeper in &mut sleepers {
            sleeper.kill().unwrap();
            sleeper.wait().unwrap();
        }
        for group in [below, dir] {
            std::fs::remove_dir(group).unwrap();
        }
    }
}
