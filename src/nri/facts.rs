//! What plugins are told, and what they ask for, as values of ours.

use std::sync::Arc;

use futures::future::BoxFuture;
use oci_spec::runtime::LinuxResources;

use crate::model::classes::AskedClasses;
use crate::model::state::ContainerState;
use crate::model::{
    ContainerConfig, ContainerId, Pid, PodConfig, Resources, Result, SandboxId, Termination,
    Timestamp,
};

/// A pod.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// Id.
    pub id: SandboxId,
    /// The request's configuration.
    pub config: Arc<PodConfig>,
    /// Runtime handler as asked for; empty means the default.
    pub handler: String,
    /// The pause process, while it runs.
    pub pid: Option<Pid>,
    /// Addresses, primary first.
    pub ips: Vec<String>,
    /// The pause container's OCI spec in JSON.
    pub spec: Arc<str>,
    /// Sums that UpdatePodSandboxResources brought, where any: resources, then overhead.
    pub updated: Option<(Option<Resources>, Option<Resources>)>,
}

/// A container.
#[derive(Clone, Debug)]
pub struct ContainerFacts {
    /// Id.
    pub id: ContainerId,
    /// Its pod.
    pub sandbox: SandboxId,
    /// The request's configuration.
    pub config: Arc<ContainerConfig>,
    /// Its OCI spec in JSON.
    pub spec: Arc<str>,
    /// State; `None` while it is being made.
    pub state: Option<ContainerState>,
    /// Its init process, while there is one.
    pub pid: Option<Pid>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its process began.
    pub started_at: Option<Timestamp>,
    /// How it ended.
    pub ended: Option<Termination>,
    /// An out-of-memory kill was seen.
    pub oom_killed: bool,
    /// User, group and further groups of the process.
    pub user: (u32, u32, Vec<u32>),
    /// Its image.
    pub image: ImageFacts,
}

/// The image of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Full reference.
    pub name: String,
    /// Digest of the manifest or index; empty where none is known.
    pub digest: String,
    /// Digest of the configuration.
    pub config_digest: String,
}

/// Limits, of which those that are `None` or empty stay as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// In the OCI spec's words.
    pub resources: LinuxResources,
    /// Classes of service, by the node's names.
    pub classes: AskedClasses,
}

/// Limits that a plugin wants a container to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The container's id.
    pub container: String,
    /// What changes.
    pub limits: Limits,
    /// It does not matter whether this works.
    pub ignore_failure: bool,
}

/// A container that a plugin wants to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// The container's id.
    pub container: String,
    /// For people.
    pub reason: String,
}

/// What a plugin's answer asks for beyond the container that it was asked about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// Limits of other containers.
    pub updates: Vec<Update>,
    /// Containers that are to end.
    pub evictions: Vec<Eviction>,
}

impl Wishes {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.evictions.is_empty()
    }
}

/// The node's pods and containers, as far as plugins are concerned. The lifecycles implement it.
pub trait Household: Send + Sync {
    /// Every pod, and every container that was made and has not ended.
    fn inventory(&self) -> (Vec<PodFacts>, Vec<ContainerFacts>);
    /// Gives a container other limits.
    fn update<'a>(&'a self, update: &'a Update) -> BoxFuture<'a, Result<()>>;
    /// Ends a container at once.
    fn evict<'a>(&'a self, eviction: &'a Eviction) -> BoxFuture<'a, Result<()>>;
}
