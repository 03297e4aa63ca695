//! What the runtime says of a pod's containers. Facts that do not change are asked once.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::client::Cri;
use super::container::{CONTAINER_NAME, HASH, hash};
use super::defaults::{ContainerPlan, Plan};
use super::dirs::{Dirs, log_path};
use super::lifecycle::{Exit, Seen};
use super::logs::Decoder;
use super::pod;
use super::probes::Health;
use crate::model::{Classify as _, Kind, Result, Timestamp};
use crate::wire::cri;

/// The most of a termination message that is read; kubelet's own limit.
const MESSAGE_MAX: u64 = 4096;
/// The most of a log that stands in for one.
const LOG_TAIL_MAX: u64 = 2048;

/// Start times and exits, by container id.
#[derive(Debug, Default)]
pub(super) struct Facts {
    started: BTreeMap<String, Timestamp>,
    exits: BTreeMap<String, Exit>,
}

/// The exit code that kubelet gives a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 137;

/// A container and all its earlier attempts.
#[derive(Debug)]
pub(super) struct Observed {
    /// The newest attempt of each container, in the plan's order.
    pub(super) seen: Vec<Seen>,
    /// Containers of the pod whose manifest was another one.
    pub(super) changed: Vec<String>,
    /// Attempts older than the one before the newest: id, name, attempt.
    pub(super) stale: Vec<(String, String, u32)>,
}

impl Facts {
    /// Asks for the containers of `plan` in the sandbox `sandbox`.
    ///
    /// # Errors
    /// Those of the runtime.
    pub(super) async fn observe(
        &mut self,
        cri: &Cri,
        plan: &Plan,
        sandbox: &str,
        dirs: &Dirs,
        health: &Health,
    ) -> Result<Observed> {
        let mut listed = cri.containers(pod::identity(plan)).await?;
        listed.retain(|container| container.pod_sandbox_id == sandbox);
        listed.sort_by_key(|container| std::cmp::Reverse(attempt(container)));
        let mut observed = Observed {
            seen: Vec::new(),
            changed: Vec::new(),
            stale: Vec::new(),
        };
        for container in &plan.containers {
            let name = &container.spec.name;
            let mut attempts = listed
                .iter()
                .filter(|listed| listed.labels.get(CONTAINER_NAME) == Some(name));
            let Some(newest) = attempts.next() else {
                observed.seen.push(Seen::Missing);
                continue;
            };
            if newest
                .annotations
                .get(HASH)
                .is_some_and(|was| *was != hash(container))
            {
                observed.changed.push(name.clone());
            }
            observed.stale.extend(
                attempts
                    .skip(1)
                    .map(|old| (old.id.clone(), name.clone(), attempt(old))),
            );
            observed.seen.push(
                self.look(cri, plan, container, newest, dirs, health)
                    .await?,
            );
        }
        Ok(observed)
    }

    async fn look(
        &mut self,
        cri: &Cri,
        plan: &Plan,
        container: &ContainerPlan,
        listed: &cri::Container,
        dirs: &Dirs,
        health: &Health,
    ) -> Result<Seen> {
        let (id, attempt) = (listed.id.clone(), attempt(listed));
        match listed.state() {
            cri::ContainerState::ContainerCreated => Ok(Seen::Created { id, attempt }),
            cri::ContainerState::ContainerRunning => {
                let started_at = match self.started.get(&id) {
                    Some(known) => *known,
                    None => {
                        let asked = Timestamp(cri.status(&id).await?.started_at);
                        self.started.insert(id.clone(), asked);
                        asked
                    }
                };
                Ok(Seen::Running {
                    started: health.is_started(&id, container),
                    ready: health.is_ready(&id, container),
                    id,
                    attempt,
                    started_at,
                })
            }
            cri::ContainerState::ContainerExited | cri::ContainerState::ContainerUnknown => {
                let exit = match self.exits.get(&id) {
                    Some(known) => known.clone(),
                    None => {
                        let status = cri.status(&id).await?;
                        let message = last_words(plan, container, &status, attempt, dirs).await?;
                        let mut exit = Exit {
                            code: status.exit_code,
                            reason: status.reason,
                            message,
                            finished_at: Timestamp(status.finished_at),
                        };
                        if listed.state() == cri::ContainerState::ContainerUnknown {
                            // Nobody knows how it ended: not well, as far as a restart policy is concerned.
                            exit.code = UNKNOWN_CODE;
                            exit.reason = "ContainerStatusUnknown".into();
                        }
                        self.exits.insert(id.clone(), exit.clone());
                        exit
                    }
                };
                Ok(Seen::Exited { id, attempt, exit })
            }
        }
    }
}

fn attempt(container: &cri::Container) -> u32 {
    container
        .metadata
        .as_ref()
        .map_or(0, |metadata| metadata.attempt)
}

/// The runtime's message, else the container's own termination message, else the end of its log where the manifest
/// asks for that.
async fn last_words(
    plan: &Plan,
    container: &ContainerPlan,
    status: &cri::ContainerStatus,
    attempt: u32,
    dirs: &Dirs,
) -> Result<String> {
    if !status.message.is_empty() {
        return Ok(status.message.clone());
    }
    let name = &container.spec.name;
    let message = dirs.termination_message(plan, name, attempt);
    let log = dirs.log_directory(plan).join(log_path(name, attempt));
    let from_log = status.exit_code != 0
        && container.spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    blocking(move || {
        let own = tail(&message, MESSAGE_MAX);
        if !own.is_empty() || !from_log {
            return Ok(String::from_utf8_lossy(&own).into_owned());
        }
        let mut decoder = Decoder::default();
        // The tail begins inside a line, which the decoder drops as it is no record.
        let text = decoder.feed(&tail(&log, LOG_TAIL_MAX));
        Ok(String::from_utf8_lossy(&text).into_owned())
    })
    .await
}

/// The last `most` bytes of a file; empty where it cannot be read.
fn tail(path: &Path, most: u64) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

/// Removes the log of an attempt that was removed itself.
pub(super) fn remove_log_blocking(path: PathBuf) -> Result<()> {
    crate::sys::files::remove_file_blocking(&path)
}

/// Runs what blocks on a thread made for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .classify(Kind::Internal, || "a blocking task ended early".into())?
}
