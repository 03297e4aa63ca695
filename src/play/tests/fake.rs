//! A container runtime that lives in memory: containers run and end by a script, on tokio's clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use crate::model::{Clock, Timestamp};
use crate::play::container::CONTAINER_NAME;
use crate::wire::cri;

/// Tokio's clock, which tests pause, as a wall clock.
#[derive(Debug)]
pub(super) struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let nanos = i64::try_from(self.0.elapsed().as_nanos()).unwrap();
        Timestamp(1_700_000_000_000_000_000 + nanos)
    }
}

/// What one attempt of a container does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Runs until it is stopped.
    Run,
    /// Ends with this code after so many seconds.
    End(i32, u64),
}

#[derive(Clone, Debug)]
struct Held {
    config: cri::ContainerConfig,
    sandbox: String,
    act: Act,
    started: Option<Timestamp>,
    stopped: Option<(Timestamp, i32)>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Each call that changes something, in order.
    pub(super) calls: Vec<String>,
    /// What the attempts of a container do; the last entry holds for all later ones. Without one: `Run`.
    pub(super) scripts: BTreeMap<String, Vec<Act>>,
    /// Images that are present.
    pub(super) images: Vec<String>,
    /// Calls that fail, with what they say: `pull nginx`, `create a`.
    pub(super) refuse: BTreeMap<String, String>,
    /// Exit codes of commands, by their first word; 0 without an entry.
    pub(super) commands: BTreeMap<String, i32>,
    pub(super) sandboxes: BTreeMap<String, (cri::PodSandboxConfig, bool)>,
    /// How long a sandbox takes.
    pub(super) slow_sandbox: Duration,
    containers: BTreeMap<String, Held>,
    made: usize,
}

/// The runtime; cloning gives another handle.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) clock: Arc<TestClock>,
    state: Arc<Mutex<State>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            clock: Arc::new(TestClock(Instant::now())),
            state: Arc::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn script(&self, name: &str, acts: &[Act]) {
        self.state().scripts.insert(name.into(), acts.to_vec());
    }

    /// The calls so far.
    pub(super) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    fn called(&self, call: String) -> Result<MutexGuard<'_, State>, Status> {
        let mut state = self.state();
        let refused = state.refuse.get(&call).cloned();
        state.calls.push(call);
        match refused {
            Some(text) => Err(Status::unknown(text)),
            None => Ok(state),
        }
    }

    pub(super) async fn run_sandbox(
        &self,
        config: cri::PodSandboxConfig,
    ) -> Result<String, Status> {
        let wait = self.state().slow_sandbox;
        tokio::time::sleep(wait).await;
        let attempt = config.metadata.clone().unwrap_or_default().attempt;
        let mut state = self.called(format!("sandbox {attempt}"))?;
        let id = format!("s{attempt}");
        state.sandboxes.insert(id.clone(), (config, true));
        Ok(id)
    }

    pub(super) fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let mut state = self.called(format!("stop sandbox {id}"))?;
        if let Some((_, ready)) = state.sandboxes.get_mut(id) {
            *ready = false;
        }
        Ok(())
    }

    pub(super) fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let mut state = self.called(format!("remove sandbox {id}"))?;
        state.sandboxes.remove(id);
        state.containers.retain(|_, one| one.sandbox != id);
        Ok(())
    }

    pub(super) fn list_sandboxes(&self) -> Vec<cri::PodSandbox> {
        let one = |(id, (config, ready)): (&String, &(cri::PodSandboxConfig, bool))| {
            let state = if *ready {
                cri::PodSandboxState::SandboxReady
            } else {
                cri::PodSandboxState::SandboxNotready
            };
            cri::PodSandbox {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: state.into(),
                labels: config.labels.clone(),
                ..Default::default()
            }
        };
        self.state().sandboxes.iter().map(one).collect()
    }

    pub(super) fn create(&self, request: cri::CreateContainerRequest) -> Result<String, Status> {
        let config = request.config.unwrap_or_default();
        let metadata = config.metadata.clone().unwrap_or_default();
        let mut state = self.called(format!("create {}", metadata.name))?;
        state.made += 1;
        let id = format!("{}.{}", metadata.name, metadata.attempt);
        let script = state.scripts.get(&metadata.name);
        let nth = usize::try_from(metadata.attempt).unwrap();
        let act = script.and_then(|acts| acts.get(nth).or(acts.last()));
        let made = Held {
            act: act.copied().unwrap_or(Act::Run),
            sandbox: request.pod_sandbox_id,
            config,
            started: None,
            stopped: None,
        };
        state.containers.insert(id.clone(), made);
        Ok(id)
    }

    pub(super) fn start(&self, id: &str) -> Result<(), Status> {
        let now = self.clock.now();
        let mut state = self.called(format!("start {id}"))?;
        let container = state.containers.get_mut(id);
        container
            .ok_or_else(|| Status::not_found("no such container"))?
            .started = Some(now);
        Ok(())
    }

    pub(super) fn stop(&self, id: &str, grace_s: i64) -> Result<(), Status> {
        let now = self.clock.now();
        let mut state = self.called(format!("stop {id} {grace_s}"))?;
        if let Some(container) = state.containers.get_mut(id) {
            container.stopped = container.stopped.or(Some((now, 143)));
        }
        Ok(())
    }

    pub(super) fn remove(&self, id: &str) -> Result<(), Status> {
        let mut state = self.called(format!("remove {id}"))?;
        state.containers.remove(id);
        Ok(())
    }

    pub(super) fn exec(&self, id: &str, command: &[String]) -> Result<i32, Status> {
        let state = self.called(format!("exec {id} {}", command.join(" ")))?;
        let code = command.first().and_then(|word| state.commands.get(word));
        Ok(code.copied().unwrap_or(0))
    }

    pub(super) fn pull(&self, image: &str) -> Result<(), Status> {
        self.called(format!("pull {image}"))?
            .images
            .push(image.into());
        Ok(())
    }

    pub(super) fn statuses(&self) -> Vec<(String, cri::ContainerStatus)> {
        let now = self.clock.now();
        let state = self.state();
        let all = state.containers.values();
        all.map(|one| (one.sandbox.clone(), one.status(now)))
            .collect()
    }

    /// The configuration that a container was made with.
    pub(super) fn config(&self, id: &str) -> cri::ContainerConfig {
        self.state().containers[id].config.clone()
    }
}

impl Held {
    fn status(&self, now: Timestamp) -> cri::ContainerStatus {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        let mut status = cri::ContainerStatus {
            id: format!(
                "{}.{}",
                self.config.labels[CONTAINER_NAME], metadata.attempt
            ),
            metadata: Some(metadata),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            ..Default::default()
        };
        let Some(started) = self.started else {
            return status;
        };
        status.started_at = started.0;
        status.state = cri::ContainerState::ContainerRunning.into();
        let ended = match (self.stopped, self.act) {
            (Some(stopped), _) => Some(stopped),
            (None, Act::End(code, after)) => {
                let nanos = i64::try_from(Duration::from_secs(after).as_nanos()).unwrap();
                Some((Timestamp(started.0 + nanos), code)).filter(|(at, _)| *at <= now)
            }
            (None, Act::Run) => None,
        };
        if let Some((at, code)) = ended {
            status.state = cri::ContainerState::ContainerExited.into();
            status.finished_at = at.0;
            status.exit_code = code;
            status.reason = if code == 0 { "Completed" } else { "Error" }.into();
        }
        status
    }
}
