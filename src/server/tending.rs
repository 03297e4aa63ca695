//! What follows from the containerd behind us and from the configuration, kept true while both change under us:
//! containerd is upgraded or replaced, the file is read again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{handlers, rooms};
use crate::config::{Config, Handler, LogQuota, Shared};
use crate::container::Containers;
use crate::containerd::{Link, LinkState};
use crate::model::Result;
use crate::network::{NetworkSettings, SharedNetworkSettings};
use crate::node::backend;
use crate::node::features::{self, Abilities};
use crate::sandbox::Deps;
use crate::sys;

/// The pause after a look that containerd did not answer.
const AFTER_FAILED_LOOK: Duration = Duration::from_secs(1);

/// Looks, and looks again. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Tending {
    pub(super) config: Shared,
    pub(super) link: Link,
    pub(super) deps: Arc<Deps>,
    pub(super) containers: Containers,
    /// What the network room goes by.
    pub(super) network: SharedNetworkSettings,
    /// What each handler can do, as Status shows it.
    pub(super) abilities: Arc<ArcSwap<BTreeMap<String, Abilities>>>,
    /// Why the containerd that answers must not be used.
    pub(super) trouble: Arc<ArcSwapOption<String>>,
}

/// What follows from one configuration, read and not yet in place.
pub(super) struct Ready {
    abilities: BTreeMap<String, Abilities>,
    handlers: handlers::Table,
    network: NetworkSettings,
    log_quota: LogQuota,
}

impl Tending {
    /// Looks at a containerd that answers.
    ///
    /// # Errors
    /// `FailedPrecondition` where it must not be used.
    pub(super) async fn look(&self) -> Result<()> {
        let plugins = self.deps.containerd.introspection.plugins().await?;
        if !self.config.load().containerd.allow_cri_plugin {
            backend::refuse_cri_plugin(&plugins)?;
        }
        self.look_at_host().await?;
        self.make_classes().await?;
        self.look_at_runtimes().await
    }

    /// Containers descend from containerd: what it may do bounds what they may.
    async fn look_at_host(&self) -> Result<()> {
        let Some(pid) = self.deps.containerd.introspection.server_pid() else {
            return Ok(());
        };
        let mut facts = sys::off_thread("look at the node", move || {
            sys::host_facts::gather_blocking(pid)
        })
        .await?;
        let settings = self.config.load();
        facts.has_apparmor &= !settings.containers.disable_apparmor;
        facts.selinux = facts
            .selinux
            .filter(|_| !settings.containers.disable_selinux);
        self.deps.host.store(Arc::new(facts));
        Ok(())
    }

    /// Cache classes are there before containers that name one. What is wrong with them is theirs alone.
    async fn make_classes(&self) -> Result<()> {
        let files = Arc::clone(&self.deps.device_files);
        sys::off_thread("make cache classes", move || {
            if let Err(error) = files.apply_classes_blocking() {
                tracing::error!(error = %error.chain(), "cache classes (RDT) cannot be used");
            }
            Ok(())
        })
        .await
    }

    /// What the handlers can do follows from their OCI runtimes, which are asked once containerd answers.
    async fn look_at_runtimes(&self) -> Result<()> {
        let ready = self.prepare(self.config.load()).await?;
        self.adopt(ready);
        Ok(())
    }

    /// Reads what `config` names, and asks the OCI runtimes that it names where containerd answers. Changes nothing.
    ///
    /// # Errors
    /// `InvalidArgument` naming the handler whose files cannot be read.
    pub(super) async fn prepare(&self, config: Arc<Config>) -> Result<Ready> {
        let kernel = self.deps.host.load().kernel;
        let introspection = &*self.deps.containerd.introspection;
        let driver = handlers::cgroup_driver(&config);
        let abilities = match self.link.state() {
            LinkState::Up { .. } => {
                let options = |handler: &Handler| handlers::shim_options(&config, handler, driver);
                features::ask_all(&config.runtimes, introspection, kernel, options).await
            }
            // Its return brings the rest.
            LinkState::Untried | LinkState::Down { .. } => (**self.abilities.load()).clone(),
        };
        let network = rooms::network_settings(&config);
        let log_quota = config.logs.quota;
        let known = abilities.clone();
        let handlers = sys::off_thread("make the handlers ready", move || {
            let can = |name: &str| known.get(name).copied().unwrap_or_default();
            handlers::table_blocking(&config, can)
        })
        .await?;
        Ok(Ready {
            abilities,
            handlers,
            network,
            log_quota,
        })
    }

    /// Puts in place what was prepared.
    pub(super) fn adopt(&self, ready: Ready) {
        let (default, table) = ready.handlers;
        self.abilities.store(Arc::new(ready.abilities));
        self.deps.handlers.replace(default, table);
        self.network.store(Arc::new(ready.network));
        self.containers.govern_logs(ready.log_quota);
    }

    /// Looks again whenever another connection to containerd stands. The one of `seen` was looked at already.
    pub(super) async fn follow(self, mut seen: u64) {
        let mut state = self.link.subscribe();
        loop {
            let current = match &*state.borrow_and_update() {
                LinkState::Up { generation, .. } => Some(*generation),
                LinkState::Untried | LinkState::Down { .. } => None,
            };
            if let Some(generation) = current
                && generation != seen
            {
                if self.look_again().await {
                    seen = generation;
                } else {
                    tokio::time::sleep(AFTER_FAILED_LOOK).await;
                    continue;
                }
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers whether it is known now what came back.
    async fn look_again(&self) -> bool {
        match self.look().await {
            Ok(()) => {
                self.trouble.store(None);
                tracing::info!("looked at containerd anew after it came back");
                true
            }
            Err(error) if error.kind() == crate::model::Kind::FailedPrecondition => {
                tracing::error!(%error, "the containerd that came back must not be used");
                self.trouble.store(Some(Arc::new(error.chain())));
                true
            }
            // It went away again, or is too busy with its own start to answer in time.
            Err(error) => {
                tracing::warn!(%error, "containerd could not be looked at; it is tried again");
                false
            }
        }
    }

    /// Looks again at the node by the rules of a changed configuration.
    ///
    /// # Errors
    /// Those of containerd, where it is there.
    pub(super) async fn apply(&self) -> Result<()> {
        match self.link.state() {
            LinkState::Up { .. } => self.look().await,
            LinkState::Untried | LinkState::Down { .. } => Ok(()),
        }
    }
}
