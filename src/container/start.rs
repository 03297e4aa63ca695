//! StartContainer: FIFOs and pump, task create, pidfd, task start. Two containerd calls.
//!
//! Every failure after the first check leaves the container EXITED with code 128 and reason `StartError` (behaviour
//! §2.2), because kubelet counts restarts by it; the call still answers the error.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::containerd::{Stdio, TaskRequest};
use crate::index::ContainerView;
use crate::model::security::NamespaceMode;
use crate::model::state::{ContainerEvent, SandboxState};
use crate::model::{ContainerId, Context, Digest, Error, Pid, Result, Termination};
use crate::nri::{Event, Present};
use crate::ops::{Edge, Operation, gate};
use crate::sys::process::PidFd;

use super::steps::Step;
use super::{Containers, Site, io, labels};

/// A start older than this was answered, or its caller has given up: kubelet's deadline is two minutes.
const RETRY_WINDOW: Duration = Duration::from_secs(240);

/// What a task's calls wait on.
const SHIM: &str = "containerd and the shim";

/// Under which starts of one container join. A container starts once, so its id says all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct StartKey(pub(super) ContainerId);

impl StartKey {
    fn fingerprint() -> Digest {
        Digest::sha256(b"start")
    }
}

impl fmt::Display for StartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "start of container {}", self.0.short())
    }
}

impl Containers {
    /// Starts a created container, or joins the start that runs already. Runs on when the caller leaves; a start whose
    /// answer nobody got is answered to whoever asks next.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it is CREATED; what a step failed with, the container being EXITED then.
    pub async fn start(&self, text: &str) -> Result<()> {
        let (view, site) = self.expect(text)?;
        let id = view.id.clone();
        let key = StartKey(id.clone());
        if self
            .starts
            .landing(&key)
            .is_some_and(|landing| landing.delivered)
        {
            return Err(Error::precondition(format!(
                "container {}: it was started already",
                id.short()
            )));
        }
        let this = self.clone();
        self.starts
            .join(
                &self.deps.supervisor,
                "StartContainer",
                key,
                StartKey::fingerprint(),
                move || async move {
                    this.start_whole(view, site).await?;
                    Ok(id)
                },
            )
            .await
            .map(drop)
    }

    /// Enters a start that a former process of ours made: where its answer may still be asked for again, the next start
    /// is answered by it.
    pub(super) fn restore_start(&self, view: &ContainerView) {
        let never_ran = |ended: &Termination| !ended.reason.is_empty();
        let Some(began) = view
            .started_at
            .filter(|_| !view.ended.as_ref().is_some_and(never_ran))
        else {
            return;
        };
        if self.deps.clock.now().since(began) < RETRY_WINDOW {
            self.starts.restore(
                StartKey(view.id.clone()),
                StartKey::fingerprint(),
                view.id.clone(),
            );
        }
    }

    async fn start_whole(&self, view: Arc<ContainerView>, site: Arc<Site>) -> Result<()> {
        let id = &view.id;
        let operation = self.deps.live.begin_for(
            view.sandbox.as_str(),
            "StartContainer",
            format!("{} {}", view.config.identity.name, id.short()),
        );
        let pod = self.sandboxes.site(&view.sandbox);
        let _pod_stays = match &pod {
            Some(pod) => {
                let lock = pod.lock.read();
                Some(operation.waiting("the pod's lock", lock).await)
            }
            None => None,
        };
        let lock = site.lock.lock();
        let _transition = operation.waiting("the container's lock", lock).await;
        self.deps
            .index
            .container_event(id, ContainerEvent::StartAsked, |_| ())?;
        let until_published = self.deps.nri.enter();
        let ceiling = self.deps.settings().operations.ceiling;
        let start = self.start_task(&view, &site, &operation, &until_published);
        let started = tokio::time::timeout(ceiling, operation.place().hold(start)).await;
        match started.unwrap_or_else(|_elapsed| Err(Error::timed_out("StartContainer", ceiling))) {
            Ok((pid, pidfd)) => {
                self.show_started(&view, &site, pid, pidfd);
                drop(until_published);
                self.tell(Event::PostStartContainer, id).await;
                Ok(())
            }
            Err(failed) => {
                let said = failed.chain();
                operation.failed(&said);
                let diagnosis = self.diagnose_start(&view, &said);
                let fault = operation.step("diagnose").hold(diagnosis).await;
                let unwind = self.take_back(id, &[Step::Io, Step::Task]);
                // Neither may leave the container at "starting", where no verb could end it.
                match operation.step("unwind").hold(unwind).await {
                    Ok(left) if left.is_empty() => {}
                    left => {
                        tracing::warn!(container.id = %id, ?left, "a failed start could not be taken back whole")
                    }
                }
                let message = match &fault {
                    Some(fault) => format!("{said}: {fault}"),
                    None => said,
                };
                let mut termination = Termination::start_failed(message, self.deps.clock.now());
                termination.diagnosis = fault.unwrap_or_default();
                if let Err(error) = self.deps.facts.ended(id, &termination, false).await {
                    tracing::error!(container.id = %id, %error, "a failed start could not be written down");
                }
                self.deps
                    .index
                    .container_event(id, ContainerEvent::StartFailed, |view| {
                        view.ended = Some(termination)
                    })?;
                self.tell_ended(id, &site).await;
                Err(failed)
            }
        }
    }

    async fn start_task(
        &self,
        view: &ContainerView,
        site: &Site,
        operation: &Operation,
        present: &Present,
    ) -> Result<(Pid, Option<PidFd>)> {
        self.check_pod(view)?;
        let streams = io::Streams {
            stdin: view.config.stdin,
            tty: view.config.tty,
        };
        let dir = io::task_dir(&self.deps, &view.id);
        let stdio = self
            .start_step(view, Step::Io, operation, async {
                let stdio = io::make(dir.clone(), io::stdio(&dir, streams)).await?;
                site.set_pump(self.start_pump(view, &stdio, true).await?);
                Ok(stdio)
            })
            .await?;
        self.attend(&view.spec, site).await;
        self.start_step(
            view,
            Step::Task,
            operation,
            self.create_and_start(view, stdio, operation, present),
        )
        .await
    }

    /// The sandbox must be ready, and a joined container must still run.
    fn check_pod(&self, view: &ContainerView) -> Result<()> {
        let pod = self.deps.index.snapshot().pod(&view.sandbox).cloned();
        let pod = pod.filter(|pod| pod.sandbox.state == SandboxState::Ready);
        let pod = pod.ok_or_else(|| {
            Error::precondition(format!("sandbox {}: not ready", view.sandbox.short()))
        })?;
        if view.config.security.namespaces.pid == NamespaceMode::Target {
            self.target_pid(&view.config, &pod.sandbox)?;
        }
        Ok(())
    }

    async fn create_and_start(
        &self,
        view: &ContainerView,
        stdio: Stdio,
        operation: &Operation,
        present: &Present,
    ) -> Result<(Pid, Option<PidFd>)> {
        let containerd = &self.deps.containerd;
        let id = view.id.as_str();
        let snapshots = &containerd.snapshots;
        let mounts = snapshots.mounts(&view.snapshotter, view.snapshot_key());
        let mut rootfs = mounts.await?;
        labels::of_rootfs(&mut rootfs, &view.spec);
        let request = TaskRequest {
            id: id.to_owned(),
            rootfs,
            stdio,
            options: self.restore_options(view)?,
        };
        let is_restored = request.options.is_some();
        let shim = operation.within("shim and create");
        let create = shim.place().hold(containerd.tasks.create(&request));
        let created = operation.waiting(SHIM, create).await;
        let created = created.context(|| "create task".to_owned())?;
        drop(shim);
        gate("start_container", "task created", Edge::After).await;
        // Opened between create and start, so that even the shortest life is seen to its end.
        // A task that is to be restored has no process before its start.
        let pidfd = match is_restored {
            true => None,
            false => PidFd::open(created).ok(),
        };
        self.tell_starting(view, created, present).await?;
        let runtime = operation.within("runtime start");
        let start = runtime.place().hold(containerd.tasks.start(id, None));
        let started = operation.waiting(SHIM, start).await;
        if !is_restored {
            started.context(|| "start task".to_owned())?;
            return Ok((created, pidfd));
        }
        let pid = self.expect_restored(view, started).await?;
        Ok((pid, PidFd::open(pid).ok()))
    }

    fn show_started(&self, view: &ContainerView, site: &Arc<Site>, pid: Pid, pidfd: Option<PidFd>) {
        let now = self.deps.clock.now();
        self.deps.facts.started(&view.id, pid, now);
        let shown = self
            .deps
            .index
            .container_event(&view.id, ContainerEvent::Started, |view| {
                view.started_at = Some(now);
                view.pid = Some(pid);
            });
        if let Err(error) = shown {
            tracing::warn!(container.id = %view.id, %error, "a started container could not be shown running");
        }
        self.watch(view.id.clone(), pid, pidfd, site);
    }

    async fn start_step<T>(
        &self,
        view: &ContainerView,
        step: Step,
        operation: &Operation,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.begin(&view.id, step).await?;
        let within = operation.within(step.name());
        gate("start_container", step.name(), Edge::Before).await;
        let done = within
            .place()
            .hold(work)
            .await
            .context(|| format!("container {}: {}", view.config.identity.name, step.name()))?;
        gate("start_container", step.name(), Edge::After).await;
        Ok(done)
    }
}
