//! What an archive says of its container, in the words of the tools that read archives (behaviour-node §1.5).

use jiff::Timestamp as Instant;
use serde::Serialize;
use serde_json::json;

use crate::index::ContainerView;
use crate::model::{Classify as _, Kind, Result, Timestamp};

/// The time that Go calls zero.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rootfs_image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rootfs_image_ref: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    rootfs_image_name: &'a str,
    runtime: &'a str,
    created_time: String,
    checkpointed_time: String,
    restored_time: &'a str,
    restored: bool,
}

/// `config.dump`.
pub(super) fn config(view: &ContainerView, now: Timestamp) -> Result<Vec<u8>> {
    let config = Config {
        id: view.id.as_str(),
        name: &view.config.identity.name,
        rootfs_image: &view.config.image,
        rootfs_image_ref: &view.image.id,
        rootfs_image_name: &view.image.name,
        runtime: &view.runtime_type,
        created_time: rfc3339(view.created_at)?,
        checkpointed_time: rfc3339(now)?,
        restored_time: NEVER,
        restored: false,
    };
    encoded("config.dump", &config)
}

/// `status`: the state as containerd's plugin keeps it.
pub(super) fn state(view: &ContainerView) -> Result<Vec<u8>> {
    let state = json!({
        "Version": "v1",
        "Pid": view.pid.map_or(0, |pid| pid.0),
        "CreatedAt": view.created_at.0,
        "StartedAt": view.started_at.map_or(0, |at| at.0),
        "FinishedAt": 0,
        "ExitCode": 0,
        "Reason": "",
        "Message": "",
    });
    encoded("status", &state)
}

/// `bind.mounts`: what of the node the container sees; `None` where it sees nothing of it.
pub(super) fn binds(view: &ContainerView) -> Result<Option<Vec<u8>>> {
    let binds: Vec<_> = view
        .config
        .mounts
        .iter()
        .filter(|mount| !mount.host_path.is_empty())
        .map(|mount| {
            json!({
                "source": mount.host_path,
                "destination": mount.container_path,
            })
        })
        .collect();
    match binds.is_empty() {
        true => Ok(None),
        false => encoded("bind.mounts", &binds).map(Some),
    }
}

fn encoded(name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).classify(Kind::Internal, || format!("encode {name}"))
}

fn rfc3339(at: Timestamp) -> Result<String> {
    let instant = Instant::from_nanosecond(i128::from(at.0));
    let instant = instant.classify(Kind::Internal, || format!("time {}", at.0))?;
    Ok(instant.to_string())
}
