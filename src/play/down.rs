//! Deletes a pod gracefully: hooks and signals, the ordinary containers first, then the sidecars, the sandbox, and
//! what the pod had on the host.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::client::Cri;
use super::container::CONTAINER_NAME;
use super::defaults::{ContainerPlan, Plan, Role};
use super::dirs::Dirs;
use super::observe::blocking;
use super::{hooks, pod, volumes};
use crate::model::{Context as _, Result};
use crate::wire::cri;

/// Deletes the pod of `plan`, and ends whoever runs it in the foreground; `grace_s` overrides the manifest's grace period. Whether there was one.
///
/// # Errors
/// Those of the runtime; what is left is deleted by the same call again.
pub(super) async fn delete(
    cri: &Cri,
    plan: &Plan,
    dirs: &Dirs,
    grace_s: Option<i64>,
) -> Result<bool> {
    let mark = dirs.deleting(plan);
    blocking(move || volumes::mark_deleting_blocking(&mark)).await?;
    let sandboxes = cri.sandboxes(pod::identity(plan)).await?;
    let containers = cri.containers(pod::identity(plan)).await?;
    stop_containers(cri, plan, &containers, grace_s.unwrap_or(plan.grace_s)).await?;
    for sandbox in &sandboxes {
        cri.stop_sandbox(&sandbox.id).await?;
    }
    for container in &containers {
        cri.remove(&container.id).await?;
    }
    for sandbox in &sandboxes {
        cri.remove_sandbox(&sandbox.id).await?;
    }
    let found = !sandboxes.is_empty() || !containers.is_empty();
    for directory in [dirs.pod(plan), dirs.log_directory(plan)] {
        let what = format!(
            "the pod is gone, its directory {} is not",
            directory.display()
        );
        blocking(move || volumes::remove_blocking(&directory))
            .await
            .context(|| what)?;
    }
    Ok(found)
}

async fn stop_containers(
    cri: &Cri,
    plan: &Plan,
    containers: &[cri::Container],
    grace_s: i64,
) -> Result<()> {
    let began = Instant::now();
    let running: Vec<(&cri::Container, Option<usize>)> = containers
        .iter()
        .filter(|one| one.state() == cri::ContainerState::ContainerRunning)
        .map(|one| {
            let name = one.labels.get(CONTAINER_NAME);
            let place = plan
                .containers
                .iter()
                .position(|known| Some(&known.spec.name) == name);
            (one, place)
        })
        .collect();
    let planned = |place: Option<usize>| place.and_then(|place| plan.containers.get(place));
    let is_sidecar =
        |known: Option<&ContainerPlan>| known.is_some_and(|one| one.role == Role::Sidecar);
    let first = running
        .iter()
        .filter(|(_, place)| !is_sidecar(planned(*place)))
        .map(|(one, place)| hooks::stop(cri, &one.id, planned(*place), grace_s));
    for stopped in join_all(first).await {
        stopped?;
    }
    let mut sidecars: Vec<_> = running
        .iter()
        .filter(|(_, place)| is_sidecar(planned(*place)))
        .collect();
    sidecars.sort_by_key(|(_, place)| std::cmp::Reverse(*place));
    for (one, place) in sidecars {
        let limit = Duration::from_secs(u64::try_from(grace_s).unwrap_or(0));
        let left = limit.saturating_sub(began.elapsed()).as_secs();
        let left = i64::try_from(left).unwrap_or(grace_s);
        hooks::stop(cri, &one.id, planned(*place), left).await?;
    }
    Ok(())
}
