//! What this node says of itself.

use std::collections::BTreeMap;

use crate::model::Result;
use crate::model::host_facts::CgroupDriver;
use crate::node::conditions::Condition;

/// A runtime handler and what it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    /// Name; the default handler is listed once more with an empty one.
    pub name: String,
    /// Mounts can be made read-only with everything below them.
    pub recursive_read_only_mounts: bool,
    /// Pods can have user namespaces.
    pub user_namespaces: bool,
}

/// The answer to Status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// At least RuntimeReady and NetworkReady.
    pub conditions: Vec<Condition>,
    /// Sorted by name.
    pub handlers: Vec<HandlerFeatures>,
    /// Groups policy Strict is honoured.
    pub supplemental_groups_policy: bool,
    /// User namespaces work beside the host's network.
    pub user_namespaces_host_network: bool,
    /// `noexec`, `nodev` and `nosuid` on mounts are honoured.
    pub mount_options: bool,
    /// Verbose facts; empty unless asked for.
    pub info: BTreeMap<String, String>,
}

/// The node, answered from memory: kubelet asks every five seconds and more.
pub trait Identity: Send + Sync {
    /// What Status answers. `recovered` tells whether the other methods answer.
    fn status(&self, recovered: bool, verbose: bool) -> NodeStatus;
    /// Who makes cgroups; constant for the life of the node.
    fn cgroup_driver(&self) -> CgroupDriver;
    /// Lets a change through unless the back end is known to be away: steps that need none of it would be done and
    /// undone for nothing.
    ///
    /// # Errors
    /// `Unavailable` while it is.
    fn ensure_backend(&self) -> Result<()>;
    /// Takes the pod CIDR that kubelet learnt.
    ///
    /// # Errors
    /// `InvalidArgument` for a part that is no CIDR.
    fn set_pod_cidr(&self, cidr: &str) -> Result<()>;
}
