//! Reads what there is: containerd's records with our mark, our own records, and each task by a bounded question.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;

use crate::container::record::{self as container_record, ContainerMark, StoredContainer};
use crate::container::steps::StepRecord as ContainerSteps;
use crate::containerd::ContainerRecord;
use crate::model::{ContainerConfig, ContainerId, PodConfig, Result, SandboxId};
use crate::sandbox::record::{self as pod_record, SandboxMark};
use crate::sandbox::steps::{AttachmentRecord, StepRecord};
use crate::wire::record as wire_record;

use super::Recovery;
use super::plan::TaskAnswer;

/// How long one shim may take to answer (behaviour-node §8.1).
const TASK_LIMIT: Duration = Duration::from_secs(10);

/// A sandbox's record, read.
pub(super) struct FoundSandbox {
    pub(super) id: SandboxId,
    pub(super) config: PodConfig,
    pub(super) text: String,
    pub(super) mark: SandboxMark,
    pub(super) record: ContainerRecord,
    pub(super) task: TaskAnswer,
}

/// A container's record, read.
pub(super) struct FoundContainer {
    pub(super) id: ContainerId,
    pub(super) config: ContainerConfig,
    pub(super) stored: StoredContainer,
    pub(super) mark: ContainerMark,
    pub(super) record: ContainerRecord,
    pub(super) task: TaskAnswer,
}

/// All of it.
pub(super) struct Found {
    pub(super) sandboxes: Vec<FoundSandbox>,
    pub(super) containers: Vec<FoundContainer>,
    pub(super) sandbox_steps: BTreeMap<SandboxId, StepRecord>,
    pub(super) container_steps: BTreeMap<ContainerId, ContainerSteps>,
    pub(super) attachments: BTreeMap<SandboxId, AttachmentRecord>,
    /// Ids of records of ours that cannot be read.
    pub(super) unreadable: Vec<String>,
}

impl Recovery {
    pub(super) async fn gather(&self) -> Result<Found> {
        let records = self
            .deps
            .containerd
            .containers
            .list(Some(pod_record::MARK))
            .await?;
        let asked = records.into_iter().map(|record| async move {
            let task = self.ask(&record.id).await;
            (record, task)
        });
        let mut found = Found {
            sandboxes: Vec::new(),
            containers: Vec::new(),
            sandbox_steps: by_id(self.sandboxes.step_records().load().await?),
            container_steps: by_id(self.containers.step_records().load().await?),
            attachments: by_id(self.sandboxes.attachment_records().load().await?),
            unreadable: Vec::new(),
        };
        for (record, task) in join_all(asked).await {
            let id = record.id.clone();
            if let Err(error) = found.read(record, task) {
                tracing::error!(container.id = %id, %error, "a record of ours cannot be read; it is left as it is");
                found.unreadable.push(id);
            }
        }
        Ok(found)
    }

    async fn ask(&self, id: &str) -> TaskAnswer {
        match tokio::time::timeout(TASK_LIMIT, self.deps.containerd.tasks.get(id, None)).await {
            Ok(Ok(info)) => TaskAnswer::Known(info),
            Ok(Err(error)) if error.is_not_found() => TaskAnswer::Missing,
            Ok(Err(error)) => {
                tracing::warn!(container.id = id, %error, "the task does not answer");
                TaskAnswer::Silent
            }
            Err(_elapsed) => {
                tracing::warn!(container.id = id, limit = ?TASK_LIMIT, "the task does not answer in time");
                TaskAnswer::Silent
            }
        }
    }
}

impl Found {
    fn read(&mut self, record: ContainerRecord, task: TaskAnswer) -> Result<()> {
        let kind = record
            .labels
            .get(pod_record::KIND_LABEL)
            .map(String::as_str);
        if kind == Some(pod_record::KIND_SANDBOX) {
            let (text, mark) = pod_record::read_sandbox(&record)?;
            let config = PodConfig::try_from(wire_record::pod_from_record(&text)?)?;
            self.sandboxes.push(FoundSandbox {
                id: record.id.parse()?,
                config,
                text,
                mark,
                record,
                task,
            });
        } else {
            let (stored, mark) = container_record::read(&record)?;
            stored.sandbox.parse::<SandboxId>()?;
            let config =
                ContainerConfig::try_from(wire_record::container_from_record(&stored.config)?)?;
            self.containers.push(FoundContainer {
                id: record.id.parse()?,
                config,
                stored,
                mark,
                record,
                task,
            });
        }
        Ok(())
    }
}

/// Records by parsed id; what cannot be read was moved aside and is told about.
fn by_id<Id: std::str::FromStr + Ord, T>(loaded: crate::store::Loaded<T>) -> BTreeMap<Id, T> {
    for (path, error) in &loaded.quarantined {
        tracing::error!(path = %path.display(), %error, "a record could not be read and was moved aside");
    }
    let parsed = loaded
        .records
        .into_iter()
        .filter_map(|(id, record)| Some((id.parse().ok()?, record)));
    parsed.collect()
}
