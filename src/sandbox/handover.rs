//! What containerd's own CRI plugin needs to take over a live pod: the network's answer in the extension it reads.
//!
//! The record is written before ADD has answered (the two overlap), so the answer follows in the background once the
//! pod is published. Where a crash came between, recovery writes it. Without it the plugin would show a pod without
//! an address and let a failed DEL pass.

use std::sync::Arc;
use std::time::Duration;

use crate::containerd::RecordField;
use crate::index::SandboxView;
use crate::model::{Digest, Result, SandboxId};
use crate::network::Attachment;

use super::Sandboxes;
use super::record::{self, SandboxMark, SandboxMetadata};

/// First pause after a write that failed.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest such pause.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Sandboxes {
    /// Writes what ADD answered into containerd's record, in the background, until it is there or the pod is gone.
    pub fn record_network(&self, id: SandboxId, fingerprint: Digest, attachment: Attachment) {
        let (this, stop) = (self.clone(), self.deps.supervisor.stopping().clone());
        self.deps.supervisor.watch("record network", async move {
            let writing = this.write_network(&id, &fingerprint, &attachment);
            if stop.run_until_cancelled(writing).await.is_none() {
                tracing::debug!(sandbox.id = %id, "the network's answer is left to the next recovery");
            }
        });
    }

    async fn write_network(&self, id: &SandboxId, fingerprint: &Digest, attachment: &Attachment) {
        let mut wait = FIRST_WAIT;
        while let Some(view) = self.deps.index.snapshot().sandbox(id).cloned() {
            match self.try_write(&view, fingerprint, attachment).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() => return,
                Err(error) => {
                    tracing::debug!(sandbox.id = %id, %error, ?wait, "the network's answer could not be recorded yet")
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn try_write(
        &self,
        view: &Arc<SandboxView>,
        fingerprint: &Digest,
        attachment: &Attachment,
    ) -> Result<()> {
        let mark = SandboxMark {
            created_at: view.created_at,
            fingerprint: fingerprint.clone(),
            handler: view.handler.clone(),
        };
        let metadata = SandboxMetadata {
            id: &view.id,
            config: &view.config,
            record: &view.record,
            handler: &view.handler,
            netns: view.netns.as_deref(),
            attachment: Some(attachment),
        };
        let site = self.site(&view.id);
        let _turn = match &site {
            Some(site) => Some(site.record.lock().await),
            None => None,
        };
        // The whole map is written at once, so what others may have put there is read first.
        let containers = &self.deps.containerd.containers;
        let mut stored = containers.get(view.id.as_str()).await?;
        stored
            .extensions
            .extend(record::sandbox_extensions(&metadata, &mark)?);
        containers.update(&stored, &[RecordField::Extensions]).await
    }
}
