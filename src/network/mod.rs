//! The CNI runtime side: configuration, plugins, attachments, network namespaces.
//!
//! A sandbox is attached in two steps. [`Network::plan`] fixes all that the plugins will be told into an [`Intent`], which
//! the caller makes durable; [`Network::add`] then runs the plugins. Whatever happens afterwards, [`Network::del`] needs
//! nothing but that intent: not the configuration file, not the request, not the namespace, not this process.
//!
//! ```text
//!   conf dir --watch--> Configs --plan--> Intent --add--> Attachment
//!                                           |                |
//!                                           +------ del -----+
//! ```

mod args;
mod attachment;
mod bandwidth;
mod cache;
mod calls;
mod cni;
mod conflist;
mod failure;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod input;
mod intent;
mod orphans;
mod plugin;
mod result;
mod settings;
mod shown;
mod survey;
#[cfg(test)]
mod testing;
mod version;
mod visit;
mod watch;

use futures::future::BoxFuture;
use serde_json::Value;

pub use attachment::{AttachedInterface, AttachedIp, Attachment};
pub use calls::{PluginCalls, PluginReport};
pub use cni::Cni;
pub use intent::{AttachRequest, Intent};
pub use result::{Dns, Route};
pub use settings::{IpPreference, NetworkSettings, SharedNetworkSettings};
pub use survey::{SurveyedNetwork, survey_blocking};

use crate::model::Result;

/// Attaches sandboxes to the pod network and detaches them.
pub trait Network: Send + Sync {
    /// Whether new sandboxes can be attached, and if not why; never waits.
    fn status(&self) -> NetworkStatus;

    /// The configuration of the moment, for people; never waits. Null where there is none.
    fn shown(&self) -> Value;

    /// Fixes what is going to be attached. Make it durable before [`Network::add`].
    ///
    /// # Errors
    /// `Unavailable` without a usable configuration; `InvalidArgument` where the pod's names or annotations cannot be
    /// handed to plugins. Nothing has been attached then.
    fn plan(&self, request: &AttachRequest<'_>) -> Result<Intent>;

    /// Whether the last attachment with the configuration of `intent` succeeded: then it is worth doing other work at the
    /// same time.
    fn last_add_succeeded(&self, intent: &Intent) -> bool;

    /// Attaches. After a failure, or where this future was dropped, parts may be attached: call [`Network::del`].
    ///
    /// # Errors
    /// What a plugin reported; `DeadlineExceeded` naming the one that did not end.
    fn add<'a>(&'a self, intent: &'a Intent) -> BoxFuture<'a, Result<Attachment>>;

    /// Detaches what `intent` planned, whether or not that was ever attached; can be repeated. Must not run while
    /// [`Network::add`] does for the same intent. `attachment` is the result of the latter, where there was one.
    ///
    /// # Errors
    /// What a plugin reported, after all networks were tried; something may still be attached then.
    fn del<'a>(
        &'a self,
        intent: &'a Intent,
        attachment: Option<&'a Attachment>,
    ) -> BoxFuture<'a, Result<()>>;
}

/// Whether new sandboxes can be attached, as CRI's condition `NetworkReady` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkStatus {
    /// The condition itself.
    pub ready: bool,
    /// One word for programs; empty while ready.
    pub reason: &'static str,
    /// A sentence for people; empty while ready.
    pub message: String,
}

impl NetworkStatus {
    /// All is well.
    pub fn ready() -> Self {
        Self {
            ready: true,
            reason: "",
            message: String::new(),
        }
    }

    /// New sandboxes cannot be attached because of `message`.
    pub fn not_ready(message: String) -> Self {
        Self {
            ready: false,
            reason: "NetworkPluginNotReady",
            message,
        }
    }
}
