//! Carries the plan out: lists what exists, takes back what was cut off, gives back what nobody uses.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;

use crate::container::AdoptedContainer;
use crate::containerd::TaskInfo;
use crate::index::{ContainerView, PauseImage, SandboxView};
use crate::model::state::SandboxState;
use crate::model::{Resources, Result, SandboxId, Signal};
use crate::sandbox::steps::{AttachmentRecord, Step};
use crate::sandbox::{Adopted, record as pod_record};
use crate::spec;

use super::gather::{Found, FoundContainer, FoundSandbox};
use super::plan::{self, ContainerPlan, Creation, SandboxPlan, TaskAnswer};
use super::{Recovery, Report};

/// So many objects are settled at a time: taking one back may wait for its process or a plugin, and each writes records.
const ABREAST: usize = 16;

/// What became of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Listed,
    /// Listed, with an attachment of a former boot that is to be given back.
    Detached,
    Unwound,
}

impl Recovery {
    pub(super) async fn apply(&self, mut found: Found) -> Result<Report> {
        let mut report = Report {
            unreadable: found.unreadable.len(),
            ..Report::default()
        };
        self.set_unreadable_aside(&mut found);
        let orphans = self.settle_sandboxes(&mut found, &mut report).await?;
        self.settle_containers(&mut found, &mut report).await?;
        report.detached = orphans.len();
        self.detach_in_background(orphans);
        Ok(report)
    }

    /// Lists the sandboxes or takes them back; answers the attachments that nobody uses any more.
    async fn settle_sandboxes(
        &self,
        found: &mut Found,
        report: &mut Report,
    ) -> Result<BTreeSet<SandboxId>> {
        let mut orphans: BTreeSet<SandboxId> = found.attachments.keys().cloned().collect();
        let sandboxes = std::mem::take(&mut found.sandboxes);
        let all = &*found;
        let settled = each(sandboxes, |sandbox| async move {
            let id = sandbox.id.clone();
            (id, self.settle_sandbox(sandbox, all).await)
        });
        for (id, outcome) in settled.await {
            let outcome = outcome?;
            if outcome != Settled::Detached {
                orphans.remove(&id);
            }
            match outcome {
                Settled::Unwound => report.unwound += 1,
                Settled::Listed | Settled::Detached => report.sandboxes += 1,
            }
            found.sandbox_steps.remove(&id);
        }
        // Steps without a record: cut off before containerd knew of anything.
        let nameless = std::mem::take(&mut found.sandbox_steps);
        let unwound = each(nameless.into_keys(), |id| async move {
            self.unwind_sandbox(&id).await;
            id
        });
        for id in unwound.await {
            orphans.remove(&id);
            report.unwound += 1;
        }
        Ok(orphans)
    }

    async fn settle_containers(&self, found: &mut Found, report: &mut Report) -> Result<()> {
        let containers = std::mem::take(&mut found.containers);
        let all = &*found;
        let settled = each(containers, |container| async move {
            let id = container.id.clone();
            (id, self.settle_container(container, all).await)
        });
        for (id, is_listed) in settled.await {
            match is_listed? {
                true => report.containers += 1,
                false => report.unwound += 1,
            }
            found.container_steps.remove(&id);
        }
        let nameless = std::mem::take(&mut found.container_steps);
        report.unwound += nameless.len();
        each(nameless.into_keys(), |id| async move {
            self.unwind_container(&id).await;
        })
        .await;
        Ok(())
    }

    /// Sees to it that nothing is done to what cannot be read, nor to containers of such a sandbox: their steps are
    /// recorded, so without this they would look like creations that were cut off.
    fn set_unreadable_aside(&self, found: &mut Found) {
        for id in std::mem::take(&mut found.unreadable) {
            self.leave_untouched(id);
        }
        found.containers.retain(|container| {
            let aside = self.is_untouched(&container.stored.sandbox);
            if aside {
                tracing::error!(container.id = %container.id, "the record of its sandbox cannot be read; the container is left as it is");
                self.leave_untouched(container.id.to_string());
            }
            !aside
        });
        found
            .sandbox_steps
            .retain(|id, _| !self.is_untouched(id.as_str()));
        found
            .attachments
            .retain(|id, _| !self.is_untouched(id.as_str()));
        found
            .container_steps
            .retain(|id, _| !self.is_untouched(id.as_str()));
    }

    /// Lists a sandbox, or takes it back.
    async fn settle_sandbox(&self, sandbox: FoundSandbox, found: &Found) -> Result<Settled> {
        let steps = found.sandbox_steps.get(&sandbox.id);
        let creation = steps.map_or(Creation::Forgotten, |steps| match steps.complete {
            true => Creation::Complete,
            false => Creation::CutOff,
        });
        let attachment = found.attachments.get(&sandbox.id);
        let rebooted = attachment.is_some_and(|attachment| attachment.boot_id != self.deps.boot_id);
        match plan::sandbox(creation, &sandbox.task, rebooted) {
            SandboxPlan::Unwind => {
                self.unwind_sandbox(&sandbox.id).await;
                Ok(Settled::Unwound)
            }
            SandboxPlan::Adopt {
                state,
                pause,
                detach,
            } => {
                // What a reboot took away needs no undo; what stands in durable places does.
                let has_snapshot = !sandbox.record.snapshot_key.is_empty();
                let snapshot = has_snapshot.then_some(Step::Snapshot);
                let durable = [Some(Step::Files), Some(Step::Network), snapshot];
                let durable = durable.into_iter().flatten();
                let left = || durable.chain([Step::Record]).collect();
                let steps = steps.map_or_else(left, |steps| steps.steps.clone());
                let fingerprint = sandbox.mark.fingerprint.clone();
                let id = sandbox.id.clone();
                let unwritten = attachment
                    .filter(|_| state == SandboxState::Ready)
                    .and_then(|record| record.attachment.clone())
                    .filter(|_| pod_record::lacks_network(&sandbox.record).unwrap_or(false));
                let view = sandbox_view(sandbox, state, pause, attachment);
                self.sandboxes
                    .adopt(Adopted {
                        view,
                        fingerprint: fingerprint.clone(),
                        steps,
                    })
                    .await?;
                if let Some(attachment) = unwritten {
                    self.sandboxes.record_network(id, fingerprint, attachment);
                }
                Ok(if detach {
                    Settled::Detached
                } else {
                    Settled::Listed
                })
            }
        }
    }

    /// Lists a container, or takes it back. Answers whether it is listed.
    async fn settle_container(&self, container: FoundContainer, found: &Found) -> Result<bool> {
        let sandbox = container.stored.sandbox.parse::<SandboxId>()?;
        if self.deps.index.snapshot().sandbox(&sandbox).is_none() {
            tracing::warn!(container.id = %container.id, %sandbox, "its sandbox is gone; the container is removed");
            self.containers
                .own(
                    &container.id,
                    &sandbox,
                    &container.record.snapshotter,
                    &container.mark.fingerprint,
                )
                .await?;
            self.unwind_container(&container.id).await;
            return Ok(false);
        }
        let creation = found.container_steps.get(&container.id).map_or(
            Creation::Forgotten,
            |steps| match steps.complete {
                true => Creation::Complete,
                false => Creation::CutOff,
            },
        );
        let facts = self.deps.facts.of(&container.id);
        let decided = plan::container(creation, &facts, &container.task, self.deps.clock.now());
        let ContainerPlan::Adopt {
            state,
            pid,
            started_at,
            ended,
            news,
            drop_task,
        } = decided
        else {
            self.unwind_container(&container.id).await;
            return Ok(false);
        };
        if drop_task {
            self.drop_task(container.id.as_str()).await;
        }
        let stdio = match &container.task {
            TaskAnswer::Known(TaskInfo { stdio, .. }) if !drop_task => Some(stdio.clone()),
            _ => None,
        };
        let fingerprint = container.mark.fingerprint.clone();
        let news = ended.clone().filter(|_| news);
        let mut view = container_view(container, sandbox)?;
        (view.state, view.pid, view.started_at, view.ended) = (state, pid, started_at, ended);
        view.oom_killed = facts.oom_killed;
        self.containers
            .adopt(AdoptedContainer {
                view,
                fingerprint,
                stdio,
                news,
            })
            .await?;
        Ok(true)
    }

    /// Deletes a task that was made and never started.
    async fn drop_task(&self, id: &str) {
        let tasks = &self.deps.containerd.tasks;
        let killed = tasks.kill(id, None, Signal::KILL, true).await;
        let deleted = tasks.delete(id, None).await;
        tracing::info!(
            container.id = id,
            ?killed,
            ?deleted,
            "a task that was never started is dropped"
        );
    }

    async fn unwind_sandbox(&self, id: &SandboxId) {
        match self.sandboxes.unwind_unfinished(id).await {
            Ok(left) if left.is_empty() => {
                tracing::info!(sandbox.id = %id, "a sandbox cut off in its making was taken back")
            }
            left => {
                tracing::warn!(sandbox.id = %id, ?left, "a sandbox cut off in its making would not go; it is tried again")
            }
        }
    }

    async fn unwind_container(&self, id: &crate::model::ContainerId) {
        match self.containers.unwind_unfinished(id).await {
            Ok(left) if left.is_empty() => {
                tracing::info!(container.id = %id, "a container cut off in its making was taken back")
            }
            left => {
                tracing::warn!(container.id = %id, ?left, "a container cut off in its making would not go; it is tried again")
            }
        }
    }

    /// Gives attachments back without holding up the start: a plugin may take a minute over each.
    fn detach_in_background(&self, orphans: BTreeSet<SandboxId>) {
        for id in orphans {
            let sandboxes = self.sandboxes.clone();
            self.deps.supervisor.start("detach", async move {
                match sandboxes.detach_orphan(&id).await {
                    Ok(()) => tracing::info!(sandbox.id = %id, "the network attachment of a former boot was given back"),
                    Err(error) => tracing::warn!(sandbox.id = %id, %error, "an attachment could not be given back; it is tried again"),
                }
            });
        }
    }
}

/// Does `work` for all, some at a time, and answers what each came to.
async fn each<T, R, F: Future<Output = R>>(
    all: impl IntoIterator<Item = T>,
    work: impl FnMut(T) -> F,
) -> Vec<R> {
    futures::stream::iter(all)
        .map(work)
        .buffer_unordered(ABREAST)
        .collect()
        .await
}

fn sandbox_view(
    sandbox: FoundSandbox,
    state: SandboxState,
    pause: Option<crate::model::Pid>,
    attachment: Option<&AttachmentRecord>,
) -> SandboxView {
    let attached = attachment.and_then(|record| record.attachment.as_ref());
    let ips = attached
        .filter(|_| state == SandboxState::Ready)
        .map(pod_record::ips)
        .unwrap_or_default();
    let sums = pod_record::PodSums::of(&sandbox.record);
    SandboxView {
        id: sandbox.id,
        config: Arc::new(sandbox.config),
        record: sandbox.text.into(),
        handler: sandbox.mark.handler,
        state,
        created_at: sandbox.mark.created_at,
        ips,
        netns: attachment.map(|record| record.intent.netns().to_owned()),
        pause_pid: pause,
        runtime_type: sandbox.record.runtime,
        pause_image: (!sandbox.record.snapshot_key.is_empty()).then_some(PauseImage {
            name: sandbox.record.image,
            snapshotter: sandbox.record.snapshotter,
        }),
        spec: text_of(sandbox.record.spec),
        cni_result: pod_record::cni_result(attached).into(),
        updated: sums.map(|sums| (sums.resources, sums.overhead)),
        stuck: Vec::new(),
    }
}

fn text_of(spec: Option<crate::containerd::Payload>) -> Arc<str> {
    spec.and_then(|spec| String::from_utf8(spec.value).ok())
        .unwrap_or_else(|| "null".to_owned())
        .into()
}

fn container_view(container: FoundContainer, sandbox: SandboxId) -> Result<ContainerView> {
    let text = text_of(container.record.spec);
    let resources = spec::decode_spec(&text).map_or_else(
        |_unreadable| Resources::default(),
        |spec| spec::effective_resources(&spec),
    );
    Ok(ContainerView {
        id: container.id,
        sandbox,
        config: Arc::new(container.config),
        record: container.stored.config.into(),
        state: crate::model::state::ContainerState::Created,
        created_at: container.mark.created_at,
        started_at: None,
        ended: None,
        pid: None,
        image: container.mark.image,
        volume_images: container.mark.volume_images,
        project: container.mark.project,
        restored_from: container.mark.restored_from,
        log_path: container.stored.log_path,
        resources,
        user: container.mark.user,
        stop_signal: container.stored.stop_signal.parse().unwrap_or(Signal::TERM),
        runtime_type: container.record.runtime,
        snapshotter: container.record.snapshotter,
        spec: text,
        parked: false,
        oom_killed: false,
    })
}
