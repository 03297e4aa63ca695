//! `play --exec`: one command in one container of the pod.

use super::client::{Cri, Ran};
use super::{Options, load, pod};
use crate::model::{Error, Result};
use crate::wire::cri::ContainerState;

/// Runs `command` in the newest running attempt of `container` until it ends: its exit code, and what it printed, stdout
/// before stderr.
///
/// # Errors
/// A manifest that is none or has several pods, `NotFound` where that container does not run, and a command that cannot
/// be started.
pub async fn exec(options: &Options, container: &str, command: &[String]) -> Result<(i32, String)> {
    let loaded = load(options).await?;
    let mut plans = loaded.plans.into_iter();
    let (Some(plan), None) = (plans.next(), plans.next()) else {
        return Err(Error::invalid("--exec wants a file with one pod"));
    };
    let cri = Cri::connect(&options.endpoint).await?;
    let running = cri
        .containers(pod::identity(&plan))
        .await?
        .into_iter()
        .filter(|listed| listed.state() == ContainerState::ContainerRunning)
        .filter_map(|listed| listed.metadata.map(|metadata| (metadata, listed.id)))
        .filter(|(metadata, _)| metadata.name == container)
        .max_by_key(|(metadata, _)| metadata.attempt);
    let Some((_, id)) = running else {
        return Err(Error::not_found(format!(
            "pod {}: no container {container} runs",
            plan.title()
        )));
    };
    let Ran { code, output } = cri.exec(&id, command, 0).await?;
    Ok((code, output))
}
