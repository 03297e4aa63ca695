//! A pod as kubelet means it: whatever carries its namespace, name and uid, through all attempts.

use std::sync::Arc;

use super::{ContainerView, PodView, SandboxView, Snapshot};
use crate::model::PodIdentity;

/// The newest sandbox of a pod, and the listed containers of all its sandboxes, newest first.
#[derive(Clone, Debug)]
pub struct WholePod {
    /// The sandbox of the highest attempt; of equal ones the one made last.
    pub sandbox: Arc<SandboxView>,
    /// Its containers and those of older sandboxes, parked ones left out.
    pub containers: Vec<Arc<ContainerView>>,
}

impl Snapshot {
    /// The pod that `identity` names, whatever attempt it names; `None` where no sandbox of it is left.
    pub fn whole_pod(&self, identity: &PodIdentity) -> Option<WholePod> {
        let attempts = || self.pods().filter(|pod| is_of(pod, identity));
        let newest = attempts().max_by_key(|pod| {
            let sandbox = &pod.sandbox;
            (
                sandbox.config.identity.attempt,
                sandbox.created_at,
                &sandbox.id,
            )
        })?;
        let listed = attempts().flat_map(|pod| pod.containers.values());
        let mut containers: Vec<_> = listed.filter(|view| !view.parked).cloned().collect();
        containers.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Some(WholePod {
            sandbox: Arc::clone(&newest.sandbox),
            containers,
        })
    }
}

fn is_of(pod: &PodView, identity: &PodIdentity) -> bool {
    let own = &pod.sandbox.config.identity;
    own.uid == identity.uid
        && own.name == identity.name
        && own.k8s_namespace == identity.k8s_namespace
}
