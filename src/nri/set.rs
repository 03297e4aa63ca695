//! The plugins as one: each event goes to those who hear of it, in order, and their answers come back as one.
//!
//! Nothing is locked over a call but the plugin that is called. Where nobody hears of an event, an atomic load is all that
//! it costs.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::join_all;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::event::Event;
use super::facts::{ContainerFacts, Eviction, Household, Limits, PodFacts, Update, Wishes};
use super::merge::Merge;
use super::messages::api;
use super::plugin::{Failure, Plugin};
use super::roster::{Present, Roster};
use super::{adjust, limits, objects, validate};
use crate::config::Shared;
use crate::config::settings;
use crate::model::classes::AskedClasses;
use crate::model::{Context as _, Error, HostFacts, Resources, Result};
use crate::ops::Supervisor;

/// A container as plugins want it made.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its spec.
    pub spec: Spec,
    /// CDI devices that it gets besides.
    pub cdi_devices: Vec<String>,
    /// Classes of service that it gets in the place of others.
    pub classes: AskedClasses,
    /// What is asked for of others.
    pub wishes: Wishes,
}

/// Limits as plugins want them set.
#[derive(Clone, Debug, Default)]
pub struct Updated {
    /// Limits of the container itself, to be laid over those that were asked for.
    pub own: Option<Limits>,
    /// What is asked for of others.
    pub wishes: Wishes,
}

/// All plugins of the node.
pub struct Nri {
    pub(super) config: Shared,
    pub(super) supervisor: Supervisor,
    pub(super) roster: Roster,
    pub(super) joining: tokio::sync::Mutex<()>,
    household: OnceLock<Arc<dyn Household>>,
    trouble: ArcSwapOption<String>,
    is_on: bool,
}

impl Nri {
    /// No plugins yet.
    pub fn new(config: Shared, supervisor: Supervisor) -> Self {
        let is_on = config.load().nri.enabled;
        Self {
            config,
            supervisor,
            roster: Roster::default(),
            joining: tokio::sync::Mutex::default(),
            household: OnceLock::new(),
            trouble: ArcSwapOption::empty(),
            is_on,
        }
    }

    /// Says what exists on the node; once, before the first plugin.
    pub fn settle(&self, household: Arc<dyn Household>) {
        if self.household.set(household).is_err() {
            tracing::error!("the household of NRI was set twice");
        }
    }

    /// Whether any plugin hears of `event`.
    pub fn hears(&self, event: Event) -> bool {
        self.is_on && self.roster.hears(event)
    }

    /// Whether making a container concerns anybody: plugins, or the node's own rules about them.
    pub fn hears_of_creations(&self) -> bool {
        self.is_on
            && (self.roster.hears(Event::CreateContainer)
                || self.roster.hears(Event::ValidateContainerAdjustment)
                || self.config.load().nri.validator.is_some())
    }

    /// To be held from before plugins are asked about a change until the change is published, so that a plugin that joins
    /// meanwhile misses nothing. Never waits.
    pub fn enter(&self) -> Present {
        if self.is_on {
            self.roster.enter()
        } else {
            Present::nobody()
        }
    }

    pub(super) fn household(&self) -> Option<&Arc<dyn Household>> {
        self.household.get()
    }

    pub(super) fn settings(&self) -> settings::Nri {
        self.config.load().nri.clone()
    }

    fn limit(&self) -> Duration {
        self.config.load().nri.request_timeout
    }

    /// Notes why plugins cannot connect; `None` where they can.
    pub fn note_trouble(&self, why: Option<String>) {
        self.trouble.store(why.map(Arc::new));
    }

    /// The plugins and how they may connect, for people.
    pub fn shown(&self) -> Value {
        let settings = self.settings();
        let plugins: Vec<Value> = self
            .roster
            .all()
            .iter()
            .map(|plugin| shown(plugin))
            .collect();
        let mut all = json!({
            "enabled": self.is_on,
            "socket": settings.socket,
            "plugins": plugins,
        });
        if let (Some(trouble), Some(all)) = (&*self.trouble.load(), all.as_object_mut()) {
            all.insert("trouble".to_owned(), json!(trouble.as_str()));
        }
        all
    }

    /// Tells `event` to those who hear of it now. What they complain about is logged and changes nothing.
    pub async fn tell(&self, event: Event, pod: &PodFacts, container: Option<&ContainerFacts>) {
        let listeners = self.roster.listeners(event);
        if listeners.is_empty() {
            return;
        }
        let (pod, container) = (objects::pod(pod), container.map(objects::container));
        for plugin in listeners {
            let told = plugin
                .tell(event, &pod, container.as_ref(), self.limit())
                .await;
            if let Err(Failure::Refused(refusal)) = told {
                let error = refused(&plugin, event, &refusal.message);
                tracing::warn!(%error, "an NRI plugin's complaint changes nothing");
            }
        }
    }

    /// Asks whether `event` may go on. Who comes after a plugin that refuses is not asked.
    ///
    /// # Errors
    /// `FailedPrecondition` with the plugin's words.
    pub async fn ask(
        &self,
        present: &Present,
        event: Event,
        pod: &PodFacts,
        container: Option<&ContainerFacts>,
    ) -> Result<()> {
        let listeners = present.listeners(event);
        if listeners.is_empty() {
            return Ok(());
        }
        let (pod, container) = (objects::pod(pod), container.map(objects::container));
        for plugin in listeners {
            let told = plugin
                .tell(event, &pod, container.as_ref(), self.limit())
                .await;
            self.settled(&plugin, event, told)?;
        }
        Ok(())
    }

    /// Asks about new sums of a pod's resources.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn update_pod(
        &self,
        present: &Present,
        pod: &PodFacts,
        resources: Option<&Resources>,
        overhead: Option<&Resources>,
    ) -> Result<()> {
        let event = Event::UpdatePodSandbox;
        let request = api::UpdatePodSandboxRequest {
            pod: Some(objects::pod(pod)),
            overhead_linux_resources: overhead.map(limits::of_request),
            linux_resources: resources.map(limits::of_request),
        };
        for plugin in present.listeners(event) {
            let asked = plugin
                .ask::<_, api::Empty>(event.method(), &request, self.limit())
                .await;
            self.settled(&plugin, event, asked)?;
        }
        Ok(())
    }

    /// Asks how a container is to be made that `container` and `spec` describe.
    ///
    /// # Errors
    /// `FailedPrecondition` where a plugin refuses, two contradict each other, or a validator does not allow it;
    /// `InvalidArgument` where an answer makes no sense.
    pub async fn create(
        &self,
        present: &Present,
        pod: &PodFacts,
        container: &ContainerFacts,
        spec: &Spec,
        host: &HostFacts,
    ) -> Result<Created> {
        let event = Event::CreateContainer;
        let pod = objects::pod(pod);
        let mut merge = Merge::new(container.id.as_str());
        let mut made = spec.clone();
        for plugin in present.listeners(event) {
            let cdi = adjust::cdi_devices(&merge.adjust);
            let request = api::CreateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(objects::with(container, &made, &cdi)),
            };
            let answer = plugin.ask(event.method(), &request, self.limit()).await;
            let Some(answer) = self.settled(&plugin, event, answer)? else {
                continue;
            };
            merge.created(&plugin.title(), answer)?;
            made = adjust::adjusted(spec, &merge.adjust, host)
                .context(|| format!("NRI plugin {:?}: adjust the container", plugin.title()))?;
        }
        let request = api::ValidateContainerAdjustmentRequest {
            pod: Some(pod),
            container: Some(objects::with(container, spec, &[])),
            adjust: Some(merge.adjust.clone()),
            update: merge.update_messages(),
            owners: Some(merge.owners.message()),
            plugins: instances(present.all()),
        };
        if let Some(rules) = &self.config.load().nri.validator {
            validate::by_rules(rules, &request, &merge.owners)?;
        }
        self.validate(present, &request).await?;
        Ok(Created {
            spec: made,
            cdi_devices: adjust::cdi_devices(&merge.adjust),
            classes: adjust::classes(&merge.adjust)?,
            wishes: merge.wishes()?,
        })
    }

    /// Asks all who may object, at the same time.
    async fn validate(
        &self,
        present: &Present,
        request: &api::ValidateContainerAdjustmentRequest,
    ) -> Result<()> {
        let event = Event::ValidateContainerAdjustment;
        let listeners = present.listeners(event);
        let limit = self.limit();
        let asked = listeners.iter().map(|plugin| async move {
            let answer = plugin
                .ask::<_, api::ValidateContainerAdjustmentResponse>(event.method(), request, limit)
                .await;
            (plugin, answer)
        });
        for (plugin, answer) in join_all(asked).await {
            match self.settled(plugin, event, answer)? {
                Some(answer) if answer.reject => {
                    return Err(refused(plugin, event, &answer.reason));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Asks which limits a container is to get for which `asked` was asked.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub async fn update(
        &self,
        present: &Present,
        pod: &PodFacts,
        container: &ContainerFacts,
        asked: &Resources,
    ) -> Result<Updated> {
        let event = Event::UpdateContainer;
        let (pod, message) = (objects::pod(pod), objects::container(container));
        let mut merge = Merge::new(container.id.as_str());
        for plugin in present.listeners(event) {
            let mut shown = limits::of_request(asked);
            if let Some(own) = merge.own_limits() {
                super::merge::overlay(&mut shown, own);
            }
            let request = api::UpdateContainerRequest {
                pod: Some(pod.clone()),
                container: Some(message.clone()),
                linux_resources: Some(shown),
            };
            let answer = plugin
                .ask::<_, api::UpdateContainerResponse>(event.method(), &request, self.limit())
                .await;
            if let Some(answer) = self.settled(&plugin, event, answer)? {
                merge.updated(&plugin.title(), answer.update)?;
                merge.evicted(&plugin.title(), answer.evict);
            }
        }
        Ok(Updated {
            own: merge.own_limits().as_ref().map(limits::asked).transpose()?,
            wishes: merge.wishes()?,
        })
    }

    /// Tells that a container has ended; answers what is asked for of others. Refusals and contradictions are logged.
    pub async fn stopped(&self, pod: &PodFacts, container: &ContainerFacts) -> Wishes {
        let event = Event::StopContainer;
        let request = api::StopContainerRequest {
            pod: Some(objects::pod(pod)),
            container: Some(objects::container(container)),
        };
        let mut merge = Merge::new(container.id.as_str());
        for plugin in self.roster.listeners(event) {
            let answer = plugin
                .ask::<_, api::StopContainerResponse>(event.method(), &request, self.limit())
                .await;
            let merged = self.settled(&plugin, event, answer).and_then(|answer| {
                let updates = answer.map(|answer| answer.update).unwrap_or_default();
                merge.updated(&plugin.title(), updates)
            });
            if let Err(error) = merged {
                tracing::warn!(%error, "an NRI plugin's answer to the end of a container is dropped");
            }
        }
        merge.wishes().unwrap_or_else(|error| {
            tracing::warn!(%error, "what NRI plugins ask for at the end of a container makes no sense");
            Wishes::default()
        })
    }

    /// Does what plugins asked for of other containers. What does not work is logged. Evictions run on by themselves: a
    /// container may take its time to end.
    pub async fn fulfil(self: &Arc<Self>, wishes: &Wishes) {
        let Some(household) = self.household() else {
            return;
        };
        for update in &wishes.updates {
            if let Err(error) = household.update(update).await {
                log_failed(update, &error);
            }
        }
        for eviction in wishes.evictions.clone() {
            let household = Arc::clone(household);
            self.supervisor.start("NRI eviction", async move {
                let Eviction { container, reason } = &eviction;
                tracing::info!(container.id = %container, reason, "NRI: a container is evicted");
                if let Err(error) = household.evict(&eviction).await {
                    tracing::warn!(container.id = %container, %error, "NRI: a container could not be evicted");
                }
            });
        }
    }

    /// The answer of a plugin that is still there; `None` of one that is not, or does not know the call.
    fn settled<A>(
        &self,
        plugin: &Plugin,
        event: Event,
        answer: Result<A, Failure>,
    ) -> Result<Option<A>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Gone) => Ok(None),
            Err(Failure::Refused(refusal))
                if refusal.is_unimplemented()
                    && matches!(
                        event,
                        Event::UpdatePodSandbox | Event::ValidateContainerAdjustment
                    ) =>
            {
                plugin.is_deaf_to(event);
                Ok(None)
            }
            Err(Failure::Refused(refusal)) => Err(refused(plugin, event, &refusal.message)),
        }
    }
}

fn instances(plugins: &[Arc<Plugin>]) -> Vec<api::PluginInstance> {
    let instance = |plugin: &Arc<Plugin>| api::PluginInstance {
        name: plugin.name.clone(),
        index: plugin.index.clone(),
    };
    plugins.iter().map(instance).collect()
}

/// Says what became of an update that nobody waits for.
pub(super) fn log_failed(update: &Update, error: &Error) {
    if update.ignore_failure {
        tracing::debug!(container.id = %update.container, %error, "NRI: limits could not be changed, which does not matter");
    } else {
        tracing::warn!(container.id = %update.container, %error, "NRI: limits could not be changed");
    }
}

fn refused(plugin: &Plugin, event: Event, why: &str) -> Error {
    const LONGEST: usize = 1024;
    let why: String = why.chars().take(LONGEST).collect();
    Error::precondition(format!(
        "NRI plugin {:?} refused {}: {why}",
        plugin.title(),
        event.method()
    ))
}

fn shown(plugin: &Plugin) -> Value {
    json!({
        "index": plugin.index,
        "name": plugin.name,
        "launched": plugin.is_launched,
        "events": Event::names(plugin.subscription()),
    })
}
