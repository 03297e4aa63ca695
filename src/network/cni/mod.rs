//! Attaches sandboxes by running the configured plugins.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, join_all};
use serde_json::Value;

use super::attachment::{Attachment, NetworkResult};
use super::cache::Slot;
use super::intent::{AttachRequest, Intent, PlannedNetwork};
use super::plugin::{Runner, blocking};
use super::settings::{NetworkSettings, SharedNetworkSettings};
use super::version::CniVersion;
use super::visit::Visit;
use super::watch::Configs;
use super::{Network, NetworkStatus, orphans, result};
use crate::model::{Context, Result};
use crate::ops::LiveTable;
use crate::sys::netns;

/// Most configurations whose last outcome is remembered.
const OUTCOMES_MAX: usize = 64;

/// The [`Network`] of a node: CNI plugins as its configuration directory names them.
#[derive(Debug)]
pub struct Cni {
    settings: SharedNetworkSettings,
    configs: Configs,
    runner: Runner,
    /// By configuration text: whether the last ADD with it succeeded.
    outcomes: Mutex<HashMap<String, bool>>,
    /// Sandboxes whose plugins have all ended, as their ADD succeeded here. For others one may still run: started by an
    /// earlier process, or killed and not gone yet.
    quiet: Mutex<HashSet<String>>,
}

impl Cni {
    /// Not loaded yet: call [`Cni::refresh`] before the first pod and keep [`Cni::watch`] running. Each plugin that runs
    /// is a row of `live`.
    pub fn new(settings: SharedNetworkSettings, live: LiveTable) -> Self {
        Self {
            configs: Configs::new(Arc::clone(&settings)),
            settings,
            runner: Runner::new(live),
            outcomes: Mutex::default(),
            quiet: Mutex::default(),
        }
    }

    /// The calls of plugins that have ended.
    pub fn plugin_calls(&self) -> &super::PluginCalls {
        self.runner.ended()
    }

    /// Reads the configuration now.
    pub async fn refresh(&self) {
        self.configs.refresh(&self.runner).await;
    }

    /// Follows changes of the configuration; never ends by itself.
    pub async fn watch(&self) {
        self.configs.watch(&self.runner).await;
    }

    async fn add_all(&self, intent: &Intent) -> Result<Attachment> {
        let settings = self.settings.load_full();
        let adds = intent
            .networks
            .iter()
            .map(|network| self.add_one(&settings, intent, network));
        let results = if settings.setup_serially {
            let mut results = Vec::new();
            for add in adds {
                results.push(Ok(add.await?));
            }
            results
        } else {
            join_all(adds).await // all end before the first error is told: nothing runs on beside an undo
        };
        let results = results.into_iter().collect::<Result<_>>()?;
        locked(&self.quiet, |quiet| quiet.insert(intent.sandbox.clone()));
        Attachment::assemble(results, settings.ip_preference)
    }

    async fn add_one(
        &self,
        settings: &NetworkSettings,
        intent: &Intent,
        planned: &PlannedNetwork,
    ) -> Result<NetworkResult> {
        let added = self
            .add_and_keep(settings, intent, planned)
            .await
            .context(|| format!("attach to network {} as {}", planned.name, planned.ifname));
        locked(&self.outcomes, |outcomes| {
            if outcomes.len() >= OUTCOMES_MAX {
                outcomes.clear();
            }
            outcomes.insert(planned.config.clone(), added.is_ok());
        });
        added
    }

    async fn add_and_keep(
        &self,
        settings: &NetworkSettings,
        intent: &Intent,
        planned: &PlannedNetwork,
    ) -> Result<NetworkResult> {
        let visit = Visit::new(&self.runner, settings, intent, planned)?;
        let result = visit.add().await?;
        let slot = Slot::of(&settings.cache_dir, intent, planned);
        let (network, ifname) = (planned.name.clone(), planned.ifname.clone());
        blocking(move || {
            slot.store_blocking(&result)?;
            Ok(NetworkResult {
                network,
                ifname,
                result,
            })
        })
        .await
    }

    async fn del_all(&self, intent: &Intent, attachment: Option<&Attachment>) -> Result<()> {
        let settings = self.settings.load_full();
        if !locked(&self.quiet, |quiet| quiet.remove(&intent.sandbox)) {
            orphans::end(&intent.sandbox).await?;
        }
        let path = intent.netns.clone();
        let open = blocking(move || netns::is_pinned_blocking(&path)).await?;
        let netns = if open { &intent.netns } else { Path::new("") };
        let mut first = Ok(());
        for planned in &intent.networks {
            let known = attachment.and_then(|all| all.result_of(&planned.name, &planned.ifname));
            let deleted = self.del_one(&settings, intent, planned, netns, known).await;
            let deleted = deleted
                .context(|| format!("detach {} from network {}", planned.ifname, planned.name));
            first = first.and(deleted); // one that stays does not keep the others
        }
        first
    }

    async fn del_one(
        &self,
        settings: &NetworkSettings,
        intent: &Intent,
        planned: &PlannedNetwork,
        netns: &Path,
        known: Option<&Value>,
    ) -> Result<()> {
        let visit = Visit::new(&self.runner, settings, intent, planned)?;
        let slot = Slot::of(&settings.cache_dir, intent, planned);
        let kept = match known {
            Some(known) => Some(known.clone()),
            None => {
                let slot = slot.clone();
                blocking(move || Ok(slot.load_blocking())).await?
            }
        };
        let previous = previous_of(kept, visit.version());
        visit.del(netns, previous.as_ref()).await?;
        blocking(move || slot.remove_blocking()).await
    }
}

impl Network for Cni {
    fn status(&self) -> NetworkStatus {
        self.configs.status()
    }

    fn shown(&self) -> Value {
        self.configs.shown()
    }

    fn plan(&self, request: &AttachRequest<'_>) -> Result<Intent> {
        Intent::plan(request, &self.configs.networks()?)
    }

    fn last_add_succeeded(&self, intent: &Intent) -> bool {
        locked(&self.outcomes, |outcomes| {
            intent
                .networks
                .iter()
                .all(|network| outcomes.get(&network.config) == Some(&true))
        })
    }

    fn add<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Attachment>> {
        Box::pin(self.add_all(intent))
    }

    fn del<'a>(
        &'a self,
        intent: &'a Intent,
        attachment: Option<&'a Attachment>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.del_all(intent, attachment))
    }
}

/// The result of the ADD in the version of the list; `None` where that version knows no such thing or nothing usable was
/// kept.
fn previous_of(kept: Option<Value>, version: &CniVersion) -> Option<Value> {
    if !version.is_at_least([0, 4, 0]) {
        return None;
    }
    result::convert(&kept?, version)
        .inspect_err(|error| tracing::warn!(%error, "DEL runs without the result of ADD"))
        .ok()
}

fn locked<T, R>(state: &Mutex<T>, work: impl FnOnce(&mut T) -> R) -> R {
    work(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;
