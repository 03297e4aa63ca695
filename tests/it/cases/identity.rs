//! What every client asks first.

use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;

pub(super) const CASES: &[Case] = &[
    Case::new("identity.version_names_the_api", |node| {
        Box::pin(version(node))
    }),
    Case::new("identity.status_is_ready_and_lists_the_handlers", |node| {
        Box::pin(status(node))
    }),
    Case::new("identity.runtime_config_tells_the_cgroup_driver", |node| {
        Box::pin(runtime_config(node))
    }),
];

async fn version(node: &Node) -> Outcome {
    let reply = node
        .cri
        .runtime
        .clone()
        .version(cri::VersionRequest::default())
        .await?
        .into_inner();

    ensure(
        reply.runtime_api_version == "v1" && reply.runtime_name == "podwright",
        || format!("{reply:?}"),
    )
}

async fn status(node: &Node) -> Outcome {
    let reply = node
        .cri
        .runtime
        .clone()
        .status(cri::StatusRequest { verbose: true })
        .await?
        .into_inner();

    let conditions = reply
        .status
        .as_ref()
        .map(|status| status.conditions.clone())
        .unwrap_or_default();
    for wanted in ["RuntimeReady", "NetworkReady"] {
        ensure(
            conditions.iter().any(|c| c.r#type == wanted && c.status),
            || format!("{wanted} is not true: {conditions:?}"),
        )?;
    }
    for handler in ["", "runc", "crun"] {
        ensure(
            reply.runtime_handlers.iter().any(|h| h.name == handler),
            || {
                format!(
                    "no handler called {handler:?}: {:?}",
                    reply.runtime_handlers
                )
            },
        )?;
    }
    let config = reply.info.get("config").cloned().unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&config)?;
    Ok(())
}

async fn runtime_config(node: &Node) -> Outcome {
    let reply = node
        .cri
        .runtime
        .clone()
        .runtime_config(cri::RuntimeConfigRequest::default())
        .await?
        .into_inner();

    let driver = reply.linux.map(|linux| linux.cgroup_driver());
    ensure(
        driver.is_some_and(|d| d == cri::CgroupDriver::Cgroupfs),
        || format!("a node without systemd uses cgroupfs, not {driver:?}"),
    )
}
