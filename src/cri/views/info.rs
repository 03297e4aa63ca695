//! Verbose info: one JSON object under the key `info`, with the names that crictl and other tools read.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::index::{ContainerView, SandboxView};
use crate::model::security::NamespaceMode;
use crate::model::state::ContainerState;
use crate::model::{Classify, Kind, Result};
use crate::wire::{cri, gojson};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SandboxInfo<'a> {
    pid: u32,
    process_status: &'static str,
    net_namespace_closed: bool,
    runtime_handler: &'a str,
    runtime_type: &'a str,
    config: Option<&'a RawValue>,
    runtime_spec: Option<&'a RawValue>,
    cni_result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<cri::LinuxContainerResources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead: Option<cri::LinuxContainerResources>,
    /// Ours: what would not unwind.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stuck_steps: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerInfo<'a> {
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    pid: u32,
    removing: bool,
    snapshot_key: &'a str,
    snapshotter: &'a str,
    runtime_type: &'a str,
    config: Option<&'a RawValue>,
    runtime_spec: Option<&'a RawValue>,
}

/// The info of a sandbox; nothing unless `verbose`.
///
/// # Errors
/// `Internal` where it cannot be written as JSON.
pub(in crate::cri) fn sandbox(
    view: &SandboxView,
    verbose: bool,
) -> Result<BTreeMap<String, String>> {
    if !verbose {
        return Ok(BTreeMap::new());
    }
    let (resources, overhead) = view.updated.clone().unwrap_or_default();
    let has_own_network = view.config.security.namespaces.network != NamespaceMode::Node;
    under_info(&SandboxInfo {
        pid: view.pause_pid.map_or(0, |pid| pid.0),
        process_status: if view.pause_pid.is_some() {
            "running"
        } else {
            "deleted"
        },
        net_namespace_closed: has_own_network && view.netns.is_none(),
        runtime_handler: &view.handler,
        runtime_type: &view.runtime_type,
        config: raw(&view.record),
        runtime_spec: raw(&view.spec),
        cni_result: raw(&view.cni_result),
        resources: resources.as_ref().map(Into::into),
        overhead: overhead.as_ref().map(Into::into),
        stuck_steps: &view.stuck,
    })
}

/// The info of a container; nothing unless `verbose`.
///
/// # Errors
/// `Internal` where it cannot be written as JSON.
pub(in crate::cri) fn container(
    view: &ContainerView,
    verbose: bool,
) -> Result<BTreeMap<String, String>> {
    if !verbose {
        return Ok(BTreeMap::new());
    }
    under_info(&ContainerInfo {
        sandbox_id: view.sandbox.as_str(),
        pid: view.pid.map_or(0, |pid| pid.0),
        removing: view.state == ContainerState::Removing,
        snapshot_key: view.snapshot_key(),
        snapshotter: &view.snapshotter,
        runtime_type: &view.runtime_type,
        config: raw(&view.record),
        runtime_spec: raw(&view.spec),
    })
}

/// Stored JSON, shown as it is; `null` where it is none.
fn raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

fn under_info(info: &impl Serialize) -> Result<BTreeMap<String, String>> {
    let text = gojson::encode(info).classify(Kind::Internal, || "verbose info".to_owned())?;
    Ok(BTreeMap::from([("info".to_owned(), text)]))
}
