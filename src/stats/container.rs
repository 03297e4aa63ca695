//! What is told of containers.

use std::path::PathBuf;
use std::sync::Arc;

use crate::index::{ContainerFilter, ContainerView};
use crate::model::{Error, Result, Timestamp};

use super::Stats;
use super::collect::{FRESH, Subject};
use super::group::Usage;

/// What one container uses.
#[derive(Clone, Debug)]
pub struct ContainerUsage {
    /// Whose usage it is.
    pub view: Arc<ContainerView>,
    /// What its processes use; nothing while it has none.
    pub usage: Usage,
    /// What its writable layer takes; `None` until that was measured.
    pub layer: Option<LayerUsage>,
}

/// What a writable layer takes on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// When it was measured.
    pub at: Timestamp,
    /// A directory on the file system that holds it.
    pub mountpoint: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Stats {
    /// What the container that `text`, a whole id or a unique prefix, means uses.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for an empty text or one that means several.
    pub async fn container(&self, text: &str) -> Result<ContainerUsage> {
        let found = self.deps.index.snapshot().find_container(text)?.cloned();
        let view = found
            .filter(|view| !view.parked)
            .ok_or_else(|| Error::not_found(format!("container {text:?}: not found")))?;
        self.freshen(running([&view])).await;
        self.count_layers([&view], FRESH).await;
        Ok(self.told_of(view))
    }

    /// What the containers that `filter` lets through use. One that ends meanwhile is told of as ended.
    pub async fn containers(&self, filter: &ContainerFilter) -> Vec<ContainerUsage> {
        let found = self.deps.index.snapshot().list_containers(filter);
        self.freshen(running(&found)).await;
        self.count_layers(&found, FRESH).await;
        found.into_iter().map(|view| self.told_of(view)).collect()
    }

    pub(super) fn told_of(&self, view: Arc<ContainerView>) -> ContainerUsage {
        let reading = view
            .is_running()
            .then(|| self.readings.of(view.id.as_str()));
        ContainerUsage {
            usage: reading
                .flatten()
                .map(|reading| reading.usage)
                .unwrap_or_default(),
            layer: self.layer_of(&view),
            view,
        }
    }
}

/// Those of `views` that have processes.
pub(super) fn running<'a>(views: impl IntoIterator<Item = &'a Arc<ContainerView>>) -> Vec<Subject> {
    let running = views.into_iter().filter(|view| view.is_running());
    running.cloned().map(Subject::Container).collect()
}
