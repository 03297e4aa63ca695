//! RuntimeService: one thin handler a method.

use tonic::{Request, Response, Status};

use crate::container::ExecSyncRequest;
use crate::model::{Error, Resources, Result};
use crate::sandbox::record::PodSums;
use crate::wire::cri;
use crate::wire::cri::runtime_service_server::RuntimeService;

use super::serve::{Replies, Weight, note, span_identity};
use super::{Service, convert, deadline, views};

/// The only version of the protocol's own envelope (kubelet: `kubeRuntimeAPIVersion`).
const ENVELOPE_VERSION: &str = "0.1.0";
const RUNTIME_NAME: &str = "podwright";
const API_VERSION: &str = "v1";

#[tonic::async_trait]
impl RuntimeService for Service {
    type StreamPodSandboxesStream = Replies<cri::StreamPodSandboxesResponse>;
    type StreamContainersStream = Replies<cri::StreamContainersResponse>;
    type StreamContainerStatsStream = Replies<cri::StreamContainerStatsResponse>;
    type StreamPodSandboxStatsStream = Replies<cri::StreamPodSandboxStatsResponse>;
    type StreamPodSandboxMetricsStream = Replies<cri::StreamPodSandboxMetricsResponse>;
    type GetContainerEventsStream = Replies<cri::ContainerEventResponse>;

    async fn version(
        &self,
        _request: Request<cri::VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        self.serve("Version", Weight::Always, async {
            Ok(cri::VersionResponse {
                version: ENVELOPE_VERSION.to_owned(),
                runtime_name: RUNTIME_NAME.to_owned(),
                runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
                runtime_api_version: API_VERSION.to_owned(),
            })
        })
        .await
    }

    async fn status(
        &self,
        request: Request<cri::StatusRequest>,
    ) -> Result<Response<cri::StatusResponse>, Status> {
        self.serve("Status", Weight::Always, async {
            Ok(self.node_status(request.into_inner().verbose))
        })
        .await
    }

    async fn runtime_config(
        &self,
        _request: Request<cri::RuntimeConfigRequest>,
    ) -> Result<Response<cri::RuntimeConfigResponse>, Status> {
        self.serve("RuntimeConfig", Weight::Read, async {
            Ok(self.node_config())
        })
        .await
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<cri::UpdateRuntimeConfigResponse>, Status> {
        self.serve("UpdateRuntimeConfig", Weight::Write, async {
            let config = request
                .into_inner()
                .runtime_config
                .and_then(|config| config.network_config);
            self.identity
                .set_pod_cidr(&config.map(|network| network.pod_cidr).unwrap_or_default())?;
            Ok(cri::UpdateRuntimeConfigResponse {})
        })
        .await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        self.serve("RunPodSandbox", Weight::Make, async {
            let request = convert::run_request(request.into_inner())?;
            span_identity(&request.config.identity);
            let id = self.sandboxes.run(request).await?;
            note("sandbox.id", id.as_str());
            Ok(cri::RunPodSandboxResponse {
                pod_sandbox_id: id.to_string(),
            })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        self.serve("StopPodSandbox", Weight::Write, async {
            let id = request.into_inner().pod_sandbox_id;
            self.span_sandbox(&id);
            self.sandboxes.stop(&id).await?;
            Ok(cri::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        self.serve("RemovePodSandbox", Weight::Write, async {
            let id = request.into_inner().pod_sandbox_id;
            self.span_sandbox(&id);
            self.sandboxes.remove(&id).await?;
            Ok(cri::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        self.serve("PodSandboxStatus", Weight::Read, async {
            let request = request.into_inner();
            let missing =
                || Error::not_found(format!("sandbox {:?}: not found", request.pod_sandbox_id));
            let now = self.deps.index.snapshot();
            let pod = now
                .find_sandbox(&request.pod_sandbox_id)?
                .ok_or_else(missing)?;
            let handler = self.deps.handlers.get(&pod.sandbox.handler).ok();
            let whole = now.whole_pod(&pod.sandbox.config.identity);
            Ok(cri::PodSandboxStatusResponse {
                status: Some(views::sandbox_status(&pod.sandbox)),
                info: match request.verbose {
                    true => self.sandbox_info(&pod.sandbox, handler.as_deref())?,
                    false => Default::default(),
                },
                containers_statuses: whole
                    .as_ref()
                    .map_or_else(Vec::new, views::container_statuses),
                timestamp: now.at().0,
            })
        })
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        self.answer_list_pod_sandbox(request.into_inner()).await
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        self.answer_stream_pod_sandboxes(request.into_inner()).await
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        self.serve("CreateContainer", Weight::Make, async {
            let request = convert::create_request(request.into_inner())?;
            self.span_sandbox(&request.sandbox);
            let id = self.containers.create(request).await?;
            note("container.id", id.as_str());
            Ok(cri::CreateContainerResponse {
                container_id: id.to_string(),
            })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        self.serve("StartContainer", Weight::Make, async {
            let id = request.into_inner().container_id;
            self.span_container(&id);
            self.containers.start(&id).await?;
            Ok(cri::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        self.serve("StopContainer", Weight::Write, async {
            let request = request.into_inner();
            self.span_container(&request.container_id);
            self.containers
                .stop(&request.container_id, request.timeout)
                .await?;
            Ok(cri::StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        self.serve("RemoveContainer", Weight::Write, async {
            let id = request.into_inner().container_id;
            self.span_container(&id);
            self.containers.remove(&id).await?;
            Ok(cri::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        self.answer_list_containers(request.into_inner()).await
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        self.answer_stream_containers(request.into_inner()).await
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        self.serve("ContainerStatus", Weight::Read, async {
            let request = request.into_inner();
            let missing =
                || Error::not_found(format!("container {:?}: not found", request.container_id));
            let now = self.deps.index.snapshot();
            let view = now
                .find_container(&request.container_id)?
                .ok_or_else(missing)?;
            let handler = now
                .sandbox(&view.sandbox)
                .and_then(|pod| self.deps.handlers.get(&pod.handler).ok());
            Ok(cri::ContainerStatusResponse {
                status: Some(views::container_status(view)),
                info: match request.verbose {
                    true => {
                        let logged = self.containers.log_stats(&view.id);
                        views::info::container(view, handler.as_deref(), logged)?
                    }
                    false => Default::default(),
                },
            })
        })
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Result<Response<cri::UpdateContainerResourcesResponse>, Status> {
        self.serve("UpdateContainerResources", Weight::Write, async {
            let request = request.into_inner();
            self.span_container(&request.container_id);
            let asked = request.linux.map(Resources::try_from).transpose()?;
            self.containers
                .update_resources(&request.container_id, asked)
                .await?;
            Ok(cri::UpdateContainerResourcesResponse {})
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Result<Response<cri::ReopenContainerLogResponse>, Status> {
        self.serve("ReopenContainerLog", Weight::Write, async {
            let id = request.into_inner().container_id;
            self.span_container(&id);
            self.containers.reopen_log(&id).await?;
            Ok(cri::ReopenContainerLogResponse {})
        })
        .await
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        self.serve("ExecSync", Weight::Read, async {
            let request = request.into_inner();
            self.span_container(&request.container_id);
            let asked = ExecSyncRequest {
                command: request.cmd,
                timeout_s: request.timeout,
            };
            let answer = self
                .containers
                .exec_sync(&request.container_id, asked)
                .await?;
            Ok(cri::ExecSyncResponse {
                stdout: answer.stdout,
                stderr: answer.stderr,
                exit_code: answer.exit_code,
            })
        })
        .await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<cri::UpdatePodSandboxResourcesResponse>, Status> {
        self.serve("UpdatePodSandboxResources", Weight::Write, async {
            let request = request.into_inner();
            self.span_sandbox(&request.pod_sandbox_id);
            let sums = PodSums {
                resources: request.resources.map(Resources::try_from).transpose()?,
                overhead: request.overhead.map(Resources::try_from).transpose()?,
            };
            self.sandboxes
                .update_resources(&request.pod_sandbox_id, sums)
                .await?;
            Ok(cri::UpdatePodSandboxResourcesResponse {})
        })
        .await
    }

    async fn exec(
        &self,
        request: Request<cri::ExecRequest>,
    ) -> Result<Response<cri::ExecResponse>, Status> {
        self.serve("Exec", Weight::Read, async {
            let request = request.into_inner();
            self.span_container(&request.container_id);
            let url = self.exec_url(request)?;
            Ok(cri::ExecResponse { url })
        })
        .await
    }

    async fn attach(
        &self,
        request: Request<cri::AttachRequest>,
    ) -> Result<Response<cri::AttachResponse>, Status> {
        self.serve("Attach", Weight::Read, async {
            let request = request.into_inner();
            self.span_container(&request.container_id);
            let url = self.attach_url(&request)?;
            Ok(cri::AttachResponse { url })
        })
        .await
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Result<Response<cri::PortForwardResponse>, Status> {
        self.serve("PortForward", Weight::Read, async {
            let request = request.into_inner();
            self.span_sandbox(&request.pod_sandbox_id);
            let url = self.port_forward_url(&request)?;
            Ok(cri::PortForwardResponse { url })
        })
        .await
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Result<Response<cri::ContainerStatsResponse>, Status> {
        self.answer_container_stats(request.into_inner()).await
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Result<Response<cri::ListContainerStatsResponse>, Status> {
        self.answer_list_container_stats(request.into_inner()).await
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        self.answer_stream_container_stats(request.into_inner())
            .await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Result<Response<cri::PodSandboxStatsResponse>, Status> {
        self.answer_pod_sandbox_stats(request.into_inner()).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Result<Response<cri::ListPodSandboxStatsResponse>, Status> {
        self.answer_list_pod_sandbox_stats(request.into_inner())
            .await
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        self.answer_stream_pod_sandbox_stats(request.into_inner())
            .await
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Result<Response<cri::CheckpointContainerResponse>, Status> {
        self.answer_checkpoint_container(request.into_inner()).await
    }

    async fn checkpoint_pod(
        &self,
        request: Request<cri::CheckpointPodRequest>,
    ) -> Result<Response<cri::CheckpointPodResponse>, Status> {
        let timeout = request.metadata().get(deadline::HEADER);
        let timeout = timeout.and_then(|value| deadline::parse(value.to_str().ok()?));
        self.answer_checkpoint_pod(request.into_inner(), timeout)
            .await
    }

    async fn restore_pod(
        &self,
        request: Request<cri::RestorePodRequest>,
    ) -> Result<Response<cri::RestorePodResponse>, Status> {
        self.answer_restore_pod(request.into_inner()).await
    }

    async fn get_container_events(
        &self,
        _request: Request<cri::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        self.serve("GetContainerEvents", Weight::Read, async {
            self.container_events()
        })
        .await
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Result<Response<cri::ListMetricDescriptorsResponse>, Status> {
        self.answer_list_metric_descriptors().await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<cri::ListPodSandboxMetricsResponse>, Status> {
        self.answer_list_pod_sandbox_metrics().await
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        self.answer_stream_pod_sandbox_metrics().await
    }
}
