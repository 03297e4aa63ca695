//! containerd's Containers service.

use std::sync::Arc;

use containerd_client::services::v1::containers_client::ContainersClient as Stub;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest,
    GetRequest as GetTaskRequest, ListContainersRequest, UpdateContainerRequest,
    container::Runtime, tasks_client::TasksClient,
};
use futures::future::BoxFuture;
use prost_types::FieldMask;
use tokio::time::timeout;

use super::channel::{MESSAGE_LIMIT, Step, Wire, present};
use super::traced::Traced;
use super::{convert, limits};
use crate::containerd::{ContainerRecord, Containers, RecordField};
use crate::model::{Error, Result};

/// The service over the wire.
pub(super) struct RemoteContainers(pub(super) Arc<Wire>);

impl RemoteContainers {
    fn stub(&self) -> Stub<Traced> {
        Stub::new(self.0.control()).max_decoding_message_size(MESSAGE_LIMIT)
    }

    /// All records that match, one a message: a node's records together may exceed what one message holds.
    async fn stream(&self, filters: Vec<String>) -> Result<Vec<ContainerRecord>> {
        let step = Step("list containers", "");
        let mut stub = self.stub();
        let request = self.0.request(ListContainersRequest { filters });
        let mut stream = self
            .0
            .call(step, limits::LIST, stub.list_stream(request))
            .await?;
        let mut records = Vec::new();
        loop {
            let message = timeout(limits::METADATA, stream.message())
                .await
                .map_err(|_elapsed| self.0.late(step, limits::METADATA))?
                .map_err(|status| self.0.failure(step, &status))?;
            match message {
                Some(message) => records.push(record(present(message.container, step)?)),
                None => return Ok(records),
            }
        }
    }

    /// containerd itself would delete the record of a running container and leave its shim without one.
    async fn ensure_no_task(&self, id: &str) -> Result<()> {
        let request = self.0.request(GetTaskRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        let mut tasks = TasksClient::new(self.0.control());
        let step = Step("look for a task of container", id);
        match self
            .0
            .call(step, limits::SHIM_READ, tasks.get(request))
            .await
        {
            Ok(_task) => Err(Error::precondition(format!(
                "delete container {id}: it still has a task: delete that first"
            ))),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Containers for RemoteContainers {
    fn get<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<ContainerRecord>> {
        Box::pin(async move {
            let step = Step("get container", id);
            let request = self.0.request(GetContainerRequest { id: id.to_owned() });
            let mut stub = self.stub();
            let reply = self
                .0
                .call(step, limits::METADATA, stub.get(request))
                .await?;
            present(reply.container, step).map(record)
        })
    }

    fn list<'a>(
        &'a self,
        label: Option<(&'a str, &'a str)>,
    ) -> BoxFuture<'a, Result<Vec<ContainerRecord>>> {
        let filter = label.map(|(key, value)| convert::label_equals(key, value));
        Box::pin(self.stream(filter.into_iter().collect()))
    }

    fn create<'a>(&'a self, new: &'a ContainerRecord) -> BoxFuture<'a, Result<ContainerRecord>> {
        Box::pin(async move {
            let step = Step("create container", &new.id);
            let request = self.0.request(CreateContainerRequest {
                container: Some(wire(new)),
            });
            let mut stub = self.stub();
            let reply = self
                .0
                .call(step, limits::METADATA, stub.create(request))
                .await?;
            present(reply.container, step).map(record)
        })
    }

    fn update<'a>(
        &'a self,
        changed: &'a ContainerRecord,
        fields: &'a [RecordField],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if fields.is_empty() {
                return Ok(()); // an empty mask would replace the whole record
            }
            let paths = fields.iter().map(|field| path(*field).to_owned()).collect();
            let request = self.0.request(UpdateContainerRequest {
                container: Some(wire(changed)),
                update_mask: Some(FieldMask { paths }),
            });
            let mut stub = self.stub();
            let step = Step("update container", &changed.id);
            self.0
                .call(step, limits::METADATA, stub.update(request))
                .await?;
            Ok(())
        })
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.ensure_no_task(id).await?;
            let request = self.0.request(DeleteContainerRequest { id: id.to_owned() });
            let mut stub = self.stub();
            let step = Step("delete container", id);
            self.0
                .call(step, limits::METADATA, stub.delete(request))
                .await
        })
    }
}

const fn path(field: RecordField) -> &'static str {
    match field {
        RecordField::Spec => "spec",
        RecordField::Extensions => "extensions",
        RecordField::Labels => "labels",
    }
}

fn record(container: Container) -> ContainerRecord {
    let runtime = container.runtime.unwrap_or_default();
    ContainerRecord {
        id: container.id,
        labels: convert::labels(container.labels),
        image: container.image,
        runtime: runtime.name,
        runtime_options: runtime.options.map(convert::payload),
        spec: container.spec.map(convert::payload),
        snapshotter: container.snapshotter,
        snapshot_key: container.snapshot_key,
        created_at: convert::timestamp(container.created_at),
        extensions: container
            .extensions
            .into_iter()
            .map(|(name, extension)| (name, convert::payload(extension)))
            .collect(),
        sandbox: container.sandbox,
    }
}

/// The record as a message; the times are containerd's to set.
fn wire(record: &ContainerRecord) -> Container {
    Container {
        id: record.id.clone(),
        labels: convert::wire_labels(&record.labels),
        image: record.image.clone(),
        runtime: Some(Runtime {
            name: record.runtime.clone(),
            options: record.runtime_options.clone().map(convert::any),
        }),
        spec: record.spec.clone().map(convert::any),
        snapshotter: record.snapshotter.clone(),
        snapshot_key: record.snapshot_key.clone(),
        created_at: None,
        updated_at: None,
        extensions: record
            .extensions
            .iter()
            .map(|(name, extension)| (name.clone(), convert::any(extension.clone())))
            .collect(),
        sandbox: record.sandbox.clone(),
    }
}
