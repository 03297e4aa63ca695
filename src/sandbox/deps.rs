//! What the lifecycles of pods work with, handed to them whole.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Handler;
use crate::config::{Config, Shared};
use crate::containerd::{Containerd, Payload};
use crate::devices::DeviceFiles;
use crate::index::Index;
use crate::model::clock::CreationStamps;
use crate::model::host_facts::HostFacts;
use crate::model::{Clock, Error, Result};
use crate::network::Network;
use crate::nri::Nri;
use crate::ops::{LiveTable, Supervisor, TenantPaths};
use crate::spec::SpecOptions;
use crate::store::Facts;

/// The parts around the lifecycles. Held by reference count; every part is a handle or immutable.
pub struct Deps {
    /// The seam to containerd.
    pub containerd: Containerd,
    /// The pod network.
    pub network: Arc<dyn Network>,
    /// What is published.
    pub index: Arc<Index>,
    /// Starts tasks.
    pub supervisor: Supervisor,
    /// Shows what runs.
    pub live: LiveTable,
    /// CDI specifications and OCI hook files.
    pub device_files: Arc<DeviceFiles>,
    /// Plugins that hear of pods and containers and adjust them.
    pub nri: Arc<Nri>,
    /// Threads for paths that others chose.
    pub paths: TenantPaths,
    /// The journal of starts and exits.
    pub facts: Facts,
    /// Settings.
    pub config: Shared,
    /// Runtime handlers with what the OCI runtime needs to know of them.
    pub handlers: Handlers,
    /// The node, as specs need it.
    pub host: ArcSwap<HostFacts>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Creation times that never go backwards.
    pub stamps: CreationStamps,
    /// The node's name.
    pub node_name: String,
    /// The boot this process lives in.
    pub boot_id: String,
}

impl Deps {
    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Config> {
        self.config.load()
    }

    /// Durable directory of one object: `<root>/<kind>/<id>`.
    pub fn root_dir(&self, kind: &str, id: &str) -> PathBuf {
        self.settings().server.root_dir.join(kind).join(id)
    }

    /// Directory of one object that a reboot takes away: `<state>/<kind>/<id>`.
    pub fn state_dir(&self, kind: &str, id: &str) -> PathBuf {
        self.settings().server.state_dir.join(kind).join(id)
    }
}

/// One runtime handler, ready for use.
#[derive(Clone, Debug)]
pub struct RuntimeHandler {
    /// Its settings.
    pub settings: Handler,
    /// The shim's options, encoded.
    pub options: Option<Payload>,
    /// Why its pods cannot have user namespaces; `None` where they can.
    pub no_user_namespaces: Option<&'static str>,
    /// What its specs follow from.
    pub spec: SpecOptions,
}

/// The node's runtime handlers by name, replaced as a whole when the configuration changes.
#[derive(Debug, Default)]
pub struct Handlers(ArcSwap<(String, BTreeMap<String, Arc<RuntimeHandler>>)>);

impl Handlers {
    /// Handlers by name; `default` is what the empty name means.
    pub fn new(default: String, handlers: BTreeMap<String, Arc<RuntimeHandler>>) -> Self {
        Self(ArcSwap::from_pointee((default, handlers)))
    }

    /// Puts other handlers in place.
    pub fn replace(&self, default: String, handlers: BTreeMap<String, Arc<RuntimeHandler>>) {
        self.0.store(Arc::new((default, handlers)));
    }

    /// The handler called `name`; the empty name is the default one.
    ///
    /// # Errors
    /// `InvalidArgument` naming the known ones.
    pub fn get(&self, name: &str) -> Result<Arc<RuntimeHandler>> {
        let all = self.0.load();
        let key = if name.is_empty() { &all.0 } else { name };
        all.1.get(key).cloned().ok_or_else(|| {
            let known: Vec<&str> = all.1.keys().map(String::as_str).collect();
            Error::invalid(format!(
                "runtime handler {name:?}: not configured; this node has {}; add [runtimes.handlers.{name}] to the configuration",
                known.join(", ")
            ))
        })
    }

    /// All handlers by name.
    pub fn all(&self) -> Vec<(String, Arc<RuntimeHandler>)> {
        self.0
            .load()
            .1
            .iter()
            .map(|(name, handler)| (name.clone(), Arc::clone(handler)))
            .collect()
    }
}
