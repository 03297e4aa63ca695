//! What stands in containerd's record of a pause container: our mark, the labels and the extension that containerd's
//! own CRI plugin reads (so that an operator can switch runtimes and back), and a versioned extension of ours.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::containerd::{ContainerRecord, Payload};
use crate::model::{
    Classify, Context, Digest, Error, Kind, PodConfig, Resources, Result, SandboxId, Timestamp,
};
use crate::network::Attachment;

/// Label that says whether a record is a sandbox or a container, as the plugin has it.
pub const KIND_LABEL: &str = "io.cri-containerd.kind";
/// Value of [`KIND_LABEL`] for pause containers.
pub const KIND_SANDBOX: &str = "sandbox";
/// Value of [`KIND_LABEL`] for workload containers.
pub const KIND_CONTAINER: &str = "container";
/// Our mark: without it nothing is ever undone, stopped or removed on our own initiative.
pub const MARK: (&str, &str) = ("io.podwright.mark", "v1");
/// Name of the plugin's extension on pause containers.
pub const PLUGIN_SANDBOX: &str = "io.cri-containerd.sandbox.metadata";
const PLUGIN_SANDBOX_URL: &str = "github.com/containerd/cri/pkg/store/sandbox/Metadata";
/// Name of our extension on pause containers.
pub const OURS_SANDBOX: &str = "io.podwright.sandbox";
const OURS_SANDBOX_URL: &str = "podwright.sandbox.v1";
/// Name of our extension with what UpdatePodSandboxResources said last; missing where it was never called.
pub const RESOURCES: &str = "io.podwright.sandbox.resources";
const RESOURCES_URL: &str = "podwright.sandbox.resources.v1";

/// Longest label that containerd takes, key and value together.
const LABEL_BYTES: usize = 4096;

/// What we keep beside the plugin's extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMark {
    /// When the sandbox was asked for.
    pub created_at: Timestamp,
    /// Digest of the request.
    pub fingerprint: Digest,
    /// Runtime handler as asked for.
    pub handler: String,
}

/// Sums of a pod's containers, as UpdatePodSandboxResources says them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSums {
    /// Of its containers.
    pub resources: Option<Resources>,
    /// Of what the pod takes beside them.
    pub overhead: Option<Resources>,
}

impl PodSums {
    /// As an extension of the pause container's record.
    ///
    /// # Errors
    /// `Internal` where it cannot be encoded.
    pub fn payload(&self) -> Result<Payload> {
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.classify(Kind::Internal, || "encode a pod's resources".to_owned())?;
        Ok(Payload::new(RESOURCES_URL, bytes))
    }

    /// What the record of a pause container has of them.
    pub fn of(record: &ContainerRecord) -> Option<Self> {
        let stored = record.extensions.get(RESOURCES)?;
        let read = serde_json::from_slice(&stored.value);
        if let Err(error) = &read {
            tracing::warn!(sandbox.id = record.id, %error, "the updated resources of a pod cannot be read; those of its creation are shown");
        }
        read.ok()
    }
}

/// What the plugin's extension is made of.
pub struct SandboxMetadata<'a> {
    /// Sandbox.
    pub id: &'a SandboxId,
    /// Its configuration.
    pub config: &'a PodConfig,
    /// The same as record text.
    pub record: &'a str,
    /// Runtime handler as asked for.
    pub handler: &'a str,
    /// Pinned network namespace.
    pub netns: Option<&'a Path>,
    /// What ADD answered, once it did.
    pub attachment: Option<&'a Attachment>,
}

#[derive(Serialize)]
struct Versioned<T> {
    #[serde(rename = "Version")]
    version: &'static str,
    #[serde(rename = "Metadata")]
    metadata: T,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PluginSandbox<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: String,
    config: &'a RawValue,
    #[serde(rename = "NetNSPath")]
    netns_path: String,
    #[serde(rename = "IP")]
    ip: String,
    #[serde(rename = "AdditionalIPs")]
    additional_ips: Option<Vec<String>>,
    runtime_handler: &'a str,
    #[serde(rename = "CNIResult")]
    cni_result: Box<RawValue>,
    process_label: &'a str,
}

/// The record of a plugin's extension in its versioned envelope.
#[derive(Deserialize)]
pub struct StoredRecord {
    #[serde(rename = "Metadata")]
    metadata: StoredConfig,
}

#[derive(Deserialize)]
struct StoredConfig {
    #[serde(rename = "Config")]
    config: Box<RawValue>,
    #[serde(rename = "CNIResult", default)]
    cni_result: Option<Box<RawValue>>,
}

/// A pod's addresses, primary first.
pub fn ips(attachment: &Attachment) -> Vec<String> {
    let all = std::iter::once(&attachment.primary_ip).chain(&attachment.additional_ips);
    all.map(ToString::to_string).collect()
}

/// The CNI result in the form of the plugin's records; `null` means that ADD never ended.
pub fn cni_result(attachment: Option<&Attachment>) -> String {
    attachment.map_or_else(
        || "null".to_owned(),
        |attachment| attachment.cni_result().to_string(),
    )
}

/// Both extensions of a pause container's record.
///
/// # Errors
/// `Internal` where the record text is no JSON.
pub fn sandbox_extensions(
    of: &SandboxMetadata<'_>,
    mark: &SandboxMark,
) -> Result<BTreeMap<String, Payload>> {
    let encoding = || "encode a sandbox's record".to_owned();
    let config: &RawValue = serde_json::from_str(of.record).classify(Kind::Internal, encoding)?;
    let mut ips = of.attachment.map(ips).unwrap_or_default().into_iter();
    let cni = cni_result(of.attachment);
    let ip = ips.next().unwrap_or_default();
    let more: Vec<String> = ips.collect();
    let metadata = PluginSandbox {
        id: of.id.as_str(),
        name: of.config.identity.reserved_name(),
        config,
        netns_path: of
            .netns
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        ip,
        additional_ips: (!more.is_empty()).then_some(more),
        runtime_handler: of.handler,
        cni_result: RawValue::from_string(cni).classify(Kind::Internal, encoding)?,
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
            PLUGIN_SANDBOX.to_owned(),
            Payload::new(PLUGIN_SANDBOX_URL, plugin),
        ),
        (
            OURS_SANDBOX.to_owned(),
            Payload::new(OURS_SANDBOX_URL, ours),
        ),
    ]))
}

/// Reads back the request's record text and our mark.
///
/// # Errors
/// `Internal` naming the container and the extension that is missing or damaged.
pub fn read_sandbox(record: &ContainerRecord) -> Result<(String, SandboxMark)> {
    Ok((
        config_text(record, PLUGIN_SANDBOX)?,
        our_mark(record, OURS_SANDBOX)?,
    ))
}

/// Whether the plugin's extension of a pause container lacks what ADD answered.
///
/// # Errors
/// `Internal` naming the container and the extension that is missing or damaged.
pub fn lacks_network(record: &ContainerRecord) -> Result<bool> {
    let stored: StoredRecord = extension(record, PLUGIN_SANDBOX)?;
    Ok(stored.metadata.cni_result.is_none())
}

/// The configuration's record text in a plugin's extension.
///
/// # Errors
/// `Internal` naming the container and the extension.
pub fn config_text(record: &ContainerRecord, name: &str) -> Result<String> {
    let stored: StoredRecord = extension(record, name)?;
    Ok(stored.metadata.config.get().to_owned())
}

/// An extension of ours.
///
/// # Errors
/// `Internal` naming the container and the extension.
pub fn our_mark<T: serde::de::DeserializeOwned>(record: &ContainerRecord, name: &str) -> Result<T> {
    extension(record, name)
}

fn extension<T: serde::de::DeserializeOwned>(record: &ContainerRecord, name: &str) -> Result<T> {
    let what = || format!("container {}: extension {name}", record.id);
    let payload = record
        .extensions
        .get(name)
        .ok_or_else(|| Error::internal("missing"))
        .context(what)?;
    serde_json::from_slice(&payload.value).classify(Kind::Internal, what)
}

/// The labels of a record: the request's, then ours, which win. Pairs that containerd would refuse are left out: they
/// stand in the extension, which is what lists are answered from.
pub fn labels(asked: &BTreeMap<String, String>, kind: &str) -> BTreeMap<String, String> {
    let fits = |(key, value): &(&String, &String)| {
        key.len() + value.len() <= LABEL_BYTES
            && !key.starts_with("containerd.io/")
            && !key.starts_with("io.cri-containerd")
    };
    let mut labels: BTreeMap<String, String> = asked
        .iter()
        .filter(fits)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert(KIND_LABEL.to_owned(), kind.to_owned());
    labels.insert(MARK.0.to_owned(), MARK.1.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_control_meaning_or_too_long_stay_out_and_our_mark_wins() {
        let asked = BTreeMap::from([
            ("app".to_owned(), "web".to_owned()),
            ("containerd.io/gc.root".to_owned(), "x".to_owned()),
            ("long".to_owned(), "x".repeat(LABEL_BYTES)),
            (KIND_LABEL.to_owned(), "container".to_owned()),
            (MARK.0.to_owned(), "forged".to_owned()),
        ]);

        let labels = labels(&asked, KIND_SANDBOX);

        assert_eq!(labels.len(), 3);
        assert_eq!(
            (
                labels["app"].as_str(),
                labels[KIND_LABEL].as_str(),
                labels[MARK.0].as_str()
            ),
            ("web", "sandbox", "v1")
        );
    }
}
