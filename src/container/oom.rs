//! Whether a container's end was an out-of-memory kill.
//!
//! The shim's counter says so as long as the container's group is there. Under systemd the scope may go before anybody
//! has looked (contract: node, trap 28), and then the shim answers zero, or nothing. The group around it outlives it
//! and counts what happened below: a kill there that no group still there and no earlier end explains is this one's,
//! unless its end is explained already because we sent SIGKILL.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use oci_spec::runtime::Spec;

use crate::index::ContainerView;
use crate::model::ContainerId;
use crate::sandbox::group::group_of;
use crate::sys;
use crate::sys::cgroup::{Cgroups, Mode};

use super::{Containers, Site};

/// SIGKILL's exit code, which is what an out-of-memory kill looks like.
const KILLED: u32 = 137;

/// The groups that hold those of running containers.
pub(super) struct Parents {
    /// Nothing on a host without any.
    cgroups: Option<Cgroups>,
    known: Mutex<HashMap<String, Weak<Parent>>>,
}

/// One of them. `explained` of its kills are of groups that are gone or will be, and of which is known whose they were.
struct Parent {
    path: String,
    explained: Mutex<u64>,
}

/// The group of one container, and the one around it.
pub(super) struct Witness {
    cgroups: Cgroups,
    path: String,
    parent: Option<Arc<Parent>>,
}

impl Parents {
    /// Nothing is known of any; without v2, where groups count for themselves alone, nothing ever will be.
    pub(super) fn new_blocking() -> Self {
        Self::on(Cgroups::discover_blocking().ok())
    }

    fn on(cgroups: Option<Cgroups>) -> Self {
        Self {
            cgroups,
            known: Mutex::default(),
        }
    }

    /// The groups of a host on which each counts also what happens below it.
    fn counting(&self) -> Option<&Cgroups> {
        let cgroups = self.cgroups.as_ref();
        cgroups.filter(|cgroups| cgroups.mode() == Mode::V2)
    }

    /// Takes note of what was counted before a container of this spec runs.
    fn attend_blocking(&self, spec: &Spec) -> Option<Witness> {
        let cgroups = self.counting()?.clone();
        let path = group_of(spec)?;
        let parent = path.rsplit_once('/').map(|(parent, _name)| parent);
        let parent = parent.and_then(|parent| self.parent_blocking(&cgroups, parent));
        Some(Witness {
            cgroups,
            path,
            parent,
        })
    }

    fn parent_blocking(&self, cgroups: &Cgroups, path: &str) -> Option<Arc<Parent>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parent) = known.get(path).and_then(Weak::upgrade) {
            return Some(parent);
        }
        let explained = cgroups.oom_kills_of_gone_blocking(path)?;
        let parent = Arc::new(Parent {
            path: path.to_owned(),
            explained: Mutex::new(explained),
        });
        known.retain(|_, parent| parent.strong_count() > 0);
        known.insert(path.to_owned(), Arc::downgrade(&parent));
        Some(parent)
    }
}

impl Witness {
    /// Whether the kernel killed in the group of this container, which has ended, by our own hand or not; to be asked
    /// once. Also where it does not matter how this one ended it must be asked, or the next one's would not be told apart.
    fn saw_kill_blocking(&self, by_us: bool) -> bool {
        let own = self.cgroups.oom_kills_blocking(&self.path);
        let Some(parent) = &self.parent else {
            return own.is_some_and(|kills| kills > 0);
        };
        let lock = parent.explained.lock();
        let mut explained = lock.unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = own {
            *explained = explained.saturating_add(own);
            return own > 0;
        }
        let gone = self.cgroups.oom_kills_of_gone_blocking(&parent.path);
        let gone = gone.unwrap_or(*explained);
        let is_news = gone > *explained;
        tracing::debug!(group = %self.path, gone, explained = *explained, "the group went before anybody counted");
        *explained = gone.max(*explained);
        is_news && !by_us
    }
}

impl Containers {
    /// To be called before the process of a container can run, or when one that runs is found.
    pub(super) async fn attend(&self, spec: &Arc<str>, site: &Site) {
        if self.parents.counting().is_none() || site.witness.get().is_some() {
            return;
        }
        let (parents, spec) = (Arc::clone(&self.parents), Arc::clone(spec));
        let attended = sys::off_thread("read the pod's out-of-memory counter", move || {
            let spec = crate::spec::decode_spec(&spec).ok();
            Ok(spec.and_then(|spec| parents.attend_blocking(&spec)))
        });
        if let Ok(Some(witness)) = attended.await {
            drop(site.witness.set(Arc::new(witness)));
        }
    }

    /// The most memory that a container which was killed for want of it ever had in use, as long as its group is there.
    pub(super) async fn memory_peak(&self, view: &ContainerView, oom_killed: bool) -> Option<u64> {
        let cgroups = self.parents.cgroups.clone().filter(|_| oom_killed)?;
        let spec = Arc::clone(&view.spec);
        let peak = move || {
            let group = crate::spec::decode_spec(&spec)
                .ok()
                .as_ref()
                .and_then(group_of);
            Ok(group.and_then(|group| cgroups.memory_peak_blocking(&group)))
        };
        sys::off_thread("read the peak of a container's memory", peak)
            .await
            .ok()?
    }

    /// Whether the container, whose init process ended with `code`, lost a process for want of memory. To be asked once,
    /// while its task is still there.
    pub(super) async fn was_out_of_memory(&self, id: &ContainerId, site: &Site, code: u32) -> bool {
        let witness = site.witness.get().cloned();
        let seen = match witness {
            Some(witness) => {
                let by_us = site.was_killed_by_us();
                let look = move || Ok(witness.saw_kill_blocking(by_us));
                let look = sys::off_thread("read the out-of-memory counters", look);
                look.await.unwrap_or(false)
            }
            None => false,
        };
        if code != KILLED {
            return false;
        }
        if seen {
            return true;
        }
        match self.deps.containerd.tasks.oom_kills(id.as_str()).await {
            Ok(kills) => kills.is_some_and(|kills| kills > 0),
            Err(error) => {
                tracing::debug!(container.id = %id, %error, "the out-of-memory counter could not be read");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A directory that stands for the v2 hierarchy: what the kernel counts is written by hand.
    struct Hierarchy(tempfile::TempDir);

    impl Hierarchy {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn count(&self, path: &str, kills: u64) {
            let dir = self.0.path().join(path);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("memory.events"), format!("oom_kill {kills}\n")).unwrap();
        }

        fn vanish(&self, path: &str) {
            std::fs::remove_dir_all(self.0.path().join(path)).unwrap();
        }

        fn parents(&self) -> Parents {
            Parents::on(Some(Cgroups::played(self.0.path())))
        }
    }

    fn spec(cgroups_path: &str) -> Spec {
        let mut spec = Spec::default();
        let linux = oci_spec::runtime::LinuxBuilder::default()
            .cgroups_path(Path::new(cgroups_path))
            .build()
            .unwrap();
        spec.set_linux(Some(linux));
        spec
    }

    #[test]
    fn a_kill_is_told_while_the_group_is_there() {
        let host = Hierarchy::new();
        host.count("pod", 0);
        let parents = host.parents();
        let [a, b] = ["/pod/a", "/pod/b"].map(|path| parents.attend_blocking(&spec(path)).unwrap());
        host.count("pod/a", 2);
        host.count("pod/b", 0);
        host.count("pod", 2);

        assert!(a.saw_kill_blocking(false));
        host.vanish("pod/a");
        assert!(!b.saw_kill_blocking(false));
    }

    #[test]
    fn a_kill_is_told_when_the_scope_went_first() {
        let host = Hierarchy::new();
        host.count("a.slice/a-pod.slice", 7);
        let parents = host.parents();
        let [a, b, c] = ["a", "b", "c"].map(|name| {
            let form = spec(&format!("a-pod.slice:cri-containerd:{name}"));
            parents.attend_blocking(&form).unwrap()
        });
        host.count("a.slice/a-pod.slice", 8);

        // Only one of the three was killed for it, and it is the one whose end is looked at first.
        assert!(a.saw_kill_blocking(false));
        assert!(!b.saw_kill_blocking(false));
        assert!(!c.saw_kill_blocking(false));
    }

    #[test]
    fn kills_of_a_neighbour_that_lives_or_ended_otherwise_are_not_ours() {
        let host = Hierarchy::new();
        host.count("pod", 0);
        let parents = host.parents();
        let [killed, neighbour, other] = ["/pod/a", "/pod/b", "/pod/c"]
            .map(|path| parents.attend_blocking(&spec(path)).unwrap());
        host.count("pod/b", 3);
        host.count("pod", 3);

        assert!(!killed.saw_kill_blocking(false));
        assert!(neighbour.saw_kill_blocking(false));
        host.vanish("pod/b");
        assert!(!other.saw_kill_blocking(false));
    }

    #[test]
    fn what_happened_before_and_what_we_killed_ourselves_is_none() {
        let host = Hierarchy::new();
        host.count("pod", 9);
        let parents = host.parents();
        let [later, stopped] =
            ["/pod/a", "/pod/b"].map(|path| parents.attend_blocking(&spec(path)).unwrap());

        assert!(!later.saw_kill_blocking(false));
        host.count("pod", 10);
        assert!(!stopped.saw_kill_blocking(true));
    }
}
