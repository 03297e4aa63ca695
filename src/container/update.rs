//! UpdateContainerResources: new spec into containerd's record, then the live task; taken back where the task refuses.

use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::containerd::{ContainerRecord, Payload, RecordField};
use crate::index::ContainerView;
use crate::model::state::ContainerState;
use crate::model::{Classify, Context, Error, Kind, Resources, Result};
use crate::spec;

use super::{Containers, Site};

impl Containers {
    /// Changes the limits of a container; what `asked` leaves unset stays. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it is removed or lost; what the OCI runtime refused, the limits being what
    /// they were then.
    pub async fn update_resources(&self, text: &str, asked: Option<Resources>) -> Result<()> {
        let (view, site) = self.expect(text)?;
        let Some(asked) = asked else { return Ok(()) };
        let this = self.clone();
        let work = async move { this.update_whole(view, site, asked).await };
        self.deps
            .supervisor
            .detached("UpdateContainerResources", work)
            .await
    }

    async fn update_whole(
        &self,
        view: Arc<ContainerView>,
        site: Arc<Site>,
        asked: Resources,
    ) -> Result<()> {
        let id = &view.id;
        let operation = self.deps.live.begin("UpdateContainerResources", id.short());
        let _transition = site.lock.lock().await;
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
        let decoding = || "read the container's spec".to_owned();
        let old: Spec = serde_json::from_str(&now.spec).classify(Kind::Internal, decoding)?;
        let new = spec::update_resources(&old, &asked, &self.deps.host.load())?;
        let text: Arc<str> = serde_json::to_string(&new)
            .classify(Kind::Internal, decoding)?
            .into();
        operation.step("record");
        self.write_spec(id.as_str(), &text).await?;
        if now.state == ContainerState::Running {
            operation.step("task");
            if let Err(refused) = self.update_task(id.as_str(), &new).await {
                self.write_spec(id.as_str(), &now.spec).await?;
                return Err(refused.context(format!("container {}: update limits", id.short())));
            }
        }
        self.deps.index.update_container(id, |view| {
            view.resources = spec::effective_resources(&new);
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
