//! What containers and pods use, beside what the kernel's own files say.

mod containerd;
mod containers;
mod files;
mod metrics;
mod pods;
mod quotas;

use std::time::Duration;

use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::node::Node;
use files::nanoseconds;

pub(super) const CASES: &[Case] = &[
    Case::new("stats.agree_with_the_kernels_files", |node| {
        Box::pin(containers::agree(node))
    }),
    Case::new("stats.agree_with_what_containerd_measures", |node| {
        Box::pin(containerd::agree(node))
    }),
    Case::new("stats.show_who_was_asked_for", |node| {
        Box::pin(containers::filters(node))
    }),
    Case::new("stats.tell_of_a_container_what_its_state_has", |node| {
        Box::pin(containers::states(node))
    }),
    Case::new("stats.tell_what_a_pod_uses", |node| {
        Box::pin(pods::usage(node))
    }),
    Case::new("stats.tell_of_pods_that_are_ready", |node| {
        Box::pin(pods::listed(node))
    }),
    Case::new("stats.survive_whoever_goes_meanwhile", |node| {
        Box::pin(pods::vanishing(node))
    }),
    Case::new("stats.metrics_would_not_harm_a_kubelet", |node| {
        Box::pin(metrics::scrape(node))
    }),
    Case::new("stats.metrics_are_of_those_who_run", |node| {
        Box::pin(metrics::scope(node))
    }),
    Case::new("stats.layers_on_ext4_are_told_of_as_it_counts", |node| {
        Box::pin(quotas::exact(node, &quotas::EXT4))
    })
    .unless(|| quotas::EXT4.obstacle())
    .within(240),
    Case::new("stats.layers_on_xfs_are_told_of_as_it_counts", |node| {
        Box::pin(quotas::exact(node, &quotas::XFS))
    })
    .unless(|| quotas::XFS.obstacle())
    .within(240),
];

/// Longer than one answer is kept for the next caller.
const STALE: Duration = Duration::from_millis(1_100);

impl Node {
    async fn container_stats(&self, id: &str) -> Result<cri::ContainerStats, tonic::Status> {
        let request = cri::ContainerStatsRequest {
            container_id: id.to_owned(),
        };
        let reply = self.cri.runtime.clone().container_stats(request).await?;
        Ok(reply.into_inner().stats.unwrap_or_default())
    }

    /// What somebody else measures, when, and what we read of the container after that.
    async fn fresh_stats<T>(
        &self,
        id: &str,
        measure: impl Fn() -> Outcome<T>,
    ) -> Outcome<(T, i64, cri::ContainerStats)> {
        loop {
            tokio::time::sleep(STALE).await;
            let (before, asked) = (measure()?, nanoseconds());
            let told = self.container_stats(id).await?;
            // A reading of the background may be a moment older than the question.
            if told.cpu.as_ref().is_some_and(|cpu| cpu.timestamp >= asked) {
                return Ok((before, asked, told));
            }
        }
    }

    async fn list_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, tonic::Status> {
        let request = cri::ListContainerStatsRequest { filter };
        let mut client = self.cri.runtime.clone();
        Ok(client
            .list_container_stats(request)
            .await?
            .into_inner()
            .stats)
    }

    async fn pod_stats(&self, id: &str) -> Result<cri::PodSandboxStats, tonic::Status> {
        let request = cri::PodSandboxStatsRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let reply = self.cri.runtime.clone().pod_sandbox_stats(request).await?;
        Ok(reply.into_inner().stats.unwrap_or_default())
    }

    async fn list_pod_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<cri::PodSandboxStats>, tonic::Status> {
        let request = cri::ListPodSandboxStatsRequest { filter };
        let mut client = self.cri.runtime.clone();
        Ok(client
            .list_pod_sandbox_stats(request)
            .await?
            .into_inner()
            .stats)
    }
}
