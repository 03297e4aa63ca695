//! RemoveContainer: a running one is stopped at once, then containerd's record, the snapshot and the files go, the name
//! last. The log file stays: it is kubelet's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::index::ContainerView;
use crate::model::state::{ContainerEvent, ContainerState};
use crate::model::{ContainerId, Result};
use crate::nri::Event;
use crate::ops::{Edge, gate};

use super::start::StartKey;
use super::steps::Step;
use super::{ContainerKey, Containers, Site};

impl Containers {
    /// Removes a container; an unknown one counts as removed. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty or ambiguous id, those of a forced stop, and what a step failed with; the
    /// container stays listed then.
    pub async fn remove(&self, text: &str) -> Result<()> {
        let Some(view) = self.find(text)? else {
            return Ok(());
        };
        let Some(site) = self.site(&view.id) else {
            return Ok(());
        };
        let this = self.clone();
        self.deps
            .supervisor
            .detached("RemoveContainer", async move {
                this.remove_whole(view, site).await
            })
            .await
    }

    async fn remove_whole(&self, view: Arc<ContainerView>, site: Arc<Site>) -> Result<()> {
        let id = &view.id;
        let operation = self.deps.live.begin(
            "RemoveContainer",
            format!("{} {}", view.config.identity.name, id.short()),
        );
        let stop = self.stop_by(Arc::clone(&view), Arc::clone(&site), Duration::ZERO);
        operation.step("stop").hold(stop).await?;
        let lock = site.lock.lock();
        let _transition = operation.waiting("the container's lock", lock).await;
        let before = match self.deps.index.snapshot().container(id) {
            None => return Ok(()),
            Some(now) => now.state,
        };
        self.deps
            .index
            .container_event(id, ContainerEvent::RemoveAsked, |_| ())?;
        let tell = async {
            self.tell_ended(id, &site).await;
            if !site.told_removal.swap(true, Ordering::AcqRel) {
                self.tell(Event::RemoveContainer, id).await;
            }
        };
        operation.step("plugins").hold(tell).await;
        let free = operation.step("record and snapshot");
        gate("remove_container", "free", Edge::Before).await;
        let left = free.hold(self.take_back(id, &Step::ALL)).await?;
        gate("remove_container", "free", Edge::After).await;
        if let Some(still) = left.into_iter().next() {
            if before == ContainerState::Exited {
                self.deps
                    .index
                    .container_event(id, ContainerEvent::RemoveFailed, |_| ())?;
            }
            let name = still.step.name();
            return Err(still.error.context(format!(
                "container {}: {name} would not go; the call may be repeated",
                id.short()
            )));
        }
        self.deps.facts.forget(id);
        self.deps.index.remove_container(id);
        self.forget(id);
        self.starts.forget(&StartKey(id.clone()));
        self.flights.forget(&ContainerKey {
            sandbox: view.sandbox.clone(),
            identity: view.config.identity.clone(),
        });
        Ok(())
    }

    /// Takes back every recorded step of a container that never came to be. Answers the steps that would not go.
    ///
    /// # Errors
    /// `Internal` where the record cannot be read or written.
    pub async fn unwind_unfinished(&self, id: &ContainerId) -> Result<Vec<String>> {
        let left = self.take_back(id, &Step::ALL).await?;
        self.note_left(id, !left.is_empty());
        Ok(left
            .into_iter()
            .map(|still| format!("{}: {}", still.step.name(), still.error))
            .collect())
    }
}
