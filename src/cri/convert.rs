//! Filters and requests to what the rooms take.

use std::sync::Arc;

use crate::container::CreateRequest;
use crate::model::{ContainerConfig, Error, PodConfig, Result};
use crate::sandbox::RunRequest;
use crate::wire::{cri, record};

pub(super) fn run_request(request: cri::RunPodSandboxRequest) -> Result<RunRequest> {
    let config = request
        .config
        .ok_or_else(|| Error::invalid("config: missing"))?;
    let text = record::pod_record(&config)?;
    let config = PodConfig::try_from(config)?;
    Ok(RunRequest {
        config: Arc::new(config),
        record: text.into(),
        handler: request.runtime_handler,
        is_part: false,
    })
}

pub(super) fn create_request(request: cri::CreateContainerRequest) -> Result<CreateRequest> {
    let config = request
        .config
        .ok_or_else(|| Error::invalid("config: missing"))?;
    let pod = request
        .sandbox_config
        .ok_or_else(|| Error::invalid("sandbox_config: missing"))?;
    let text = record::container_record(&config)?;
    let (config, pod) = (
        ContainerConfig::try_from(config)?,
        PodConfig::try_from(pod)?,
    );
    Ok(CreateRequest {
        sandbox: request.pod_sandbox_id,
        config: Arc::new(config),
        record: text.into(),
        pod: Arc::new(pod),
        archive: None,
    })
}
