//! The calls, with what only the run knows filled in.

use podwright::wire::cri;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;

use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::generate::{CGROUP, Container, FILES, LOGS, NEIGHBOUR, Request};
use crate::node;

/// What a server made of a request: an id, or the refusal.
pub(crate) type Made = Result<String, Status>;

impl Endpoint {
    /// `message` with each stand-in replaced.
    fn filled<T: Serialize + DeserializeOwned>(&self, message: &T, neighbour: &str) -> Outcome<T> {
        let logs = self.logs();
        let text = [
            (LOGS, logs.as_str()),
            (CGROUP, &self.cgroup_parent),
            (FILES, node::FILES),
            (NEIGHBOUR, neighbour),
        ]
        .into_iter()
        .fold(serde_json::to_string(message)?, |text, (from, to)| {
            text.replace(from, to)
        });
        Ok(serde_json::from_str(&text)?)
    }

    /// The folder of this server's logs.
    pub(crate) fn logs(&self) -> String {
        self.home.join("logs").display().to_string()
    }

    pub(crate) async fn run_pod(&self, request: &Request) -> Outcome<Made> {
        let message = cri::RunPodSandboxRequest {
            config: Some(self.filled(&request.pod, "")?),
            runtime_handler: request.handler.clone(),
        };
        let reply = self.cri.runtime.clone().run_pod_sandbox(message).await;
        Ok(reply.map(|reply| reply.into_inner().pod_sandbox_id))
    }

    /// Creates `container` in `pod`, with the request's own pod configuration.
    pub(crate) async fn create(
        &self,
        request: &Request,
        container: &Container,
        pod: &str,
        neighbour: &str,
    ) -> Outcome<Made> {
        let message = cri::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(self.filled(&container.config, neighbour)?),
            sandbox_config: Some(self.filled(&request.pod, "")?),
        };
        let reply = self.cri.runtime.clone().create_container(message).await;
        Ok(reply.map(|reply| reply.into_inner().container_id))
    }

    pub(crate) async fn start(&self, id: &str) -> Result<(), Status> {
        let message = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.cri.runtime.clone().start_container(message).await?;
        Ok(())
    }

    pub(crate) async fn stop_container(&self, id: &str) -> Result<(), Status> {
        let message = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 0,
        };
        self.cri.runtime.clone().stop_container(message).await?;
        Ok(())
    }

    pub(crate) async fn update(
        &self,
        id: &str,
        resources: &cri::LinuxContainerResources,
    ) -> Result<(), Status> {
        let message = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources.clone()),
            ..Default::default()
        };
        self.cri
            .runtime
            .clone()
            .update_container_resources(message)
            .await?;
        Ok(())
    }

    /// Changes overhead and resources of a pod.
    pub(crate) async fn update_pod(
        &self,
        id: &str,
        (overhead, resources): &(cri::LinuxContainerResources, cri::LinuxContainerResources),
    ) -> Result<(), Status> {
        let message = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.to_owned(),
            overhead: Some(overhead.clone()),
            resources: Some(resources.clone()),
        };
        self.cri
            .runtime
            .clone()
            .update_pod_sandbox_resources(message)
            .await?;
        Ok(())
    }

    pub(crate) async fn reopen(&self, id: &str) -> Result<(), Status> {
        let message = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.cri
            .runtime
            .clone()
            .reopen_container_log(message)
            .await?;
        Ok(())
    }

    pub(crate) async fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let message = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.cri.runtime.clone().stop_pod_sandbox(message).await?;
        Ok(())
    }

    pub(crate) async fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let message = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.cri.runtime.clone().remove_pod_sandbox(message).await?;
        Ok(())
    }
}
