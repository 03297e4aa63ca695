//! Reads back what came of a request: containerd's record, the server's answers, and the files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use containerd_client::services::v1::{Container as Record, GetContainerRequest};
use containerd_client::with_namespace;
use podwright::wire::{cri, runc};
use prost::Message as _;
use serde_json::{Map, Value, json};
use tonic::{Request, Status};

use crate::case::Outcome;
use crate::endpoint::Endpoint;

/// A refusal: its code is compared, its words are only shown.
pub(crate) fn refusal(status: &Status) -> Value {
    json!({"refused": format!("{:?}", status.code())})
}

impl Endpoint {
    /// The record that containerd holds of `id`, its spec and extensions as trees.
    pub(crate) async fn record(&self, id: &str) -> Outcome<Value> {
        let request = GetContainerRequest { id: id.to_owned() };
        let request = with_namespace!(request, "k8s.io");
        let reply = self.records.clone().get(request).await?.into_inner();
        let record = reply.container.ok_or("a record without a container")?;
        let spec = record.spec.as_ref().map(|any| any.value.as_slice());
        let spec: Value = serde_json::from_slice(spec.unwrap_or(b"null"))?;
        let mut tree = json!({
            "image": record.image,
            "labels": record.labels,
            "snapshotter": record.snapshotter,
            "has_snapshot": !record.snapshot_key.is_empty(),
            "sandbox": record.sandbox,
            "spec": spec,
            "extensions": extensions(&record)?,
        });
        if let (Some(runtime), Some(tree)) = (&record.runtime, tree.as_object_mut()) {
            tree.insert(String::from("runtime"), json!(runtime.name));
            if let Some(options) = &runtime.options {
                let decoded = runc::Options::decode(options.value.as_slice())?;
                tree.insert(
                    String::from("options"),
                    json!({"type": options.type_url, "value": format!("{decoded:?}")}),
                );
            }
        }
        Ok(tree)
    }

    /// What the server says of the node and of an image.
    pub(crate) async fn node(&self, image: &str) -> Outcome<Value> {
        let (mut runtime, mut images) = (self.cri.runtime.clone(), self.cri.images.clone());
        let request = cri::StatusRequest { verbose: true };
        let status = runtime.status(request).await?.into_inner();
        let request = cri::RuntimeConfigRequest::default();
        let config = runtime.runtime_config(request).await?.into_inner();
        let spec = cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: true,
        };
        let of_image = images.image_status(request).await?.into_inner();
        let request = cri::ListImagesRequest {
            filter: Some(cri::ImageFilter { image: Some(spec) }),
        };
        let listed = images.list_images(request).await?.into_inner();
        let mut told = info(&status.info);
        if let Some(config) = told.get_mut("config") {
            // Each server has a configuration of its own; this is what clients read of it.
            let read_by_critest = config.get("stateDir").cloned();
            *config = json!({"stateDir": read_by_critest});
        }
        Ok(json!({
            "status": status.status,
            "handlers": status.runtime_handlers,
            "features": status.features,
            "info": told,
            "config": config,
            "image": of_image.image,
            "image_info": info(&of_image.info),
            "images": listed.images,
        }))
    }

    pub(crate) async fn pod_status(&self, id: &str) -> Outcome<Value> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.cri.runtime.clone().pod_sandbox_status(request).await?;
        let reply = reply.into_inner();
        let request = cri::ListPodSandboxRequest {
            filter: Some(cri::PodSandboxFilter {
                id: id.to_owned(),
                ..Default::default()
            }),
        };
        let listed = self.cri.runtime.clone().list_pod_sandbox(request).await?;
        Ok(json!({
            "status": reply.status,
            "info": info(&reply.info),
            "containers_statuses": reply.containers_statuses.len(),
            "timestamp": reply.timestamp,
            "listed": listed.into_inner().items,
        }))
    }

    pub(crate) async fn container_status(&self, id: &str) -> Outcome<Value> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.cri.runtime.clone().container_status(request).await?;
        let reply = reply.into_inner();
        let request = cri::ListContainersRequest {
            filter: Some(cri::ContainerFilter {
                id: id.to_owned(),
                ..Default::default()
            }),
        };
        let listed = self.cri.runtime.clone().list_containers(request).await?;
        let log = reply.status.as_ref().map(|status| status.log_path.clone());
        Ok(json!({
            "status": reply.status,
            "info": info(&reply.info),
            "listed": listed.into_inner().containers,
            "log": log_file(&log.unwrap_or_default()),
        }))
    }
}

/// JSON within the map becomes part of the tree.
fn info(map: &BTreeMap<String, String>) -> Value {
    let mut tree = Map::new();
    for (key, text) in map {
        let value = serde_json::from_str(text).unwrap_or_else(|_plain| json!(text));
        tree.insert(key.clone(), value);
    }
    Value::Object(tree)
}

fn extensions(record: &Record) -> Outcome<Value> {
    let mut tree = Map::new();
    for (key, any) in &record.extensions {
        let value = serde_json::from_slice(&any.value).unwrap_or_else(|_binary| json!("binary"));
        tree.insert(key.clone(), json!({"type": any.type_url, "value": value}));
    }
    Ok(Value::Object(tree))
}

/// Modes of a log file and of its folder; lines without their times.
pub(crate) fn log_file(path: &str) -> Value {
    let path = Path::new(path);
    let Ok(text) = fs::read_to_string(path) else {
        return Value::Null;
    };
    // Streams have no order among each other.
    let mut lines: Vec<&str> = text
        .lines()
        .map(|line| line.split_once(' ').map_or(line, |(_time, rest)| rest))
        .collect();
    lines.sort_unstable();
    json!({
        "mode": mode(path),
        "folder_mode": path.parent().map(mode),
        "lines": lines,
    })
}

fn mode(path: &Path) -> Value {
    fs::metadata(path).map_or(Value::Null, |found| {
        json!(format!("{:o}", found.permissions().mode() & 0o7777))
    })
}

/// Mode and content of each file of the server's own that `record` has the container mount.
pub(crate) fn mounted_files(record: &Value, pod: &str) -> Value {
    let mounts = record.pointer("/spec/mounts").and_then(Value::as_array);
    let mut tree = Map::new();
    for mount in mounts.into_iter().flatten() {
        let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
        let source = Path::new(text("source"));
        if !text("source").contains(pod) {
            continue;
        }
        let content = fs::read_to_string(source).ok();
        let file = json!({"mode": mode(source), "content": content});
        tree.insert(text("destination").to_owned(), file);
    }
    Value::Object(tree)
}
