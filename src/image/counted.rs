//! Writable snapshots whose size the file system itself counts, by a project id of their own.
//!
//! What is counted is exact and costs a system call. But in a container without a user namespace, root may give its files
//! another project (ioctl_xfs_fsgetxattr(2) asks for no capability), which is why kubelet trusts such counts in user
//! namespaces only. So those snapshots are walked as well, and where much is missing from the count it is not believed.

use crate::containerd::{SnapshotKind, Usage};
use crate::index::LayerProject;
use crate::model::{ContainerId, Result};
use crate::sys;
use crate::sys::project_quota::used_blocking;

use super::Images;

/// How much more than was counted a walk may find: files are made, moved and removed while it goes on.
const SLACK: Usage = Usage {
    bytes: 16 << 20,
    inodes: 4_096,
};
/// The same as a part of what was counted.
const SLACK_PART: u64 = 8;

/// What was found out of one snapshot.
pub(super) struct Found {
    pub(super) usage: Usage,
    /// Much is missing from what the file system counts for it.
    pub(super) is_doubted: bool,
}

impl Images {
    /// The project of the snapshot `key`, where there is one and it may be asked for.
    fn project_of(&self, key: &str, kind: SnapshotKind) -> Option<LayerProject> {
        if kind != SnapshotKind::Active || !self.inner.config.load().stats.project_quotas {
            return None;
        }
        let id: ContainerId = key.parse().ok()?;
        let now = self.inner.index.snapshot();
        now.container(&id)?.project.clone()
    }

    /// Finds out what a snapshot takes.
    ///
    /// # Errors
    /// Those of containerd.
    pub(super) async fn find_out(
        &self,
        snapshotter: &str,
        key: &str,
        kind: SnapshotKind,
    ) -> Result<Found> {
        let walk = self.inner.containerd.snapshots.usage(snapshotter, key);
        let certain = |usage| Found {
            usage,
            is_doubted: false,
        };
        let Some(project) = self.project_of(key, kind) else {
            return walk.await.map(certain);
        };
        let Some(before) = counted(&project).await else {
            return walk.await.map(certain);
        };
        if project.sealed {
            return Ok(certain(before));
        }
        let walked = walk.await?;
        let after = counted(&project).await.unwrap_or(before);
        let is_doubted = is_missing_much(walked, [before, after]);
        if is_doubted && !self.is_count_doubted(snapshotter, key) {
            tracing::warn!(snapshot = %key, project = project.id, ?walked, counted = ?after,
                "files of a writable layer are not counted for its project, as if they had been given another; it is walked instead");
        }
        Ok(Found {
            usage: if is_doubted { walked } else { after },
            is_doubted,
        })
    }

    /// Whether much was missing from what is counted for the snapshot `key`, when it was last measured.
    pub fn is_count_doubted(&self, snapshotter: &str, key: &str) -> bool {
        let place = (snapshotter.to_owned(), key.to_owned());
        self.with_latest(|latest| latest.get(&place).is_some_and(|last| last.is_doubted))
    }
}

/// What the file system counts now; `None` where it does not tell.
async fn counted(project: &LayerProject) -> Option<Usage> {
    let project = project.clone();
    let ask = move || used_blocking(&project.dir, project.id);
    let used = sys::off_thread("ask what a writable layer takes", ask).await;
    let used = used
        .inspect_err(|error| tracing::debug!(%error, "a count cannot be had"))
        .ok()?;
    Some(Usage {
        bytes: used.bytes,
        inodes: used.inodes,
    })
}

fn is_missing_much(walked: Usage, counted: [Usage; 2]) -> bool {
    let is_more = |of: fn(Usage) -> u64| {
        let most = counted.into_iter().map(of).max().unwrap_or(0);
        let slack = of(SLACK).max(most / SLACK_PART);
        of(walked) > most.saturating_add(slack)
    };
    is_more(|usage| usage.bytes) || is_more(|usage| usage.inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn usage(bytes: u64, inodes: u64) -> Usage {
        Usage { bytes, inodes }
    }

    #[test]
    fn a_count_that_lacks_much_of_what_was_walked_is_not_believed() {
        let mib = 1 << 20;
        for (walked, before, after, missing) in [
            (usage(0, 1), usage(8 * mib, 3), usage(8 * mib, 3), false),
            (usage(12 * mib, 3), usage(0, 2), usage(0, 2), false),
            (usage(17 * mib, 3), usage(0, 2), usage(0, 2), true),
            (usage(17 * mib, 3), usage(17 * mib, 3), usage(0, 2), false),
            (usage(17 * mib, 3), usage(0, 2), usage(17 * mib, 3), false),
            (
                usage(1_100 * mib, 3),
                usage(1_000 * mib, 3),
                usage(0, 2),
                false,
            ),
            (
                usage(1_200 * mib, 3),
                usage(1_000 * mib, 3),
                usage(0, 2),
                true,
            ),
            (usage(0, 5_000), usage(0, 10), usage(0, 10), true),
        ] {
            let found = is_missing_much(walked, [before, after]);
            assert_eq!(found, missing, "{walked:?} {before:?} {after:?}");
        }
    }
}
