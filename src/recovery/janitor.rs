//! What would not go is tried again, and what nobody owns is swept.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::container::snapshots;
use crate::model::{ContainerId, Result, SandboxId};
use crate::sandbox::record as pod_record;
use crate::sys;

use super::Recovery;

/// How often the janitor looks.
const ROUND: Duration = Duration::from_secs(30);

impl Recovery {
    /// Looks every 30 s, for ever. To be kept running by a supervisor.
    pub async fn janitor(self) {
        loop {
            tokio::time::sleep(ROUND).await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "the janitor could not finish its round");
            }
        }
    }

    /// One round: leftovers of failed creations, containers that a checkpoint left frozen, attachments without a sandbox, snapshots, facts and directories
    /// without a container. Only what carries our mark.
    ///
    /// # Errors
    /// `Unavailable` where containerd is away.
    pub async fn sweep(&self) -> Result<()> {
        for id in self.sandboxes.leftovers() {
            let tried = self.sandboxes.unwind_unfinished(&id).await;
            tracing::info!(sandbox.id = %id, ?tried, "leftovers of a sandbox tried again");
        }
        for id in self.containers.leftovers() {
            let tried = self.containers.unwind_unfinished(&id).await;
            tracing::info!(container.id = %id, ?tried, "leftovers of a container tried again");
        }
        // What one kind meets is no reason to leave the others.
        let outcomes = [
            self.sweep_checkpoints().await,
            self.sweep_attachments().await,
            self.sweep_snapshots().await,
            self.sweep_facts().await,
            self.sweep_directories().await,
        ];
        outcomes.into_iter().collect()
    }

    /// Checkpoints that ended and could not be cleaned up.
    async fn sweep_checkpoints(&self) -> Result<()> {
        let dir = self.deps.settings().server.root_dir.join("checkpoints");
        let list = move || Ok(names_blocking(&dir));
        for name in sys::off_thread("list checkpoints", list).await? {
            if let Ok(id) = name.parse::<ContainerId>() {
                self.containers.retry_checkpoint(&id).await;
            }
        }
        Ok(())
    }

    async fn sweep_attachments(&self) -> Result<()> {
        let attached = self.sandboxes.attachment_records().load().await?;
        for (path, error) in &attached.quarantined {
            tracing::error!(path = %path.display(), %error, "the record of an attachment cannot be read; its addresses may stay taken");
        }
        let mut left = 0;
        for id in attached
            .records
            .into_iter()
            .filter_map(|(id, _)| id.parse::<SandboxId>().ok())
        {
            if self.knows_sandbox(&id).await? {
                continue;
            }
            match self.sandboxes.detach_orphan(&id).await {
                Ok(()) => {
                    tracing::info!(sandbox.id = %id, "an attachment without a sandbox was given back")
                }
                Err(error) => {
                    tracing::warn!(sandbox.id = %id, %error, "an attachment without a sandbox could not be given back; it is tried again");
                    left += 1;
                }
            }
        }
        self.note_orphans("attachment", left);
        Ok(())
    }

    /// Snapshots that a crash left between their making and the record that would have owned them.
    async fn sweep_snapshots(&self) -> Result<()> {
        let handlers = self.deps.handlers.all();
        let snapshotters: BTreeSet<&str> = handlers
            .iter()
            .map(|(_, handler)| handler.settings.snapshotter.as_str())
            .collect();
        let mut left = 0;
        for snapshotter in snapshotters {
            for snapshot in self.deps.containerd.snapshots.list(snapshotter).await? {
                let ours = snapshot
                    .labels
                    .get(pod_record::MARK.0)
                    .is_some_and(|mark| mark == pod_record::MARK.1);
                let Some(id) = snapshots::owner(&snapshot.name).filter(|_| ours) else {
                    continue;
                };
                // That of a pause image has its sandbox's name.
                let pod = id.as_str().parse::<SandboxId>();
                let is_pods = match &pod {
                    Ok(pod) => self.knows_sandbox(pod).await?,
                    Err(_no_id) => false,
                };
                if is_pods || self.knows_container(&id).await? {
                    continue;
                }
                let store = &self.deps.containerd.snapshots;
                match store.remove(snapshotter, &snapshot.name).await {
                    Ok(()) => {
                        tracing::info!(container.id = %id, "a snapshot without a container was removed")
                    }
                    Err(error) => {
                        tracing::warn!(container.id = %id, %error, "a snapshot without a container would not go; it is tried again");
                        left += 1;
                    }
                }
            }
        }
        self.note_orphans("snapshot", left);
        Ok(())
    }

    /// Facts of containers that are gone: a removal was cut off after containerd's record, or another client removed them.
    async fn sweep_facts(&self) -> Result<()> {
        for id in self.deps.facts.ids() {
            let Ok(id) = id.parse::<ContainerId>() else {
                continue;
            };
            if !self.knows_container(&id).await? {
                self.deps.facts.forget(&id);
            }
        }
        Ok(())
    }

    async fn knows_sandbox(&self, id: &SandboxId) -> Result<bool> {
        Ok(self.is_untouched(id.as_str()) || self.sandboxes.is_known(id).await?)
    }

    async fn knows_container(&self, id: &ContainerId) -> Result<bool> {
        Ok(self.is_untouched(id.as_str()) || self.containers.is_known(id).await?)
    }

    async fn sweep_directories(&self) -> Result<()> {
        let now = self.deps.index.snapshot();
        let settings = self.deps.settings();
        for (dir, kind) in [
            (&settings.server.root_dir, "sandboxes"),
            (&settings.server.root_dir, "containers"),
            (&settings.server.state_dir, "sandboxes"),
            (&settings.server.state_dir, "containers"),
        ] {
            let dir = dir.join(kind);
            let list = dir.clone();
            let names = sys::off_thread("list directories of ours", move || {
                Ok(names_blocking(&list))
            })
            .await?;
            for name in names {
                let owned = match kind {
                    "sandboxes" => match name.parse::<SandboxId>() {
                        Ok(id) => now.sandbox(&id).is_some() || self.knows_sandbox(&id).await?,
                        Err(_not_ours) => true,
                    },
                    _ => match name.parse::<ContainerId>() {
                        Ok(id) => now.container(&id).is_some() || self.knows_container(&id).await?,
                        Err(_not_ours) => true,
                    },
                };
                if !owned {
                    let path = dir.join(&name);
                    tracing::info!(path = %path.display(), "a directory without an owner is removed");
                    sys::off_thread("remove a directory without an owner", move || {
                        sys::remove_tree_blocking(&path)
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }
}

fn names_blocking(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
