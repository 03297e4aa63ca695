//! Verbose info: one JSON object under the key `info`, with the names that crictl and other tools read.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::containerd::Payload;
use crate::index::{ContainerView, SandboxView};
use crate::logs::{Dropped, PumpStats};
use crate::model::security::NamespaceMode;
use crate::model::state::ContainerState;
use crate::model::{Classify, Kind, Resources, Result, Timestamp};
use crate::ops::{Passage, StepTime};
use crate::sandbox::RuntimeHandler;
use crate::wire::{cri, gojson, runc};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SandboxInfo<'a> {
    pid: u32,
    process_status: &'static str,
    net_namespace_closed: bool,
    /// All three are empty for the pause program that needs no image.
    image: &'a str,
    snapshot_key: &'a str,
    snapshotter: &'a str,
    runtime_handler: &'a str,
    runtime_type: &'a str,
    runtime_options: Option<RuncOptions>,
    config: Option<&'a RawValue>,
    runtime_spec: Option<&'a RawValue>,
    cni_result: Option<&'a RawValue>,
    sandbox_metadata: VersionedMetadata<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<cri::ContainerResources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overhead: Option<cri::ContainerResources>,
    /// Ours: what would not unwind.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stuck_steps: &'a [String],
    /// Ours: where the time of its start went.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    timeline: Vec<TimelineEntry>,
}

/// One operation of the start of a pod. Times are microseconds, since that operation began where they stand in a step.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TimelineEntry {
    operation: &'static str,
    object: String,
    /// In nanoseconds since the epoch.
    started_at: i64,
    /// Absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    took_us: Option<u128>,
    steps: Vec<TimelineStep>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TimelineStep {
    step: &'static str,
    at_us: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_us: Option<u128>,
}

impl From<Passage> for TimelineEntry {
    fn from(passage: Passage) -> Self {
        let took = |began: Timestamp, ended: Option<Timestamp>| {
            ended.map(|ended| ended.since(began).as_micros())
        };
        let step = |step: &StepTime| TimelineStep {
            step: step.name,
            at_us: step.began.since(passage.began).as_micros(),
            took_us: took(step.began, step.ended),
        };
        Self {
            operation: passage.kind,
            started_at: passage.began.0,
            took_us: took(passage.began, passage.ended),
            steps: passage.steps.iter().map(step).collect(),
            object: passage.object,
        }
    }
}

/// containerd's sandbox metadata, as it stores it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionedMetadata<'a> {
    version: &'static str,
    metadata: SandboxMetadata<'a>,
}

#[derive(Serialize)]
struct SandboxMetadata<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "Config")]
    config: Option<&'a RawValue>,
    #[serde(rename = "NetNSPath")]
    netns_path: String,
    #[serde(rename = "IP")]
    ip: &'a str,
    #[serde(rename = "AdditionalIPs")]
    additional_ips: Option<&'a [String]>,
    #[serde(rename = "RuntimeHandler")]
    runtime_handler: &'a str,
    #[serde(rename = "CNIResult")]
    cni_result: Option<&'a RawValue>,
    #[serde(rename = "ProcessLabel")]
    process_label: &'static str,
}

/// The runc shim's options that we set, under the interface's own names.
#[derive(PartialEq, Eq, Default, Serialize)]
struct RuncOptions {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    no_new_keyring: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    binary_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    root: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    systemd_cgroup: bool,
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
    runtime_options: Option<RuncOptions>,
    config: Option<&'a RawValue>,
    runtime_spec: Option<&'a RawValue>,
    /// Ours: the checkpoint that it goes on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    restored_from: Option<&'a str>,
    /// Why it ended, as far as podwright found out.
    #[serde(skip_serializing_if = "str::is_empty")]
    exit_diagnosis: &'a str,
    /// Ours: by what the file system counts its writable layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    quota_project: Option<u32>,
    /// Ours: what became of its output since its start or ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogInfo>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogInfo {
    records: u64,
    bytes: u64,
    /// What the file did not take.
    dropped: LogDropped,
    /// Beyond logs.max_bytes_per_second.
    over_rate: LogDropped,
    /// Beyond logs.max_file_bytes.
    over_size: LogDropped,
    holds: u64,
    /// For how long it has been left unread, or its file has not answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_for_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_for_ms: Option<u128>,
}

#[derive(Serialize)]
struct LogDropped {
    records: u64,
    bytes: u64,
}

impl From<Dropped> for LogDropped {
    fn from(Dropped { records, bytes }: Dropped) -> Self {
        Self { records, bytes }
    }
}

impl From<PumpStats> for LogInfo {
    fn from(stats: PumpStats) -> Self {
        Self {
            records: stats.records,
            bytes: stats.bytes,
            dropped: stats.dropped.into(),
            over_rate: stats.over_rate.into(),
            over_size: stats.over_size.into(),
            holds: stats.holds,
            held_for_ms: stats.held_for.map(|span| span.as_millis()),
            blocked_for_ms: stats.blocked_for.map(|span| span.as_millis()),
        }
    }
}

/// The info of a sandbox. `handler` is its runtime handler, where that is still configured; `timeline` tells of its start.
///
/// # Errors
/// `Internal` where it cannot be written as JSON.
pub(in crate::cri) fn sandbox(
    view: &SandboxView,
    handler: Option<&RuntimeHandler>,
    timeline: Vec<Passage>,
) -> Result<BTreeMap<String, String>> {
    let (resources, overhead) = view.updated.clone().unwrap_or_default();
    let pause = view.pause_image.as_ref();
    let has_own_network = view.config.security.namespaces.network != NamespaceMode::Node;
    under_info(&SandboxInfo {
        pid: view.pause_pid.map_or(0, |pid| pid.0),
        process_status: if view.pause_pid.is_some() {
            "running"
        } else {
            "deleted"
        },
        net_namespace_closed: has_own_network && view.netns.is_none(),
        image: pause.map_or("", |image| &image.name),
        snapshot_key: pause.map_or("", |_| view.id.as_str()),
        snapshotter: pause.map_or("", |image| &image.snapshotter),
        runtime_handler: &view.handler,
        runtime_type: &view.runtime_type,
        runtime_options: runtime_options(handler),
        config: raw(&view.record),
        runtime_spec: raw(&view.spec),
        cni_result: raw(&view.cni_result),
        sandbox_metadata: sandbox_metadata(view),
        resources: resources.as_ref().map(of_linux),
        overhead: overhead.as_ref().map(of_linux),
        stuck_steps: &view.stuck,
        timeline: timeline.into_iter().map(TimelineEntry::from).collect(),
    })
}

fn sandbox_metadata(view: &SandboxView) -> VersionedMetadata<'_> {
    let netns = view.netns.as_ref();
    let metadata = SandboxMetadata {
        id: view.id.as_str(),
        name: view.config.identity.reserved_name(),
        config: raw(&view.record),
        netns_path: netns
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        ip: view.ips.first().map_or("", String::as_str),
        additional_ips: view.ips.get(1..).filter(|more| !more.is_empty()),
        runtime_handler: &view.handler,
        cni_result: raw(&view.cni_result),
        process_label: "",
    };
    VersionedMetadata {
        version: "v1",
        metadata,
    }
}

/// The shim's options in words; `None` for shims that get none, or others than runc's, or the defaults.
fn runtime_options(handler: Option<&RuntimeHandler>) -> Option<RuncOptions> {
    let payload = handler?.options.as_ref()?;
    if payload.type_url != Payload::RUNC_OPTIONS {
        return None;
    }
    let options = runc::Options::decoded(&payload.value)?;
    let options = RuncOptions {
        no_new_keyring: options.no_new_keyring,
        binary_name: options.binary_name,
        root: options.root,
        systemd_cgroup: options.systemd_cgroup,
    };
    (options != RuncOptions::default()).then_some(options)
}

/// The info of a container. `handler` is its sandbox's; `logged` is what was logged of its output.
///
/// # Errors
/// `Internal` where it cannot be written as JSON.
pub(in crate::cri) fn container(
    view: &ContainerView,
    handler: Option<&RuntimeHandler>,
    logged: Option<PumpStats>,
) -> Result<BTreeMap<String, String>> {
    under_info(&ContainerInfo {
        sandbox_id: view.sandbox.as_str(),
        pid: view.pid.map_or(0, |pid| pid.0),
        removing: view.state == ContainerState::Removing,
        snapshot_key: view.snapshot_key(),
        snapshotter: &view.snapshotter,
        runtime_type: &view.runtime_type,
        runtime_options: runtime_options(handler),
        config: raw(&view.record),
        runtime_spec: raw(&view.spec),
        restored_from: view.restored_from.as_deref(),
        exit_diagnosis: view.ended.as_ref().map_or("", |ended| &ended.diagnosis),
        quota_project: view.project.as_ref().map(|project| project.id),
        log: logged.map(LogInfo::from),
    })
}

fn of_linux(resources: &Resources) -> cri::ContainerResources {
    cri::ContainerResources {
        linux: Some(resources.into()),
        windows: None,
    }
}

/// Stored JSON, shown as it is; `null` where it is none.
fn raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}

fn under_info(info: &impl Serialize) -> Result<BTreeMap<String, String>> {
    let text = gojson::encode(info).classify(Kind::Internal, || "verbose info".to_owned())?;
    Ok(BTreeMap::from([("info".to_owned(), text)]))
}
