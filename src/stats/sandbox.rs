//! What is told of pods.

use std::sync::Arc;

use crate::index::{PodView, SandboxFilter};
use crate::model::{Error, Result};
use crate::sys::cgroup::path_of_parent;

use super::Stats;
use super::collect::{FRESH, Subject};
use super::container::{ContainerUsage, running};
use super::group::Usage;
use super::network::Network;

/// What one pod uses.
#[derive(Clone, Debug)]
pub struct PodUsage {
    /// Whose usage it is.
    pub pod: Arc<PodView>,
    /// What all its processes use, with that of the pause process.
    pub usage: Usage,
    /// What its interfaces carried; `None` with the host's network.
    pub network: Option<Arc<Network>>,
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
}

impl Stats {
    /// What the pod uses whose sandbox `text`, a whole id or a unique prefix, means.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an empty text or one that means several; `Unavailable` where the sandbox is not
    /// ready.
    pub async fn pod(&self, text: &str) -> Result<PodUsage> {
        let found = self.deps.index.snapshot().find_sandbox(text)?.cloned();
        let pod = found.ok_or_else(|| Error::not_found(format!("sandbox {text:?}: not found")))?;
        if !pod.sandbox.state.is_ready() {
            return Err(Error::unavailable(format!(
                "sandbox {}: it is not ready, so nothing of it can be measured",
                pod.sandbox.id
            )));
        }
        self.freshen(subjects(&pod)).await;
        self.count_layers(pod.containers.values(), FRESH).await;
        Ok(self.told_of_pod(pod))
    }

    /// What the pods that `filter` lets through use; never those that are not ready.
    pub async fn pods(&self, filter: &SandboxFilter) -> Vec<PodUsage> {
        let pods = self.ready_pods(filter);
        self.freshen(pods.iter().flat_map(subjects).collect()).await;
        let containers = pods.iter().flat_map(|pod| pod.containers.values());
        self.count_layers(containers, FRESH).await;
        pods.into_iter().map(|pod| self.told_of_pod(pod)).collect()
    }

    pub(super) fn ready_pods(&self, filter: &SandboxFilter) -> Vec<Arc<PodView>> {
        let now = self.deps.index.snapshot();
        let found = now.list_sandboxes(filter).into_iter();
        found
            .filter(|view| view.state.is_ready())
            .filter_map(|view| now.pod(&view.id).cloned())
            .collect()
    }

    fn told_of_pod(&self, pod: Arc<PodView>) -> PodUsage {
        let listed = pod.containers.values().filter(|view| !view.parked);
        let containers: Vec<_> = listed.map(|view| self.told_of(Arc::clone(view))).collect();
        let reading = self.readings.of(pod.sandbox.id.as_str());
        let (mut usage, network) = reading
            .map(|reading| (reading.usage, reading.network))
            .unwrap_or_default();
        if path_of_parent(&pod.sandbox.config.cgroup_parent).is_none() {
            for container in containers.iter().filter(|one| one.view.is_running()) {
                usage.add(&container.usage);
            }
        }
        PodUsage {
            pod,
            usage,
            network,
            containers,
        }
    }
}

fn subjects(pod: &Arc<PodView>) -> Vec<Subject> {
    let mut subjects = running(pod.containers.values());
    subjects.push(Subject::Pod(Arc::clone(&pod.sandbox)));
    subjects
}
