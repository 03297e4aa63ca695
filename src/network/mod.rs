//! The CNI runtime side: configuration, plugins, attachments, network namespaces.

mod args;
mod bandwidth;
mod conflist;
mod failure;
mod plugin;
mod result;
mod settings;
#[cfg(test)]
mod testing;
mod version;

pub use result::{Dns, Route};
pub use settings::{IpPreference, NetworkSettings, SharedNetworkSettings};
