//! The configuration re-read while the server runs, as a transaction: everything that it names is read and checked
//! first, then all of it takes effect, or nothing does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use tokio::sync::Mutex as Turn;

use super::logging::Level;
use super::run::Origin;
use super::tending::Tending;
use crate::admin::Configuration;
use crate::config::{self, Change, Config, Shared};
use crate::model::{Clock, Result, Timestamp};
use crate::sys;
use crate::sys::fingerprint::Fingerprint;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Re-reads the configuration. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Reloading(Arc<Inner>);

struct Inner {
    config: Shared,
    origin: Origin,
    level: Level,
    tending: Tending,
    clock: Arc<dyn Clock>,
    /// One at a time.
    turn: Turn<()>,
    last: Mutex<Option<Last>>,
}

/// How the last reload ended.
struct Last {
    at: Timestamp,
    outcome: std::result::Result<Vec<Change>, String>,
}

impl Reloading {
    /// Reads what `origin` names, for rooms that `tending` hands the parts to that they keep.
    pub(super) fn new(origin: Origin, level: Level, tending: Tending) -> Self {
        Self(Arc::new(Inner {
            config: tending.config.clone(),
            origin,
            level,
            clock: Arc::clone(&tending.deps.clock),
            tending,
            turn: Turn::default(),
            last: Mutex::default(),
        }))
    }

    /// Reads the configuration again and says what changed, and what of it waits for a restart.
    ///
    /// # Errors
    /// `InvalidArgument` with everything that is wrong; nothing has changed then.
    pub(super) async fn again(&self) -> Result<Vec<Change>> {
        let inner = &*self.0;
        let _turn = inner.turn.lock().await;
        let outcome = self.transact().await;
        let shown = match &outcome {
            Ok(changes) => Ok(changes.clone()),
            Err(error) => Err(error.chain()),
        };
        match &shown {
            Ok(changes) => tell(changes),
            Err(why) => tracing::error!(why, "reload refused; the configuration stays as it was"),
        }
        let at = inner.clock.now();
        let mut last = inner.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Last { at, outcome: shown });
        outcome
    }

    async fn transact(&self) -> Result<Vec<Change>> {
        let inner = &*self.0;
        let origin = inner.origin.clone();
        let read = move || Config::load(origin.path.as_deref(), &origin.overrides);
        let file = sys::off_thread("read the configuration", read).await?;
        let (config, changes) = file.in_place_of(&inner.config.load())?;
        let warnings = config.warnings();
        let ready = inner.tending.prepare(Arc::new(config.clone())).await?;
        inner.level.set(&config.diagnostics.level)?;
        inner.config.replace(config);
        inner.tending.adopt(ready);
        let tending = inner.tending.clone();
        inner
            .tending
            .deps
            .supervisor
            .start("apply configuration", async move {
                if let Err(error) = tending.apply().await {
                    tracing::error!(%error, "a part of the new configuration did not take effect");
                }
            });
        for warning in warnings {
            tracing::warn!("configuration: {warning}");
        }
        Ok(changes)
    }

    /// Reloads whenever the file has changed and then stays the same for a moment, as long as the configuration wants it.
    pub(super) async fn watch(self) {
        let path = self.path();
        let mut known = print(&path).await;
        let mut before = known;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = print(&path).await;
            let is_settled = std::mem::replace(&mut before, now) == now;
            if now == known || !is_settled {
                continue;
            }
            known = now;
            if self.0.config.load().server.watch_config {
                tracing::info!(file = %path.display(), "the configuration's file has changed");
                // What came of it was logged.
                drop(self.again().await);
            }
        }
    }

    fn path(&self) -> PathBuf {
        let named = self.0.origin.path.clone();
        named.unwrap_or_else(|| PathBuf::from(config::DEFAULT_PATH))
    }

    /// How the last reload ended, as JSON; `None` before the first.
    pub(super) fn shown(&self) -> Option<serde_json::Value> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref()?;
        let (changes, error) = match &last.outcome {
            Ok(changes) => (changes.as_slice(), ""),
            Err(why) => (&[][..], why.as_str()),
        };
        let keys = |waits: bool| -> Vec<&str> {
            let those = changes.iter().filter(|change| change.waits == waits);
            those.map(|change| change.key.as_str()).collect()
        };
        Some(json!({
            "at": last.at.0,
            "changed": keys(false),
            "waitingForRestart": keys(true),
            "error": error,
        }))
    }
}

impl Configuration for Reloading {
    fn reload(&self) -> BoxFuture<'_, Result<Vec<Change>>> {
        let this = self.clone();
        let work = async move { this.again().await };
        Box::pin(self.0.tending.deps.supervisor.detached("reload", work))
    }
}

fn tell(changes: &[Change]) {
    for change in changes {
        let Change {
            key, before, after, ..
        } = change;
        if change.waits {
            tracing::warn!(key, before, after, "this change waits for a restart");
        } else {
            tracing::info!(key, before, after, "a key has changed");
        }
    }
    let waiting = changes.iter().filter(|change| change.waits).count();
    let done = changes.len().saturating_sub(waiting);
    tracing::info!(done, waiting, "configuration reloaded");
}

/// What the file is; `None` where it is not there.
async fn print(path: &Path) -> Option<Fingerprint> {
    let path = path.to_owned();
    let look = move || Ok(Fingerprint::of_path_blocking(&path));
    let looked = sys::off_thread("look at the configuration's file", look).await;
    looked.unwrap_or(None)
}
