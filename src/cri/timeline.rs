//! Where the time of a pod's start went, as far as the interface tells of it.

use std::collections::BTreeMap;

use super::{Service, views};
use crate::index::SandboxView;
use crate::model::{PodIdentity, Result, Timestamp};
use crate::sandbox::RuntimeHandler;
use crate::wire::cri;

impl Service {
    /// The verbose info of a sandbox.
    ///
    /// # Errors
    /// `Internal` where it cannot be written as JSON.
    pub(super) fn sandbox_info(
        &self,
        view: &SandboxView,
        handler: Option<&RuntimeHandler>,
    ) -> Result<BTreeMap<String, String>> {
        let timeline = self.deps.live.timeline(view.id.as_str());
        views::info::sandbox(view, handler, timeline)
    }

    /// Notes a pull that was asked for on behalf of a pod, whoever else may have waited for it too.
    pub(super) fn note_pull(&self, pod: &PodIdentity, image: &str, began: Timestamp) {
        if let Some(pod) = self.deps.index.snapshot().whole_pod(pod) {
            let live = &self.deps.live;
            live.note(pod.sandbox.id.as_str(), "PullImage", image, began);
        }
    }
}

/// The pod that a pull is for, where the request names one.
pub(super) fn pod_of(request: &cri::PullImageRequest) -> Option<PodIdentity> {
    let metadata = request.sandbox_config.as_ref()?.metadata.as_ref()?;
    Some(PodIdentity {
        name: metadata.name.clone(),
        k8s_namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        attempt: metadata.attempt,
    })
}
