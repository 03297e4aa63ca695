//! What this node says of itself, answered from memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde_json::json;
use tokio::time::Instant;

use super::reload::Reloading;
use crate::config::Shared;
use crate::containerd::Link;
use crate::cri::{HandlerFeatures, Identity, NodeStatus};
use crate::model::Result;
use crate::model::host_facts::CgroupDriver;
use crate::network::Network;
use crate::node::features::Abilities;
use crate::node::{conditions, runtime_config};
use crate::sandbox::Deps;

/// The node behind Status, RuntimeConfig and UpdateRuntimeConfig.
pub(super) struct NodeIdentity {
    pub(super) config: Shared,
    pub(super) deps: Arc<Deps>,
    pub(super) network: Arc<dyn Network>,
    pub(super) link: Link,
    pub(super) driver: CgroupDriver,
    pub(super) abilities: Arc<ArcSwap<BTreeMap<String, Abilities>>>,
    pub(super) trouble: Arc<ArcSwapOption<String>>,
    pub(super) reloading: Reloading,
    pub(super) pod_cidr: ArcSwap<String>,
}

impl NodeIdentity {
    fn handlers(&self) -> Vec<HandlerFeatures> {
        let known = self.abilities.load();
        let config = self.config.load();
        let entry = |shown: &str, handler: &str| HandlerFeatures {
            name: shown.to_owned(),
            recursive_read_only_mounts: known
                .get(handler)
                .is_some_and(|can| can.recursive_read_only),
            user_namespaces: known
                .get(handler)
                .is_some_and(|can| can.user_namespaces.work()),
        };
        let mut handlers = vec![entry("", &config.runtimes.default)];
        handlers.extend(
            config
                .runtimes
                .handlers
                .keys()
                .map(|name| entry(name, name)),
        );
        handlers
    }

    fn info(&self) -> BTreeMap<String, String> {
        let config = self.config.load();
        let mut shown = config.effective().clone();
        if let Some(shown) = shown.as_object_mut() {
            // kubeadm reads sandboxImage and critest stateDir here.
            shown.insert(
                "sandboxImage".into(),
                json!(config.sandbox.pause_image.as_deref().unwrap_or_default()),
            );
            shown.insert("stateDir".into(), json!(config.server.state_dir));
            shown.insert("rootDir".into(), json!(config.server.root_dir));
            shown.insert("podCIDR".into(), json!(self.pod_cidr.load().as_str()));
        }
        let network = self.network.status();
        let operations = self.deps.live.snapshot().len();
        let load = if network.ready {
            "OK".to_owned()
        } else {
            network.message
        };
        let mut info = BTreeMap::from([
            ("config".to_owned(), shown.to_string()),
            ("lastCNILoadStatus".to_owned(), load.clone()),
            // All handlers share one configuration.
            ("lastCNILoadStatus.default".to_owned(), load),
            ("containerd".to_owned(), format!("{:?}", self.link.state())),
            ("liveOperations".to_owned(), operations.to_string()),
            ("nri".to_owned(), self.deps.nri.shown().to_string()),
        ]);
        if let Some(last) = self.reloading.shown() {
            info.insert("lastReload".to_owned(), last.to_string());
        }
        // crictl fails on a value that begins like an object and is none, so nothing stands for nothing.
        let networks = self.network.shown();
        if networks.is_object() {
            info.insert("cniconfig".to_owned(), networks.to_string());
        }
        info
    }
}

impl Identity for NodeIdentity {
    fn status(&self, recovered: bool, verbose: bool) -> NodeStatus {
        let trouble = self.trouble.load();
        let unready_after = self.config.load().containerd.unready_after;
        let handlers = self.handlers();
        NodeStatus {
            conditions: vec![
                conditions::runtime(
                    &self.link.state(),
                    recovered,
                    trouble.as_deref().map(String::as_str),
                    unready_after,
                    Instant::now(),
                ),
                conditions::network(self.network.status()),
            ],
            // The OCI runtime makes the user namespace of such a pod, so whoever can have one can have it there.
            user_namespaces_host_network: handlers.iter().any(|handler| handler.user_namespaces),
            handlers,
            supplemental_groups_policy: true,
            mount_options: true,
            info: if verbose {
                self.info()
            } else {
                BTreeMap::new()
            },
        }
    }

    fn cgroup_driver(&self) -> CgroupDriver {
        self.driver
    }

    fn ensure_backend(&self) -> Result<()> {
        self.link.ensure_up()
    }

    fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let parts = runtime_config::pod_cidrs(cidr)?;
        self.pod_cidr.store(Arc::new(parts.join(",")));
        Ok(())
    }
}
