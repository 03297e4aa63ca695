//! What NRI plugins hear of a pod, and when.

use std::sync::atomic::Ordering;

use crate::index::SandboxView;
use crate::model::{Result, SandboxId};
use crate::nri::{Event, PodFacts, Present};

use super::deps::Deps;
use super::{Sandboxes, Site};

/// A pod as plugins are told of it.
pub fn pod_facts(view: &SandboxView) -> PodFacts {
    PodFacts {
        id: view.id.clone(),
        config: view.config.clone(),
        handler: view.handler.clone(),
        pid: view.pause_pid,
        ips: view.ips.clone(),
        spec: view.spec.clone(),
        updated: view.updated.clone(),
    }
}

impl Sandboxes {
    /// Tells once that nothing of the pod runs any more.
    pub(super) async fn tell_stopped(&self, id: &SandboxId, site: &Site) {
        let was_told = site.told_stop.swap(true, Ordering::AcqRel);
        if was_told || !self.deps.nri.hears(Event::StopPodSandbox) {
            return;
        }
        if let Some(view) = self.deps.index.snapshot().sandbox(id) {
            let stopped = PodFacts {
                pid: None,
                ..pod_facts(view)
            };
            self.deps
                .nri
                .tell(Event::StopPodSandbox, &stopped, None)
                .await;
        }
    }

    /// Tells that the pod is gone.
    pub(super) async fn tell_removed(&self, view: &SandboxView) {
        if self.deps.nri.hears(Event::RemovePodSandbox) {
            let facts = pod_facts(view);
            self.deps
                .nri
                .tell(Event::RemovePodSandbox, &facts, None)
                .await;
        }
    }
}

/// A pod that plugins were told of before it was published. Where it never is, they are told of its end.
#[derive(Debug, Default)]
pub(super) struct Announced(std::sync::OnceLock<PodFacts>);

impl Announced {
    /// Asks the plugins whether the pod of `view` may run.
    ///
    /// # Errors
    /// `FailedPrecondition` where one refuses.
    pub(super) async fn announce(
        &self,
        deps: &Deps,
        present: &Present,
        view: &SandboxView,
    ) -> Result<()> {
        if !deps.nri.hears(Event::RunPodSandbox) {
            return Ok(());
        }
        let facts = self.0.get_or_init(|| pod_facts(view));
        deps.nri
            .ask(present, Event::RunPodSandbox, facts, None)
            .await
    }

    /// Tells `event` of a pod that will not be, where plugins know of it.
    pub(super) async fn retract(&self, deps: &Deps, event: Event) {
        if let Some(facts) = self.0.get() {
            deps.nri.tell(event, facts, None).await;
        }
    }
}
