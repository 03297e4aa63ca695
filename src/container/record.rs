//! What stands in containerd's record of a workload container: the extension that containerd's own CRI plugin reads,
//! and a versioned one of ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::containerd::{ContainerRecord, Payload};
use crate::index::{ContainerImage, ContainerUser, ContainerView, LayerProject};
use crate::model::{Classify, Digest, Kind, Result, Signal, Timestamp};
use crate::sandbox::record as pod_record;

/// Name of the plugin's extension on workload containers.
pub const PLUGIN_CONTAINER: &str = "io.cri-containerd.container.metadata";
const PLUGIN_CONTAINER_URL: &str = "github.com/containerd/cri/pkg/store/container/Metadata";
/// Name of our extension on workload containers.
pub const OURS_CONTAINER: &str = "io.podwright.container";
const OURS_CONTAINER_URL: &str = "podwright.container.v1";

/// What we keep beside the plugin's extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMark {
    /// When the container was asked for.
    pub created_at: Timestamp,
    /// Digest of the request.
    pub fingerprint: Digest,
    /// Its image, which may be gone by the time someone asks.
    pub image: ContainerImage,
    /// User of its init process.
    pub user: ContainerUser,
    /// The images that it mounts as volumes, in the order of its mounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_images: Vec<ContainerImage>,
    /// By what the file system counts its writable layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<LayerProject>,
    /// The checkpoint that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
}

/// The parts of the plugin's extension that we read back.
#[derive(Debug, PartialEq, Eq)]
pub struct StoredContainer {
    /// The sandbox.
    pub sandbox: String,
    /// Absolute path of the log; empty without one.
    pub log_path: String,
    /// Signal that asks it to stop; empty for the default.
    pub stop_signal: String,
    /// The request's configuration as record text.
    pub config: String,
}

#[derive(Serialize)]
struct Versioned<'a> {
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "Metadata")]
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Name")]
    name: &'a str,
    #[serde(rename = "SandboxID")]
    sandbox: &'a str,
    #[serde(rename = "Config")]
    config: &'a RawValue,
    #[serde(rename = "ImageRef")]
    image: &'a str,
    #[serde(rename = "LogPath")]
    log_path: &'a str,
    #[serde(rename = "StopSignal")]
    stop_signal: String,
    #[serde(rename = "ProcessLabel")]
    process_label: &'a str,
}

#[derive(Deserialize)]
struct StoredVersioned {
    #[serde(rename = "Metadata")]
    metadata: StoredMetadata,
}

#[derive(Deserialize)]
struct StoredMetadata {
    #[serde(rename = "SandboxID")]
    sandbox: String,
    #[serde(rename = "LogPath", default)]
    log_path: String,
    #[serde(rename = "StopSignal", default)]
    stop_signal: String,
    #[serde(rename = "Config")]
    config: Box<RawValue>,
}

/// Both extensions of a workload container's record; `reserved` is the plugin's name for it, `signal` the stop signal that
/// was asked for.
///
/// # Errors
/// `Internal` where the record text is no JSON.
pub fn extensions(
    view: &ContainerView,
    reserved: &str,
    signal: Option<Signal>,
    mark: &ContainerMark,
) -> Result<BTreeMap<String, Payload>> {
    let encoding = || "encode a container's record".to_owned();
    let metadata = Metadata {
        id: view.id.as_str(),
        name: reserved,
        sandbox: view.sandbox.as_str(),
        config: serde_json::from_str(&view.record).classify(Kind::Internal, encoding)?,
        image: &view.image.id,
        log_path: &view.log_path,
        stop_signal: signal.map_or_else(String::new, |signal| signal.to_string()),
        process_label: "",
    };
    let plugin = serde_json::to_vec(&Versioned {
        version: "v1",
        metadata,
    })
    .classify(Kind::Internal, encoding)?;
    let ours = serde_json::to_vec(mark).classify(Kind::Internal, encoding)?;
    Ok(BTreeMap::from([
        (
            PLUGIN_CONTAINER.to_owned(),
            Payload::new(PLUGIN_CONTAINER_URL, plugin),
        ),
        (
            OURS_CONTAINER.to_owned(),
            Payload::new(OURS_CONTAINER_URL, ours),
        ),
    ]))
}

/// Reads both extensions back.
///
/// # Errors
/// `Internal` naming the container and the extension that is missing or damaged.
pub fn read(record: &ContainerRecord) -> Result<(StoredContainer, ContainerMark)> {
    let StoredVersioned { metadata } = pod_record::our_mark(record, PLUGIN_CONTAINER)?;
    let stored = StoredContainer {
        sandbox: metadata.sandbox,
        log_path: metadata.log_path,
        stop_signal: metadata.stop_signal,
        config: metadata.config.get().to_owned(),
    };
    Ok((stored, pod_record::our_mark(record, OURS_CONTAINER)?))
}
