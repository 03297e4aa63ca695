//! Lifecycle hooks, and the stop that runs them.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;
use tokio::time::Instant;

use super::client::Cri;
use super::defaults::ContainerPlan;
use crate::model::{Error, Result};

/// What is left for the stop signal however long the hook took; kubelet's own floor.
const MIN_GRACE_S: i64 = 2;
/// How much of a failed hook's output is shown.
const OUTPUT_MAX: usize = 200;

/// Runs the `postStart` hook, where there is one.
///
/// # Errors
/// What the hook said where it failed.
pub(super) async fn post_start(cri: &Cri, id: &str, container: &ContainerPlan) -> Result<()> {
    let hooks = container.spec.lifecycle.as_ref();
    match hooks.and_then(|hooks| hooks.post_start.as_ref()) {
        Some(hook) => run(cri, id, hook, 0).await,
        None => Ok(()),
    }
}

/// Stops a container: its `preStop` hook and then the signal share `grace_s` seconds. A failing hook stops nothing.
///
/// # Errors
/// Where the runtime could not stop it.
pub(super) async fn stop(
    cri: &Cri,
    id: &str,
    container: Option<&ContainerPlan>,
    grace_s: i64,
) -> Result<()> {
    let hooks = container.and_then(|container| container.spec.lifecycle.as_ref());
    let Some(hook) = hooks.and_then(|hooks| hooks.pre_stop.as_ref()) else {
        return cri.stop(id, grace_s).await;
    };
    if grace_s == 0 {
        return cri.stop(id, 0).await;
    }
    let began = Instant::now();
    let limit = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
    match tokio::time::timeout(limit, run(cri, id, hook, grace_s)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(container.id = id, %error, "preStop hook failed"),
        Err(_elapsed) => {
            tracing::warn!(
                container.id = id,
                "preStop hook took the whole grace period"
            );
        }
    }
    let spent = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
    let left = grace_s.saturating_sub(spent).max(MIN_GRACE_S);
    cri.stop(id, left).await
}

async fn run(cri: &Cri, id: &str, hook: &LifecycleHandler, timeout_s: i64) -> Result<()> {
    if let Some(sleep) = &hook.sleep {
        let wait = u64::try_from(sleep.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
    let command = hook.exec.as_ref().and_then(|exec| exec.command.as_ref());
    let Some(command) = command else {
        return Ok(());
    };
    let ran = cri.exec(id, command, timeout_s).await?;
    if ran.code == 0 {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "{} ended with {}: {}",
        command.join(" "),
        ran.code,
        shortened(&ran.output)
    )))
}

/// The beginning of a command's output.
pub(super) fn shortened(output: &str) -> String {
    output.trim().chars().take(OUTPUT_MAX).collect()
}
