//! ImageFsInfo: what snapshots take, measured in the background, since the kubelet asks often and must not wait.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::stream::StreamExt as _;

use super::Images;
use super::counted::Found;
use crate::containerd::{PluginInfo, SnapshotKind, Usage};
use crate::model::{Kind, Result, Timestamp};

/// The pause after a measurement, in times of what that took: at most a tenth of one disk's time goes into measuring.
const PAUSE_FACTOR: u32 = 9;
/// Longer it is not for that: kubelet judges by figures of about this age (behaviour-node §2.4).
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Measurements at once.
const PARALLEL: usize = 4;

/// One file system that holds images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsUsage {
    /// Snapshotter whose snapshots these are.
    pub snapshotter: String,
    /// An existing directory on the file system.
    pub mountpoint: PathBuf,
    /// Bytes in snapshots.
    pub used_bytes: u64,
    /// Inodes in snapshots.
    pub inodes_used: u64,
    /// When it was measured.
    pub timestamp: Timestamp,
}

/// What a snapshot took when it was last measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    pub(super) kind: SnapshotKind,
    pub(super) usage: Usage,
    /// What the file system counts for it lacks much of this.
    pub(super) is_doubted: bool,
    at: Timestamp,
}

/// Every snapshot's, by snapshotter and name.
pub(super) type Measured = HashMap<(String, String), Measure>;

/// What one snapshot takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// An existing directory on the file system that holds it.
    pub mountpoint: PathBuf,
    /// What it takes.
    pub usage: Usage,
    /// When it was measured.
    pub at: Timestamp,
}

/// What was measured last.
#[derive(Default)]
pub(super) struct Usages {
    published: ArcSwap<Vec<FsUsage>>,
    roots: Mutex<HashMap<String, PathBuf>>,
    /// Committed snapshots never change, so each of them is measured once.
    latest: Mutex<Measured>,
}

impl Images {
    /// The file systems of images; the default snapshotter's first. Never empty, makes no call.
    pub fn fs_info(&self) -> Vec<FsUsage> {
        let measured = self.inner.usages.published.load();
        if !measured.is_empty() {
            return measured.to_vec();
        }
        let config = self.inner.config.load();
        let snapshotter = config.containerd.snapshotter.clone();
        vec![FsUsage {
            mountpoint: self.root_of(&snapshotter),
            snapshotter,
            used_bytes: 0,
            inodes_used: 0,
            timestamp: self.inner.clock.now(),
        }]
    }

    /// Measures again and again; for a background task.
    pub(super) async fn keep_measuring(self) {
        loop {
            let began = tokio::time::Instant::now();
            if let Err(error) = self.measure().await {
                tracing::debug!(%error, "snapshots could not be measured");
            }
            let period = self.inner.config.load().stats.disk_period;
            tokio::time::sleep(pause_after(began.elapsed(), period)).await;
        }
    }

    /// Measures once and publishes.
    ///
    /// # Errors
    /// Those of containerd; what was published stays then.
    pub(super) async fn measure(&self) -> Result<()> {
        self.learn_roots().await?;
        let mut others = self.snapshotters().into_iter();
        let mut measured = Vec::new();
        if let Some(first) = others.next() {
            measured.push(self.measure_one(first).await?);
        }
        for snapshotter in others {
            match self.measure_one(snapshotter.clone()).await {
                Ok(usage) => measured.push(usage),
                // One that a handler names and containerd lacks must not keep the default's figures back.
                Err(error) => {
                    tracing::debug!(%snapshotter, %error, "snapshots could not be measured")
                }
            }
        }
        self.inner.usages.published.store(measured.into());
        Ok(())
    }

    /// The snapshotters that handlers name; the default one first.
    pub(super) fn snapshotters(&self) -> Vec<String> {
        let config = self.inner.config.load();
        let first = config.containerd.snapshotter.clone();
        let handlers = config.runtimes.handlers.values();
        let others: BTreeSet<String> = handlers
            .map(|handler| handler.snapshotter.clone())
            .filter(|name| *name != first)
            .collect();
        std::iter::once(first).chain(others).collect()
    }

    async fn measure_one(&self, snapshotter: String) -> Result<FsUsage> {
        let snapshots = &self.inner.containerd.snapshots;
        let timestamp = self.inner.clock.now();
        let listed = snapshots.list(&snapshotter).await?;
        let mut total = Usage::default();
        let mut add = |usage: Usage| {
            total.bytes = total.bytes.saturating_add(usage.bytes);
            total.inodes = total.inodes.saturating_add(usage.inodes);
        };
        let mut latest = HashMap::new();
        let mut wanted = Vec::new();
        for info in listed {
            let key = (snapshotter.clone(), info.name);
            let committed = SnapshotKind::Committed;
            match self.last_of(&key) {
                Some(last) if last.kind == committed && info.kind == committed => {
                    add(last.usage);
                    latest.insert(key, last);
                }
                _ => wanted.push((key, info.kind)),
            }
        }
        let fresh: Vec<_> = futures::stream::iter(wanted)
            .map(|(key, kind)| async move {
                let at = self.inner.clock.now();
                (self.find_out(&key.0, &key.1, kind).await, key, kind, at)
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (found, key, kind, at) in fresh {
            match found {
                Ok(Found { usage, is_doubted }) => {
                    add(usage);
                    let measure = Measure {
                        kind,
                        usage,
                        is_doubted,
                        at,
                    };
                    latest.insert(key, measure);
                }
                Err(error) if error.is_not_found() => {}
                // A link that broke says nothing about any of them.
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => {
                    // One tree that cannot be walked must not hide what the others take.
                    let last = self.last_of(&key);
                    tracing::warn!(snapshot = %key.1, %error, ?last, "a snapshot cannot be measured; its last known size counts");
                    if let Some(last) = last {
                        add(last.usage);
                        latest.insert(key, last);
                    }
                }
            }
        }
        self.with_latest(|all| {
            all.retain(|(name, _), _| *name != snapshotter);
            all.extend(latest);
        });
        Ok(FsUsage {
            mountpoint: self.root_of(&snapshotter),
            snapshotter,
            used_bytes: total.bytes,
            inodes_used: total.inodes,
            timestamp,
        })
    }

    /// What a snapshot took when it was last measured.
    pub(super) fn last_measured(&self, place: &(String, String)) -> Option<Usage> {
        self.last_of(place).map(|last| last.usage)
    }

    /// Measures a writable snapshot that was made after the last round began.
    ///
    /// # Errors
    /// Those of containerd.
    pub async fn measure_new(&self, snapshotter: &str, key: &str) -> Result<()> {
        let at = self.inner.clock.now();
        let kind = SnapshotKind::Active;
        let Found { usage, is_doubted } = self.find_out(snapshotter, key, kind).await?;
        self.with_latest(|all| {
            all.entry((snapshotter.to_owned(), key.to_owned()))
                .or_insert(Measure {
                    kind,
                    usage,
                    is_doubted,
                    at,
                });
        });
        Ok(())
    }

    /// What the snapshot `key` took when it was last measured; makes no call.
    pub fn measured(&self, snapshotter: &str, key: &str) -> Option<SnapshotUsage> {
        let last = self.last_of(&(snapshotter.to_owned(), key.to_owned()))?;
        let published = self.inner.usages.published.load();
        let place = published.iter().find(|fs| fs.snapshotter == snapshotter)?;
        Some(SnapshotUsage {
            mountpoint: place.mountpoint.clone(),
            usage: last.usage,
            at: last.at,
        })
    }

    fn last_of(&self, key: &(String, String)) -> Option<Measure> {
        self.with_latest(|latest| latest.get(key).copied())
    }

    /// Looks at what every snapshot took when it was last measured.
    pub(super) fn with_latest<R>(&self, act: impl FnOnce(&mut Measured) -> R) -> R {
        let held = self.inner.usages.latest.lock();
        act(&mut held.unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks containerd where the snapshotters keep their files.
    async fn learn_roots(&self) -> Result<()> {
        let plugins = self.inner.containerd.introspection.plugins().await?;
        let found = snapshotter_roots(&plugins);
        let roots = self.inner.usages.roots.lock();
        roots.unwrap_or_else(PoisonError::into_inner).extend(found);
        Ok(())
    }

    /// Where a snapshotter keeps its files: what containerd says, else its default place, else the nearest directory
    /// above that exists. The kubelet gives up image collection where the path does not exist.
    pub fn root_of(&self, snapshotter: &str) -> PathBuf {
        let known = {
            let roots = self.inner.usages.roots.lock();
            let roots = roots.unwrap_or_else(PoisonError::into_inner);
            roots.get(snapshotter).cloned()
        };
        let config = self.inner.config.load();
        let containerd_root = if config.managed_containerd.enabled {
            config.managed_containerd.root.clone()
        } else {
            PathBuf::from("/var/lib/containerd")
        };
        let wanted = known.unwrap_or_else(|| containerd_root.join(default_place(snapshotter)));
        let existing = wanted.ancestors().find(|path| path.is_dir());
        existing.map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
    }
}

fn pause_after(took: Duration, period: Duration) -> Duration {
    period.max(took.saturating_mul(PAUSE_FACTOR).min(PAUSE_MAX))
}

/// Where snapshotters keep their files, by their names. One that does not say keeps them at its default place below
/// containerd's root, which the content store's own place tells.
pub fn snapshotter_roots(plugins: &[PluginInfo]) -> HashMap<String, PathBuf> {
    let root = |plugin: &PluginInfo| plugin.exports.get("root").map(PathBuf::from);
    let content = plugins
        .iter()
        .find(|plugin| plugin.kind == PluginInfo::CONTENT);
    let below = content
        .and_then(root)
        .and_then(|root| Some(root.parent()?.to_owned()));
    plugins
        .iter()
        .filter(|plugin| plugin.kind == PluginInfo::SNAPSHOTTER)
        .filter_map(|plugin| {
            let default = || Some(below.as_ref()?.join(default_place(&plugin.id)));
            Some((plugin.id.clone(), root(plugin).or_else(default)?))
        })
        .collect()
}

fn default_place(snapshotter: &str) -> String {
    format!("{}.{snapshotter}", PluginInfo::SNAPSHOTTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measuring_leaves_the_disk_to_others_most_of_the_time() {
        let pause = |took_ms, period_s| {
            let took = Duration::from_millis(took_ms);
            pause_after(took, Duration::from_secs(period_s)).as_secs()
        };

        assert_eq!(pause(200, 10), 10);
        assert_eq!(pause(3_000, 10), 27);
        assert_eq!(pause(100_000, 10), 60);
        assert_eq!(pause(100_000, 300), 300);
    }
}
