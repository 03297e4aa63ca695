//! One network's list of plugins, run through for one sandbox: forwards to attach, backwards to detach.

use std::path::Path;

use serde_json::Value;
use tokio::time::Instant;

use super::conflist::{self, NetworkConfig, PluginConfig};
use super::failure::Failure;
use super::intent::{Intent, PlannedNetwork};
use super::plugin::{Call, Runner, Verb};
use super::settings::NetworkSettings;
use super::version::CniVersion;
use super::{args, input, result};
use crate::model::{Context, Result};

/// What all plugins of one network are told alike.
pub(super) struct Visit<'a> {
    runner: &'a Runner,
    settings: &'a NetworkSettings,
    intent: &'a Intent,
    planned: &'a PlannedNetwork,
    network: NetworkConfig,
    args: String,
}

impl<'a> Visit<'a> {
    /// # Errors
    /// Where the intent's configuration does not parse, which it did when the intent was made.
    pub(super) fn new(
        runner: &'a Runner,
        settings: &'a NetworkSettings,
        intent: &'a Intent,
        planned: &'a PlannedNetwork,
    ) -> Result<Self> {
        Ok(Self {
            runner,
            settings,
            intent,
            planned,
            network: conflist::parse(&planned.config)?,
            args: args::joined(&intent.args),
        })
    }

    /// The version that the plugins are spoken to in.
    pub(super) fn version(&self) -> &CniVersion {
        &self.network.version
    }

    /// Attaches: each plugin sees the answer of the one before. Returns the last one's.
    pub(super) async fn add(&self) -> Result<Value> {
        let deadline = Instant::now() + self.settings.add_deadline;
        let mut previous = None;
        for plugin in &self.network.plugins {
            let what = || format!("plugin {} (ADD)", plugin.plugin_type);
            let netns = &self.intent.netns;
            let answer = self
                .call(Verb::Add, plugin, netns, previous.as_ref(), deadline)
                .await
                .map_err(|failure| failure.into_error(what()))?;
            let (value, _checked) = result::parse(&answer, self.version()).context(what)?;
            previous = Some(value);
        }
        Ok(previous.unwrap_or_default())
    }

    /// Detaches, the last plugin first, up to the first that fails. `netns` is empty once the namespace is closed;
    /// `previous` is the answer of the whole ADD.
    pub(super) async fn del(&self, netns: &Path, previous: Option<&Value>) -> Result<()> {
        let deadline = Instant::now() + self.settings.del_deadline;
        let closed = netns.as_os_str().is_empty();
        for plugin in self.network.plugins.iter().rev() {
            let what = format!("plugin {} (DEL)", plugin.plugin_type);
            match self
                .call(Verb::Del, plugin, netns, previous, deadline)
                .await
            {
                Ok(_said) => {}
                Err(failure) if failure.means_gone(closed) => {
                    let error = failure.into_error(what);
                    tracing::info!(sandbox = self.intent.sandbox, %error, "nothing left to detach");
                }
                Err(failure) => return Err(failure.into_error(what)),
            }
        }
        Ok(())
    }

    async fn call(
        &self,
        verb: Verb,
        plugin: &PluginConfig,
        netns: &Path,
        previous: Option<&Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, Failure> {
        let asked_for = args::runtime_config(plugin, &self.intent.capabilities);
        let call = Call {
            verb,
            plugin_type: &plugin.plugin_type,
            container_id: &self.intent.sandbox,
            netns,
            ifname: &self.planned.ifname,
            args: &self.args,
            stdin: input::stdin(&self.network, plugin, previous, asked_for)?,
            deadline,
        };
        self.runner.run(self.settings, call).await
    }
}
