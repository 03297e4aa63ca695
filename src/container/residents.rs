//! What a sandbox's stop and removal ask of its containers.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};

use crate::index::ContainerView;
use crate::model::{Result, SandboxId};
use crate::sandbox::Residents;

use super::Containers;

impl Containers {
    fn residents_of(&self, sandbox: &SandboxId) -> Vec<Arc<ContainerView>> {
        let now = self.deps.index.snapshot();
        now.pod(sandbox)
            .map(|pod| pod.containers.values().cloned().collect())
            .unwrap_or_default()
    }
}

impl Residents for Containers {
    fn stop_all<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let stops = self
                .residents_of(sandbox)
                .into_iter()
                .map(|view| async move {
                    match self.site(&view.id) {
                        Some(site) => self.stop_by(view, site, Duration::ZERO).await,
                        None => Ok(()),
                    }
                });
            join_all(stops).await.into_iter().collect()
        })
    }

    fn remove_all<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let removals = self
                .residents_of(sandbox)
                .into_iter()
                .map(|view| async move { self.remove(view.id.as_str()).await });
            join_all(removals).await.into_iter().collect()
        })
    }
}
