//! What NRI plugins hear of a container, and what they may ask for.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use oci_spec::runtime::Spec;

use crate::index::ContainerView;
use crate::model::host_facts::SourcePropagation;
use crate::model::state::{ContainerState, SandboxState};
use crate::model::{ContainerId, Error, Pid, Resources, Result, SandboxId};
use crate::nri::{
    ContainerFacts, Created, Event, Eviction, Household, ImageFacts, PodFacts, Present, Update,
    Updated,
};
use crate::sandbox::pod_facts;
use crate::spec;
use crate::sys;

use super::{Containers, Site};

/// How long the source of a mount may take to answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A container as plugins are told of it.
fn facts(view: &ContainerView) -> ContainerFacts {
    let digest = view.image.reference.split_once('@');
    ContainerFacts {
        id: view.id.clone(),
        sandbox: view.sandbox.clone(),
        config: Arc::clone(&view.config),
        spec: Arc::clone(&view.spec),
        state: Some(view.state),
        pid: view.pid,
        created_at: view.created_at,
        started_at: view.started_at,
        ended: view.ended.clone(),
        oom_killed: view.oom_killed,
        user: (view.user.uid, view.user.gid, view.user.groups.clone()),
        image: ImageFacts {
            name: view.image.name.clone(),
            digest: digest
                .map(|(_, digest)| digest.to_owned())
                .unwrap_or_default(),
            config_digest: view.image.id.clone(),
        },
    }
}

/// A container that plugins were asked about before it was made. Where it never is, they are told of its end.
#[derive(Debug, Default)]
pub(super) struct Announced(std::sync::OnceLock<(PodFacts, ContainerFacts)>);

impl Containers {
    /// The container of `view` and `spec` as the plugins want it made.
    ///
    /// # Errors
    /// What a plugin refused, and what would not work of what they ask for.
    pub(super) async fn consult(
        &self,
        mut view: ContainerView,
        spec: &Spec,
        announced: &Announced,
        present: &Present,
    ) -> Result<ContainerView> {
        let nri = &self.deps.nri;
        if !nri.hears_of_creations() {
            return Ok(view);
        }
        let pod = self.pod_of(&view)?;
        let asked = ContainerFacts {
            state: None,
            ..facts(&view)
        };
        let (pod, asked) = announced.0.get_or_init(|| (pod, asked));
        let host = self.deps.host.load_full();
        let Created {
            spec: mut made,
            cdi_devices,
            classes,
            wishes,
        } = nri.create(present, pod, asked, spec, &host).await?;
        self.check_sources(&made, spec, &view.sandbox).await?;
        self.add_devices(&mut made, cdi_devices, &view.sandbox)
            .await?;
        spec::apply_classes(&mut made, &self.look_up_classes(classes).await?)?;
        nri.fulfil(&wishes).await;
        if made != *spec {
            view.resources = spec::effective_resources(&made);
            if let Some(groups) = made.process().as_ref().map(|process| process.user()) {
                view.user.groups = groups.additional_gids().clone().unwrap_or_default();
            }
            view.spec = encoded(&made)?;
        }
        Ok(view)
    }

    /// Whether the sources of mounts that plugins added can send or receive what these promise.
    async fn check_sources(&self, made: &Spec, asked: &Spec, sandbox: &SandboxId) -> Result<()> {
        let old = asked.mounts().clone().unwrap_or_default();
        let added = made.mounts().iter().flatten();
        for mount in added.filter(|mount| !old.contains(mount)) {
            let has = |word: &str| {
                let mut options = mount.options().iter().flatten();
                options.any(|option| option == word)
            };
            let (is_shared, is_slave) = (has("rshared"), has("rslave"));
            let Some(source) = mount.source().clone().filter(|_| is_shared || is_slave) else {
                continue;
            };
            let what = format!("look up mount source {:?}", source.display());
            let work = move || sys::host_facts::mount_source_blocking(&source, true);
            let looked = self.deps.paths.run(sandbox.as_str(), what, LIMIT, work);
            let (source, peers) = looked.await?;
            let suffices = match peers {
                SourcePropagation::Shared => true,
                SourcePropagation::Slave => !is_shared,
                SourcePropagation::Private => false,
            };
            if !suffices {
                return Err(Error::precondition(format!(
                    "NRI: mount at {}: its source {} is on a mount that is not {}; make it so, or ask for another propagation",
                    mount.destination().display(),
                    source.display(),
                    if is_shared {
                        "shared"
                    } else {
                        "shared or slave"
                    }
                )));
            }
        }
        Ok(())
    }

    /// Tells of the end of a container that will not be, where plugins know of it.
    pub(super) async fn retract(&self, announced: &Announced) {
        let Some((pod, container)) = announced.0.get() else {
            return;
        };
        let container = ContainerFacts {
            state: Some(ContainerState::Exited),
            ..container.clone()
        };
        let wishes = self.deps.nri.stopped(pod, &container).await;
        self.deps.nri.fulfil(&wishes).await;
        self.deps
            .nri
            .tell(Event::RemoveContainer, pod, Some(&container))
            .await;
    }

    /// Asks whether the process `pid` of the container may begin.
    ///
    /// # Errors
    /// What a plugin refused.
    pub(super) async fn tell_starting(
        &self,
        view: &ContainerView,
        pid: Pid,
        present: &Present,
    ) -> Result<()> {
        if !self.deps.nri.hears(Event::StartContainer) {
            return Ok(());
        }
        let pod = self.pod_of(view)?;
        let container = ContainerFacts {
            pid: Some(pid),
            ..facts(view)
        };
        self.deps
            .nri
            .ask(present, Event::StartContainer, &pod, Some(&container))
            .await
    }

    /// Tells an event that changes nothing, of a container as it is now.
    pub(super) async fn tell(&self, event: Event, id: &ContainerId) {
        if !self.deps.nri.hears(event) {
            return;
        }
        let now = self.deps.index.snapshot();
        if let Some((pod, view)) = now.pod_of(id).zip(now.container(id)) {
            let (pod, container) = (pod_facts(&pod.sandbox), facts(view));
            self.deps.nri.tell(event, &pod, Some(&container)).await;
        }
    }

    /// Tells once that a container has ended; whoever else wants that waits until it is told.
    pub(super) async fn tell_ended(&self, id: &ContainerId, site: &Site) {
        let now = self.deps.index.snapshot();
        let Some((pod, view)) = now.pod_of(id).zip(now.container(id)) else {
            return;
        };
        if !matches!(
            view.state,
            ContainerState::Exited | ContainerState::Removing
        ) {
            return;
        }
        let telling = async {
            if self.deps.nri.hears(Event::StopContainer) {
                let (pod, container) = (pod_facts(&pod.sandbox), facts(view));
                let wishes = self.deps.nri.stopped(&pod, &container).await;
                // Another container's lock may be held by whoever waits for ours.
                let nri = Arc::clone(&self.deps.nri);
                if !wishes.is_empty() {
                    self.deps
                        .supervisor
                        .start("NRI updates", async move { nri.fulfil(&wishes).await });
                }
            }
        };
        site.told_end.get_or_init(|| telling).await;
    }

    fn pod_of(&self, view: &ContainerView) -> Result<PodFacts> {
        let now = self.deps.index.snapshot();
        let pod = now.pod(&view.sandbox);
        pod.map(|pod| pod_facts(&pod.sandbox))
            .ok_or_else(|| Error::not_found(format!("sandbox {}: not found", view.sandbox.short())))
    }

    /// What plugins think of new limits.
    ///
    /// # Errors
    /// What a plugin refused.
    pub(super) async fn consult_update(
        &self,
        view: &ContainerView,
        asked: &Resources,
        present: &Present,
    ) -> Result<Updated> {
        if !self.deps.nri.hears(Event::UpdateContainer) {
            return Ok(Updated::default());
        }
        let pod = self.pod_of(view)?;
        self.deps
            .nri
            .update(present, &pod, &facts(view), asked)
            .await
    }
}

/// The spec as records have it.
pub(super) fn encoded(spec: &Spec) -> Result<Arc<str>> {
    Ok(spec::encode_spec(spec)?.into())
}

impl Household for Containers {
    fn inventory(&self) -> (Vec<PodFacts>, Vec<ContainerFacts>) {
        let now = self.deps.index.snapshot();
        let pods = now
            .pods()
            .filter(|pod| pod.sandbox.state != SandboxState::Removing)
            .map(|pod| pod_facts(&pod.sandbox));
        let lives = |view: &&Arc<ContainerView>| {
            !matches!(
                view.state,
                ContainerState::Exited | ContainerState::Removing
            )
        };
        let containers = now.containers().filter(lives).map(|view| facts(view));
        (pods.collect(), containers.collect())
    }

    fn update<'a>(&'a self, update: &'a Update) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.update_limits(&update.container, update.limits.clone())
                .await
        })
    }

    fn evict<'a>(&'a self, eviction: &'a Eviction) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.stop(&eviction.container, 0).await })
    }
}
