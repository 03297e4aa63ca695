//! CheckpointContainer, CheckpointPod and RestorePod.

use std::sync::Arc;
use std::time::Duration;

use crate::container::{CheckpointRequest, PodCheckpointRequest, RestorePodRequest};
use crate::index::ContainerView;
use crate::model::{ContainerConfig, Error, Result};
use crate::wire::{cri, gojson, record};

use super::serve::{Answer, Weight};
use super::{Service, convert, views};

impl Service {
    pub(super) async fn answer_checkpoint_container(
        &self,
        request: cri::CheckpointContainerRequest,
    ) -> Answer<cri::CheckpointContainerResponse> {
        self.serve("CheckpointContainer", Weight::Make, async {
            let cri::CheckpointContainerRequest {
                container_id,
                location,
                timeout,
            } = request;
            self.span_container(&container_id);
            let view = self.container_named(&container_id)?;
            let seconds = u64::try_from(timeout).map_err(|_negative| {
                Error::invalid(format!("timeout {timeout}: want 0 or more"))
            })?;
            let request = CheckpointRequest {
                container: view.id.to_string(),
                location,
                timeout: (seconds > 0).then(|| Duration::from_secs(seconds)),
                status: gojson::encode(&views::container_status(&view))?,
            };
            self.containers.checkpoint(request).await?;
            Ok(cri::CheckpointContainerResponse {})
        })
        .await
    }

    /// `deadline` is what is left of the caller's, who must set one.
    pub(super) async fn answer_checkpoint_pod(
        &self,
        request: cri::CheckpointPodRequest,
        deadline: Option<Duration>,
    ) -> Answer<cri::CheckpointPodResponse> {
        self.serve("CheckpointPod", Weight::Make, async {
            let cri::CheckpointPodRequest {
                pod_sandbox_id,
                output_path,
                container_ids,
                options,
            } = request;
            self.span_sandbox(&pod_sandbox_id);
            refuse_options(options.keys())?;
            let timeout = deadline.ok_or_else(|| {
                Error::invalid("the call has no deadline: containers are frozen while it runs, so it must have one")
            })?;
            let one = |id: &String| {
                let view = self.container_named(id)?;
                let status = gojson::encode(&views::container_status(&view))?;
                Ok((view.id.clone(), status))
            };
            let request = PodCheckpointRequest {
                sandbox: pod_sandbox_id,
                output: output_path,
                containers: container_ids.iter().map(one).collect::<Result<_>>()?,
                timeout,
            };
            self.containers.checkpoint_pod(request).await?;
            Ok(cri::CheckpointPodResponse {})
        })
        .await
    }

    pub(super) async fn answer_restore_pod(
        &self,
        request: cri::RestorePodRequest,
    ) -> Answer<cri::RestorePodResponse> {
        self.serve("RestorePod", Weight::Make, async {
            let cri::RestorePodRequest {
                checkpoint_path,
                config,
                runtime_handler,
                options,
                container_configs,
            } = request;
            refuse_options(options.keys())?;
            let run = convert::run_request(cri::RunPodSandboxRequest {
                config,
                runtime_handler,
            })?;
            let one = |config: cri::ContainerConfig| {
                let text = record::container_record(&config)?;
                Ok((Arc::new(ContainerConfig::try_from(config)?), text.into()))
            };
            let request = RestorePodRequest {
                path: checkpoint_path,
                run,
                containers: container_configs
                    .into_iter()
                    .map(one)
                    .collect::<Result<_>>()?,
            };
            let restored = self.containers.restore_pod(request).await?;
            self.span_sandbox(restored.sandbox.as_str());
            let container =
                |(name, id): (String, crate::model::ContainerId)| cri::RestoredContainer {
                    name,
                    container_id: id.to_string(),
                };
            Ok(cri::RestorePodResponse {
                pod_sandbox_id: restored.sandbox.to_string(),
                restored_containers: restored.containers.into_iter().map(container).collect(),
            })
        })
        .await
    }

    fn container_named(&self, id: &str) -> Result<Arc<ContainerView>> {
        let missing = || Error::not_found(format!("container {id:?}: not found"));
        let now = self.deps.index.snapshot();
        now.find_container(id)?.cloned().ok_or_else(missing)
    }
}

/// The contract names no options yet, and one that is not understood must not be passed over.
fn refuse_options<'a>(mut keys: impl Iterator<Item = &'a String>) -> Result<()> {
    match keys.next() {
        None => Ok(()),
        Some(key) => Err(Error::invalid(format!("options: {key:?} is not known"))),
    }
}
