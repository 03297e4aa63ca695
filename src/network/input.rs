//! The JSON that a plugin reads.

use serde_json::{Map, Value};

use super::conflist::{NetworkConfig, PluginConfig};
use crate::model::{Classify, Kind, Result};

/// The plugin's own object, with what belongs to the list, to the pod and to the plugin before it put in.
///
/// # Errors
/// `Internal` where it cannot be encoded.
pub(super) fn stdin(
    network: &NetworkConfig,
    plugin: &PluginConfig,
    previous: Option<&Value>,
    runtime_config: Map<String, Value>,
) -> Result<Vec<u8>> {
    let mut object = plugin.object.clone();
    let mut put = |key: &str, value: Value| drop(object.insert(key.to_owned(), value));
    put("name", network.name.as_str().into());
    put("cniVersion", network.version.as_str().into());
    if let Some(previous) = previous {
        put("prevResult", previous.clone());
    }
    if !runtime_config.is_empty() {
        put("runtimeConfig", Value::Object(runtime_config));
    }
    serde_json::to_vec(&object).classify(Kind::Internal, || {
        format!("encode the input of plugin {}", plugin.plugin_type)
    })
}
