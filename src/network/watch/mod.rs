//! The network configuration of the moment: loaded at start, after each change of the directory, and now and then
//! anyway, as notices can be lost and the directory itself can be replaced.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Map, Value};
use tokio::io::Interest;
use tokio::time::Instant;

use super::NetworkStatus;
use super::conflist::{self, NetworkConfig};
use super::input;
use super::plugin::{Call, Runner, Verb, blocking};
use super::settings::{NetworkSettings, SharedNetworkSettings};
use super::shown;
use crate::model::{Context, Error, Kind, Result};
use crate::sys::errno::SysContext;
use crate::sys::readiness;

/// How long changes are let settle before the directory is read: an installer writes several files.
const SETTLE: Duration = Duration::from_millis(50);
/// How often a directory that is missing, or cannot be watched, is looked for.
const UNWATCHED_INTERVAL: Duration = Duration::from_secs(1);
/// For all STATUS calls of one network together.
const STATUS_DEADLINE: Duration = Duration::from_secs(10);

/// The configured networks, or why there are none.
type Loaded = std::result::Result<Vec<NetworkConfig>, String>;

/// What holds after a look at the directory. Want of descriptors or memory says nothing about what is configured: then
/// the configuration of before holds on.
fn outcome(before: &Loaded, looked: Result<Vec<NetworkConfig>>) -> Loaded {
    match (before, looked) {
        (Ok(networks), Err(error)) if error.kind() == Kind::ResourceExhausted => {
            tracing::warn!(
                error = error.chain(),
                "the network configuration cannot be read now; the one of before holds on"
            );
            Ok(networks.clone())
        }
        (_, looked) => looked.map_err(|error| error.chain()),
    }
}

/// Holds what is configured now and keeps it fresh.
#[derive(Debug)]
pub(super) struct Configs {
    settings: SharedNetworkSettings,
    loaded: ArcSwap<Loaded>,
    /// What plugins that can tell say is wrong; empty while all is well.
    ailing: ArcSwap<String>,
}

impl Configs {
    pub(super) fn new(settings: SharedNetworkSettings) -> Self {
        let not_yet = Err("cni config is being loaded".to_owned());
        Self {
            settings,
            loaded: ArcSwap::from_pointee(not_yet),
            ailing: ArcSwap::default(),
        }
    }

    /// The networks to attach new pods to.
    ///
    /// # Errors
    /// `Unavailable` saying what is wrong with the configuration.
    pub(super) fn networks(&self) -> Result<Vec<NetworkConfig>> {
        let loaded = Loaded::clone(&self.loaded.load());
        loaded.map_err(|text| Error::unavailable(format!("network configuration: {text}")))
    }

    /// Whether new pods can be attached; never waits.
    pub(super) fn status(&self) -> NetworkStatus {
        let trouble = match self.loaded.load().as_ref() {
            Err(text) => Some(text.clone()),
            Ok(_) => Some(self.ailing.load().as_ref().clone()).filter(|text| !text.is_empty()),
        };
        match trouble {
            None => NetworkStatus::ready(),
            Some(text) => NetworkStatus::not_ready(format!("Network plugin returns error: {text}")),
        }
    }

    /// The configuration of the moment, for people; null where none could be loaded.
    pub(super) fn shown(&self) -> Value {
        match self.loaded.load().as_ref() {
            Ok(networks) => shown::shown(&self.settings.load(), networks),
            Err(_shown_by_status) => Value::Null,
        }
    }

    /// Reads the directory now, and asks the plugins that can tell how they are.
    pub(super) async fn refresh(&self, runner: &Runner) {
        let settings = self.settings.load_full();
        let (dir, max) = (settings.conf_dir.clone(), settings.max_conf_num);
        let loaded = blocking(move || conflist::load_dir_blocking(&dir, max)).await;
        let loaded = outcome(&self.loaded.load(), loaded);
        if *self.loaded.load_full() != loaded {
            match &loaded {
                Ok(networks) => {
                    let names: Vec<&str> = networks.iter().map(|one| one.name.as_str()).collect();
                    tracing::info!(?names, "network configuration loaded");
                }
                Err(why) => tracing::warn!(why, "no usable network configuration"),
            }
            self.loaded.store(Arc::new(loaded.clone()));
        }
        let ailing = ask_all(runner, &settings, loaded.as_deref().unwrap_or_default()).await;
        if *self.ailing.load_full() != ailing {
            tracing::info!(ailing, "the network plugins' own state changed");
            self.ailing.store(Arc::new(ailing));
        }
    }

    /// Keeps the configuration fresh; never ends by itself.
    pub(super) async fn watch(&self, runner: &Runner) {
        loop {
            // Armed before the read: whatever changes during it is noticed. Armed anew each time: the directory may
            // have been replaced, or the setting changed.
            let settings = self.settings.load_full();
            let armed = arm(&settings.conf_dir);
            self.refresh(runner).await;
            match &armed {
                Ok(inotify) => {
                    let changed = wait_for_notice(inotify);
                    match tokio::time::timeout(settings.reload_interval, changed).await {
                        Ok(Ok(())) => tokio::time::sleep(SETTLE).await,
                        Ok(Err(error)) => {
                            tracing::warn!(%error, "cannot be told of changes of the network configuration");
                            tokio::time::sleep(UNWATCHED_INTERVAL).await;
                        }
                        Err(_elapsed) => {}
                    }
                }
                Err(_missing_or_exhausted) => tokio::time::sleep(UNWATCHED_INTERVAL).await,
            }
        }
    }
}

fn arm(dir: &Path) -> Result<Inotify> {
    let what = || format!("watch {}", dir.display());
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).sys(what)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(dir, changes).sys(what)?;
    Ok(inotify)
}

async fn wait_for_notice(inotify: &Inotify) -> Result<()> {
    use std::os::fd::AsFd;
    let what = || "wait for a change of the network configuration".to_owned();
    let watched = readiness::watch_borrowed(inotify.as_fd(), Interest::READABLE).context(what)?;
    watched.readable().await.map(drop).sys(what)
}

/// What the plugins of all networks that know STATUS complain about; empty where nobody does.
async fn ask_all(
    runner: &Runner,
    settings: &NetworkSettings,
    networks: &[NetworkConfig],
) -> String {
    let mut complaints = Vec::new();
    for network in networks {
        if network.version.is_at_least([1, 1, 0])
            && let Err(error) = ask(runner, settings, network).await
        {
            complaints.push(error.chain());
        }
    }
    complaints.join("; ")
}

async fn ask(runner: &Runner, settings: &NetworkSettings, network: &NetworkConfig) -> Result<()> {
    let deadline = Instant::now() + STATUS_DEADLINE;
    for plugin in &network.plugins {
        let call = Call {
            verb: Verb::Status,
            plugin_type: &plugin.plugin_type,
            container_id: "",
            netns: Path::new(""),
            ifname: "",
            args: "",
            stdin: input::stdin(network, plugin, None, Map::new())?,
            deadline,
        };
        if let Err(failure) = runner.run(settings, call).await {
            let plugin = &plugin.plugin_type;
            return Err(failure.into_error(format!(
                "network {}: plugin {plugin} (STATUS)",
                network.name
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
