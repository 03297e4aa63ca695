//! The world behind CRI's own interface, on a unix socket.

use std::path::Path;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::fake::World;
use crate::ops::Supervisor;
use crate::wire::cri;
use crate::wire::cri::image_service_server::{ImageService, ImageServiceServer};
use crate::wire::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};

/// Serves `world` on `socket` until the test ends.
pub(super) fn serve(world: &World, socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(RuntimeServiceServer::new(world.clone()))
        .add_service(ImageServiceServer::new(world.clone()))
        .serve_with_incoming(UnixListenerStream::new(listener));
    Supervisor::new().watch("fake runtime", async move {
        server.await.unwrap();
    });
}

type Stream<T> = futures::stream::Empty<Result<T, Status>>;

fn answer<T>(outcome: Result<T, Status>) -> Result<Response<T>, Status> {
    outcome.map(Response::new)
}

/// Implements a service: the calls written out, the others refused.
macro_rules! service {
    (
        $service:ident;
        answered { $($call:ident($world:ident, $request:ident: $asked:ident) -> $reply:ident $body:block)* }
        refused { $($other:ident($other_asked:ident) -> $other_reply:ident;)* }
        streams { $($stream:ident($stream_asked:ident) -> $kind:ident: $item:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for World {
            $(async fn $call(&self, request: Request<cri::$asked>) -> Result<Response<cri::$reply>, Status> {
                let ($world, $request) = (self, request.into_inner());
                answer($body)
            })*
            $(async fn $other(&self, _: Request<cri::$other_asked>) -> Result<Response<cri::$other_reply>, Status> {
                Err(Status::unimplemented(stringify!($other)))
            })*
            $(type $kind = Stream<cri::$item>;
            async fn $stream(&self, _: Request<cri::$stream_asked>) -> Result<Response<Self::$kind>, Status> {
                Err(Status::unimplemented(stringify!($stream)))
            })*
        }
    };
}

service! {
    RuntimeService;
    answered {
    run_pod_sandbox(world, request: RunPodSandboxRequest) -> RunPodSandboxResponse {
        world.run_sandbox(request.config.unwrap_or_default()).await
            .map(|pod_sandbox_id| cri::RunPodSandboxResponse { pod_sandbox_id })
    }
    stop_pod_sandbox(world, request: StopPodSandboxRequest) -> StopPodSandboxResponse {
        world.stop_sandbox(&request.pod_sandbox_id).map(|()| cri::StopPodSandboxResponse {})
    }
    remove_pod_sandbox(world, request: RemovePodSandboxRequest) -> RemovePodSandboxResponse {
        world.remove_sandbox(&request.pod_sandbox_id).map(|()| cri::RemovePodSandboxResponse {})
    }
    pod_sandbox_status(_world, request: PodSandboxStatusRequest) -> PodSandboxStatusResponse {
        let network = cri::PodSandboxNetworkStatus { ip: "127.0.0.1".into(), ..Default::default() };
        let status = cri::PodSandboxStatus {
            id: request.pod_sandbox_id,
            network: Some(network),
            ..Default::default()
        };
        Ok(cri::PodSandboxStatusResponse { status: Some(status), ..Default::default() })
    }
    list_pod_sandbox(world, _request: ListPodSandboxRequest) -> ListPodSandboxResponse {
        Ok(cri::ListPodSandboxResponse { items: world.list_sandboxes() })
    }
    create_container(world, request: CreateContainerRequest) -> CreateContainerResponse {
        world.create(request).map(|container_id| cri::CreateContainerResponse { container_id })
    }
    start_container(world, request: StartContainerRequest) -> StartContainerResponse {
        world.start(&request.container_id).map(|()| cri::StartContainerResponse {})
    }
    stop_container(world, request: StopContainerRequest) -> StopContainerResponse {
        world.stop(&request.container_id, request.timeout).map(|()| cri::StopContainerResponse {})
    }
    remove_container(world, request: RemoveContainerRequest) -> RemoveContainerResponse {
        world.remove(&request.container_id).map(|()| cri::RemoveContainerResponse {})
    }
    list_containers(world, _request: ListContainersRequest) -> ListContainersResponse {
        let listed = |(pod_sandbox_id, status): (String, cri::ContainerStatus)| cri::Container {
            id: status.id,
            pod_sandbox_id,
            metadata: status.metadata,
            state: status.state,
            labels: status.labels,
            annotations: status.annotations,
            ..Default::default()
        };
        Ok(cri::ListContainersResponse {
            containers: world.statuses().into_iter().map(listed).collect(),
        })
    }
    container_status(world, request: ContainerStatusRequest) -> ContainerStatusResponse {
        let found = world.statuses().into_iter().find(|(_, status)| status.id == request.container_id);
        match found {
            Some((_, status)) => Ok(cri::ContainerStatusResponse { status: Some(status), ..Default::default() }),
            None => Err(Status::not_found("no such container")),
        }
    }
    exec_sync(world, request: ExecSyncRequest) -> ExecSyncResponse {
        let output = b"said so".to_vec();
        world.exec(&request.container_id, &request.cmd)
            .map(|exit_code| cri::ExecSyncResponse { stdout: output, stderr: Vec::new(), exit_code })
    }
    }
    refused {
        version(VersionRequest) -> VersionResponse;
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        status(StatusRequest) -> StatusResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    }
    streams {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesStream: StreamPodSandboxesResponse;
        stream_containers(StreamContainersRequest) -> StreamContainersStream: StreamContainersResponse;
        stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsStream: StreamContainerStatsResponse;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest)
            -> StreamPodSandboxStatsStream: StreamPodSandboxStatsResponse;
        get_container_events(GetEventsRequest) -> GetContainerEventsStream: ContainerEventResponse;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest)
            -> StreamPodSandboxMetricsStream: StreamPodSandboxMetricsResponse;
    }
}

service! {
    ImageService;
    answered {
    image_status(world, request: ImageStatusRequest) -> ImageStatusResponse {
        let name = request.image.unwrap_or_default().image;
        let image = world.state().images.contains(&name).then(|| cri::Image {
            id: format!("id-of-{name}"),
            ..Default::default()
        });
        Ok(cri::ImageStatusResponse { image, ..Default::default() })
    }
    pull_image(world, request: PullImageRequest) -> PullImageResponse {
        let name = request.image.unwrap_or_default().image;
        world.pull(&name).map(|()| cri::PullImageResponse { image_ref: name })
    }
    }
    refused {
        list_images(ListImagesRequest) -> ListImagesResponse;
        remove_image(RemoveImageRequest) -> RemoveImageResponse;
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    }
    streams {
        stream_images(StreamImagesRequest) -> StreamImagesStream: StreamImagesResponse;
    }
}
