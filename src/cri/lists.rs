//! The bodies of the handlers that list pods and containers, whole or as streams.

use crate::wire::cri;

use super::serve::{Answer, Replies, Weight, batches, within_limit};
use super::{Service, views};

impl Service {
    pub(super) async fn answer_list_pod_sandbox(
        &self,
        request: cri::ListPodSandboxRequest,
    ) -> Answer<cri::ListPodSandboxResponse> {
        self.serve("ListPodSandbox", Weight::Read, async {
            let filter = views::sandbox_filter(request.filter)?;
            let found = self.deps.index.snapshot().list_sandboxes(&filter);
            let items = found.iter().map(|view| views::sandbox_item(view)).collect();
            within_limit(cri::ListPodSandboxResponse { items }, "StreamPodSandboxes")
        })
        .await
    }

    pub(super) async fn answer_stream_pod_sandboxes(
        &self,
        request: cri::StreamPodSandboxesRequest,
    ) -> Answer<Replies<cri::StreamPodSandboxesResponse>> {
        self.serve("StreamPodSandboxes", Weight::Read, async {
            let filter = views::sandbox_filter(request.filter)?;
            let found = self.deps.index.snapshot().list_sandboxes(&filter);
            let items: Vec<_> = found.iter().map(|view| views::sandbox_item(view)).collect();
            Ok(batches(items, |pod_sandboxes| {
                cri::StreamPodSandboxesResponse { pod_sandboxes }
            }))
        })
        .await
    }

    pub(super) async fn answer_list_containers(
        &self,
        request: cri::ListContainersRequest,
    ) -> Answer<cri::ListContainersResponse> {
        self.serve("ListContainers", Weight::Read, async {
            let filter = views::container_filter(request.filter)?;
            let found = self.deps.index.snapshot().list_containers(&filter);
            let items = found.iter().map(|view| views::container_item(view));
            let containers = items.collect();
            within_limit(
                cri::ListContainersResponse { containers },
                "StreamContainers",
            )
        })
        .await
    }

    pub(super) async fn answer_stream_containers(
        &self,
        request: cri::StreamContainersRequest,
    ) -> Answer<Replies<cri::StreamContainersResponse>> {
        self.serve("StreamContainers", Weight::Read, async {
            let filter = views::container_filter(request.filter)?;
            let found = self.deps.index.snapshot().list_containers(&filter);
            let items: Vec<_> = found
                .iter()
                .map(|view| views::container_item(view))
                .collect();
            Ok(batches(items, |containers| cri::StreamContainersResponse {
                containers,
            }))
        })
        .await
    }
}
