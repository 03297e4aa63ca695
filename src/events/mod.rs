//! containerd's events to facts of ours.
//!
//! An event is a hint, never a fact: it makes a vigil ask the task. Events before a connection, and those that a shim
//! dropped, are made up for by the vigils' own periodic look and by one look of all after each reconnect.

use std::sync::Arc;

use futures::StreamExt as _;

use crate::container::Containers;
use crate::containerd::{Event, Events};
use crate::model::Result;
use crate::sandbox::Sandboxes;

/// Whoever follows changes of image records, other clients' among them.
pub trait ImageNews: Send + Sync {
    /// The record `name` was made, re-pointed or deleted.
    fn changed(&self, name: &str);
    /// Changes may have been missed: look at everything.
    fn missed(&self);
}

/// Takes containerd's events in.
#[derive(Clone)]
pub struct Intake {
    /// Where they come from.
    pub events: Arc<dyn Events>,
    /// Whose pause processes end.
    pub sandboxes: Sandboxes,
    /// Whose processes end.
    pub containers: Containers,
    /// Who follows image records.
    pub images: Arc<dyn ImageNews>,
}

impl Intake {
    /// Follows one subscription to its end. To be kept running by a supervisor.
    pub async fn follow(self) {
        if let Err(error) = self.subscription().await {
            tracing::warn!(%error, "containerd's events ended; they are asked for again");
        }
    }

    async fn subscription(&self) -> Result<()> {
        let mut events = self.events.subscribe().await?;
        self.sandboxes.nudge_all();
        self.containers.nudge_all();
        self.images.missed();
        while let Some(event) = events.next().await {
            self.take(event?);
        }
        Ok(())
    }

    fn take(&self, event: Event) {
        match event {
            // The exits of execs carry the container's id, too: only the init process ends a container.
            Event::TaskExit {
                container,
                exec: None,
                ..
            } => {
                self.containers.nudge(&container);
                self.sandboxes.nudge(&container);
            }
            Event::TaskExit { .. } => {}
            Event::TaskOom { container } => self.containers.note_out_of_memory(&container),
            Event::ImageChanged { name, .. } => self.images.changed(&name),
        }
    }
}
