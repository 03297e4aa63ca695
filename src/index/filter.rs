//! List filters: every part must match; no match is an empty list, never an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::state::ContainerState;

use super::{ContainerView, SandboxView, Snapshot};

/// Which sandboxes a list shows.
#[derive(Clone, Debug, Default)]
pub struct SandboxFilter {
    /// Whole id or unique prefix; empty for all.
    pub id: String,
    /// READY ones only, or the others only.
    pub ready: Option<bool>,
    /// Labels that must be there with these values.
    pub labels: BTreeMap<String, String>,
}

/// Which containers a list shows.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    /// Whole id or unique prefix; empty for all.
    pub id: String,
    /// Whole id or unique prefix of the sandbox; empty for all.
    pub sandbox: String,
    /// State as the CRI tells it.
    pub state: Option<ListedState>,
    /// Labels that must be there with these values.
    pub labels: BTreeMap<String, String>,
}

/// The states that the CRI knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedState {
    /// CREATED, also while it starts.
    Created,
    /// RUNNING.
    Running,
    /// EXITED.
    Exited,
    /// UNKNOWN.
    Unknown,
}

impl ListedState {
    /// The CRI's word for `view`'s state. A container being removed shows what it was before.
    pub fn of(view: &ContainerView) -> Self {
        match view.state {
            ContainerState::Created | ContainerState::Starting => Self::Created,
            ContainerState::Running => Self::Running,
            ContainerState::Exited => Self::Exited,
            ContainerState::Unknown => Self::Unknown,
            ContainerState::Removing if view.ended.is_some() => Self::Exited,
            ContainerState::Removing => Self::Created,
        }
    }
}

fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

impl Snapshot {
    /// The sandboxes that `filter` lets through.
    pub fn list_sandboxes(&self, filter: &SandboxFilter) -> Vec<Arc<SandboxView>> {
        let only = match filter.id.as_str() {
            "" => None,
            id => match self.find_sandbox(id) {
                Ok(Some(pod)) => Some(&pod.sandbox.id),
                _ => return Vec::new(),
            },
        };
        let wanted = |view: &&Arc<SandboxView>| {
            only.is_none_or(|id| *id == view.id)
                && filter
                    .ready
                    .is_none_or(|ready| ready == view.state.is_ready())
                && has_labels(&view.config.labels, &filter.labels)
        };
        self.pods()
            .map(|pod| &pod.sandbox)
            .filter(wanted)
            .cloned()
            .collect()
    }

    /// The containers that `filter` lets through; parked ones never.
    pub fn list_containers(&self, filter: &ContainerFilter) -> Vec<Arc<ContainerView>> {
        let only = match filter.id.as_str() {
            "" => None,
            id => match self.find_container(id) {
                Ok(Some(container)) => Some(&container.id),
                _ => return Vec::new(),
            },
        };
        let sandbox = match filter.sandbox.as_str() {
            "" => None,
            id => match self.find_sandbox(id) {
                Ok(Some(pod)) => Some(&pod.sandbox.id),
                _ => return Vec::new(),
            },
        };
        let wanted = |view: &&Arc<ContainerView>| {
            !view.parked
                && only.is_none_or(|id| *id == view.id)
                && sandbox.is_none_or(|id| *id == view.sandbox)
                && filter
                    .state
                    .is_none_or(|state| state == ListedState::of(view))
                && has_labels(&view.config.labels, &filter.labels)
        };
        self.containers().filter(wanted).cloned().collect()
    }
}
