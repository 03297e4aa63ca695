//! Taking over what exists: recovery reads records and tasks, decides, and hands each sandbox over here.

use std::sync::atomic::Ordering;

use crate::index::SandboxView;
use crate::model::{Digest, Result, SandboxId};
use crate::sys::process::PidFd;

use super::steps::{Step, StepRecord};
use super::{PodKey, Sandboxes};

/// A sandbox that recovery found.
#[derive(Debug)]
pub struct Adopted {
    /// What to show.
    pub view: SandboxView,
    /// Digest of the request that made it, so that a retry of that request is handed this sandbox.
    pub fingerprint: Digest,
    /// The steps to take back at its end: those of the record on tmpfs, or all that a reboot leaves.
    pub steps: Vec<Step>,
}

impl Sandboxes {
    /// Lists a sandbox that exists and watches its pause process where that runs.
    ///
    /// # Errors
    /// `Internal` where its steps cannot be recorded.
    pub async fn adopt(&self, adopted: Adopted) -> Result<()> {
        let Adopted {
            view,
            fingerprint,
            steps,
        } = adopted;
        // A stop that was cut off after CNI DEL has removed the attachment, and with it the other place where the
        // namespace's path stands.
        let earlier = self.records.get(view.id.as_str()).await?;
        let netns = view
            .netns
            .or_else(|| earlier.and_then(|record| record.netns));
        let view = SandboxView {
            // Where the step was taken back, or a reboot took it away, the namespace is closed.
            netns: netns.filter(|_| steps.contains(&Step::Netns)),
            ..view
        };
        let record = StepRecord {
            name: view.config.identity.reserved_name(),
            fingerprint: fingerprint.clone(),
            created_at: view.created_at,
            netns: view.netns.clone(),
            snapshotter: view
                .pause_image
                .as_ref()
                .map(|image| image.snapshotter.clone()),
            steps,
            complete: true,
        };
        self.records.put(view.id.as_str(), &record).await?;
        self.deps.stamps.observe(view.created_at);
        self.adopt_level(view.id.as_str(), &view.spec);
        self.flights.restore(
            PodKey(view.config.identity.clone()),
            fingerprint,
            view.id.clone(),
        );
        let (id, was_stopped) = (view.id.clone(), !record.steps.contains(&Step::Task));
        let pidfd = view.pause_pid.and_then(|pid| PidFd::open(pid).ok());
        self.list(view, pidfd);
        if let Some(site) = self.site(&id) {
            site.told_stop.store(was_stopped, Ordering::Release);
        }
        Ok(())
    }

    /// Takes back every recorded step of a sandbox that never came to be. Answers the steps that would not go.
    ///
    /// # Errors
    /// `Internal` where the record cannot be read or written.
    pub async fn unwind_unfinished(&self, id: &SandboxId) -> Result<Vec<String>> {
        let left = self.take_back(id, &Step::ALL).await?;
        self.note_left(id, !left.is_empty());
        Ok(left
            .into_iter()
            .map(|still| format!("{}: {}", still.step.name(), still.error))
            .collect())
    }

    /// CNI DEL for an attachment whose sandbox is gone, by its recorded intent.
    ///
    /// # Errors
    /// What the plugins said; the record stays then.
    pub async fn detach_orphan(&self, id: &SandboxId) -> Result<()> {
        self.detach(id).await
    }
}
