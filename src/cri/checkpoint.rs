//! CheckpointContainer.

use std::time::Duration;

use crate::container::CheckpointRequest;
use crate::model::Error;
use crate::wire::{cri, gojson};

use super::serve::{Answer, Weight};
use super::{Service, views};

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
            let missing = || Error::not_found(format!("container {container_id:?}: not found"));
            let now = self.deps.index.snapshot();
            let view = now.find_container(&container_id)?.ok_or_else(missing)?;
            let seconds = u64::try_from(timeout).map_err(|_negative| {
                Error::invalid(format!("timeout {timeout}: want 0 or more"))
            })?;
            let request = CheckpointRequest {
                container: view.id.to_string(),
                location,
                timeout: (seconds > 0).then(|| Duration::from_secs(seconds)),
                status: gojson::encode(&views::container_status(view))?,
            };
            self.containers.checkpoint(request).await?;
            Ok(cri::CheckpointContainerResponse {})
        })
        .await
    }
}
