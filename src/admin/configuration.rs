//! The configuration, re-read on demand.

use futures::future::BoxFuture;

use crate::config::Change;
use crate::model::Result;
use crate::wire::admin::{ConfigurationChange, ReloadConfigurationResponse};

/// Reads the configuration again.
pub trait Configuration: Send + Sync {
    /// What changed, or everything that is wrong; nothing has changed then. Dropping the future leaves it at work.
    fn reload(&self) -> BoxFuture<'_, Result<Vec<Change>>>;
}

pub(super) fn reloaded(changes: Vec<Change>) -> ReloadConfigurationResponse {
    let change = |change: Change| ConfigurationChange {
        key: change.key,
        before: change.before,
        after: change.after,
        waits_for_restart: change.waits,
    };
    ReloadConfigurationResponse {
        changes: changes.into_iter().map(change).collect(),
    }
}
