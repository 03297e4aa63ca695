//! ImageFsInfo: what snapshots take, measured in the background, since the kubelet asks often and must not wait.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::stream::StreamExt as _;

use super::Images;
use crate::containerd::{PluginInfo, SnapshotKind, Usage};
use crate::model::{Kind, Result, Timestamp};

/// How often snapshots are measured.
const INTERVAL: Duration = Duration::from_secs(10);
/// Measurements at once.
const PARALLEL: usize = 4;
const CONTENT_PLUGIN: &str = "io.containerd.content.v1";
const SNAPSHOTTER_PLUGIN: &str = "io.containerd.snapshotter.v1";

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

/// What every snapshot took when it was last measured, by snapshotter and name.
pub(super) type Measured = HashMap<(String, String), (SnapshotKind, Usage)>;

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
            if let Err(error) = self.measure().await {
                tracing::debug!(%error, "snapshots could not be measured");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Measures once and publishes.
    ///
    /// # Errors
    /// Those of containerd; what was published stays then.
    pub(super) async fn measure(&self) -> Result<()> {
        self.learn_roots().await?;
        let config = self.inner.config.load();
        let first = config.containerd.snapshotter.clone();
        let others: BTreeSet<String> = config
            .runtimes
            .handlers
            .values()
            .map(|handler| handler.snapshotter.clone())
            .filter(|name| *name != first)
            .collect();
        let mut measured = vec![self.measure_one(first).await?];
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
                Some((kind, usage)) if kind == committed && info.kind == committed => {
                    add(usage);
                    latest.insert(key, (kind, usage));
                }
                _ => wanted.push((key, info.kind)),
            }
        }
        let fresh: Vec<_> = futures::stream::iter(wanted)
            .map(|(key, kind)| async move { (snapshots.usage(&key.0, &key.1).await, key, kind) })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        for (usage, key, kind) in fresh {
            match usage {
                Ok(usage) => {
                    add(usage);
                    latest.insert(key, (kind, usage));
                }
                Err(error) if error.is_not_found() => {}
                // A link that broke says nothing about any of them.
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => {
                    // One tree that cannot be walked must not hide what the others take.
                    let last = self.last_of(&key);
                    tracing::warn!(snapshot = %key.1, %error, ?last, "a snapshot cannot be measured; its last known size counts");
                    if let Some((_, usage)) = last {
                        add(usage);
                        latest.insert(key, (kind, usage));
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

    /// What every snapshot took when it was last measured.
    pub(super) fn measured(&self) -> Measured {
        self.with_latest(|latest| latest.clone())
    }

    fn last_of(&self, key: &(String, String)) -> Option<(SnapshotKind, Usage)> {
        self.with_latest(|latest| latest.get(key).copied())
    }

    fn with_latest<R>(&self, act: impl FnOnce(&mut Measured) -> R) -> R {
        let held = self.inner.usages.latest.lock();
        act(&mut held.unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks containerd where the snapshotters keep their files. One that does not say keeps them at its default place
    /// below containerd's root, which the content store's own place tells.
    async fn learn_roots(&self) -> Result<()> {
        let plugins = self.inner.containerd.introspection.plugins().await?;
        let root = |plugin: &PluginInfo| plugin.exports.get("root").map(PathBuf::from);
        let content = plugins.iter().find(|plugin| plugin.kind == CONTENT_PLUGIN);
        let below = content
            .and_then(root)
            .and_then(|root| Some(root.parent()?.to_owned()));
        let found = plugins
            .iter()
            .filter(|plugin| plugin.kind == SNAPSHOTTER_PLUGIN)
            .filter_map(|plugin| {
                let default = || Some(below.as_ref()?.join(default_place(&plugin.id)));
                Some((plugin.id.clone(), root(plugin).or_else(default)?))
            });
        let roots = self.inner.usages.roots.lock();
        roots.unwrap_or_else(PoisonError::into_inner).extend(found);
        Ok(())
    }

    /// Where a snapshotter keeps its files: what containerd says, else its default place, else the nearest directory
    /// above that exists. The kubelet gives up image collection where the path does not exist.
    fn root_of(&self, snapshotter: &str) -> PathBuf {
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

fn default_place(snapshotter: &str) -> String {
    format!("{SNAPSHOTTER_PLUGIN}.{snapshotter}")
}
