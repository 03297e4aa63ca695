//! UpdateContainerResources: new spec into containerd's record, then the live task; taken back where the task refuses.
//! NRI plugins may change what is asked for, and change the limits of containers unasked.

use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::containerd::{ContainerRecord, Payload, RecordField};
use crate::index::ContainerView;
use crate::model::state::ContainerState;
use crate::model::{Classify, Context, Error, Kind, Resources, Result};
use crate::nri::{Event, Limits, Wishes};
use crate::ops::Operation;
use crate::spec;

use super::plugins::encoded;
use super::{Containers, Site};

impl Containers {
    /// Changes the limits of a container; what `asked` leaves unset stays. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it is removed or lost, or where a plugin refuses; what the OCI runtime
    /// refused, the limits being what they were then.
    pub async fn update_resources(&self, text: &str, asked: Option<Resources>) -> Result<()> {
        let (view, site) = self.expect(text)?;
        let Some(asked) = asked else { return Ok(()) };
        let this = self.clone();
        let work = async move {
            let wishes = this.update_asked(&view, &site, asked).await?;
            // Only now, since the lock of another container may be held by who waits for this one's.
            this.deps.nri.fulfil(&wishes).await;
            this.tell(Event::PostUpdateContainer, &view.id).await;
            Ok(())
        };
        self.deps
            .supervisor
            .detached("UpdateContainerResources", work)
            .await
    }

    /// Gives a container limits that a plugin wants it to have. Runs on when the caller leaves.
    ///
    /// # Errors
    /// As [`Self::update_resources`], but nobody else is asked.
    pub(super) async fn update_limits(&self, text: &str, limits: Limits) -> Result<()> {
        let (view, site) = self.expect(text)?;
        let this = self.clone();
        let work = async move {
            let operation = this.deps.live.begin("NRI update", view.id.short());
            let _transition = site.lock.lock().await;
            let now = this.changeable(&view)?;
            let mut new = decoded(&now.spec)?;
            this.lay_over(&mut new, &limits).await?;
            this.put_spec(&now, &new, &operation).await
        };
        self.deps.supervisor.detached("NRI update", work).await
    }

    async fn update_asked(
        &self,
        view: &Arc<ContainerView>,
        site: &Site,
        asked: Resources,
    ) -> Result<Wishes> {
        let id = &view.id;
        let operation = self.deps.live.begin("UpdateContainerResources", id.short());
        let _transition = site.lock.lock().await;
        let now = self.changeable(view)?;
        let until_published = self.deps.nri.enter();
        operation.step("plugins");
        let updated = self.consult_update(&now, &asked, &until_published).await?;
        let old = decoded(&now.spec)?;
        let mut new = spec::update_resources(&old, &asked, &self.deps.host.load())?;
        if let Some(own) = &updated.own {
            self.lay_over(&mut new, own).await?;
        }
        self.put_spec(&now, &new, &operation).await?;
        Ok(updated.wishes)
    }

    /// The container as it is now, if its limits can change.
    fn changeable(&self, view: &ContainerView) -> Result<Arc<ContainerView>> {
        let id = &view.id;
        let now = self.deps.index.snapshot().container(id).cloned();
        let now = now.ok_or_else(|| Error::not_found(format!("container {id}: not found")))?;
        if matches!(
            now.state,
            ContainerState::Removing | ContainerState::Unknown
        ) {
            return Err(Error::precondition(format!(
                "container {}: {:?}, its limits cannot change",
                id.short(),
                now.state
            )));
        }
        Ok(now)
    }

    async fn lay_over(&self, spec: &mut Spec, limits: &Limits) -> Result<()> {
        if let Some(class) = &limits.classes.rdt {
            return Err(Error::precondition(format!(
                "cache class {class:?}: a container that exists stays in its own"
            )));
        }
        let mut linux = spec.linux().clone().unwrap_or_default();
        let mut resources = linux.resources().clone().unwrap_or_default();
        limits.lay_over(&mut resources, &self.deps.host.load())?;
        linux.set_resources(Some(resources));
        spec.set_linux(Some(linux));
        let classes = self.look_up_classes(limits.classes.clone()).await?;
        spec::apply_classes(spec, &classes)
    }

    /// Puts a spec with other limits in the place of the container's own: in the record, in the task, in the view.
    async fn put_spec(&self, now: &ContainerView, new: &Spec, operation: &Operation) -> Result<()> {
        let id = &now.id;
        let text = encoded(new)?;
        operation.step("record");
        self.write_spec(id.as_str(), &text).await?;
        if now.state == ContainerState::Running {
            operation.step("task");
            if let Err(refused) = self.update_task(id.as_str(), new).await {
                self.write_spec(id.as_str(), &now.spec).await?;
                return Err(refused.context(format!("container {}: update limits", id.short())));
            }
        }
        self.deps.index.update_container(id, |view| {
            view.resources = spec::effective_resources(new);
            view.spec = text;
            Ok(())
        })
    }

    async fn write_spec(&self, id: &str, text: &str) -> Result<()> {
        let spec = Some(Payload::new(Payload::SPEC, text));
        let record = ContainerRecord {
            id: id.to_owned(),
            spec,
            ..ContainerRecord::default()
        };
        let written = self
            .deps
            .containerd
            .containers
            .update(&record, &[RecordField::Spec])
            .await;
        written.context(|| "write the spec to the record".to_owned())
    }

    /// Sends all limits of the spec; a task that is gone needs none.
    async fn update_task(&self, id: &str, new: &Spec) -> Result<()> {
        let resources = new
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref());
        let text = serde_json::to_vec(&resources)
            .classify(Kind::Internal, || "encode the limits".to_owned())?;
        match self
            .deps
            .containerd
            .tasks
            .update(id, Payload::new(Payload::RESOURCES, text))
            .await
        {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }
}

fn decoded(spec: &str) -> Result<Spec> {
    spec::decode_spec(spec).context(|| "read the container's spec".to_owned())
}
