//! GetContainerEvents: what is published of pods, to each client at its own pace.

use futures::stream;
use tonic::Status;

use super::serve::Replies;
use super::{Service, views};
use crate::index::{Change, Happened, Subscription};
use crate::model::Result;
use crate::wire::cri;

impl Service {
    /// What happens from now on. The stream has no end of its own: it breaks when the client falls behind too far, and
    /// when podwright stops, once the last operations have ended.
    ///
    /// # Errors
    /// `ResourceExhausted` where too many clients follow the events.
    pub(super) fn container_events(&self) -> Result<Replies<cri::ContainerEventResponse>> {
        let subscription = self.deps.index.subscribe()?;
        let stop = self.deps.supervisor.stopping().clone();
        let events = stream::unfold(Some(subscription), move |subscription| {
            let stop = stop.clone();
            async move {
                let mut subscription = subscription?;
                let next = stop.run_until_cancelled(subscription.next()).await;
                Some(reply(next, subscription))
            }
        });
        Ok(Box::pin(events))
    }
}

/// One message, and the subscription where another may follow.
fn reply(
    next: Option<Option<std::sync::Arc<Change>>>,
    subscription: Subscription,
) -> (
    Result<cri::ContainerEventResponse, Status>,
    Option<Subscription>,
) {
    let end = match next {
        Some(Some(change)) => return (Ok(event(&change)), Some(subscription)),
        Some(None) => {
            tracing::warn!("a client that follows the events fell behind and is let go");
            Status::resource_exhausted(
                "events came faster than they were read, and some are lost; list everything and subscribe again",
            )
        }
        None => Status::unavailable("podwright is stopping"),
    };
    (Err(end), None)
}

fn event(change: &Change) -> cri::ContainerEventResponse {
    use cri::ContainerEventType as Type;
    let kind = match change.happened {
        Happened::Created => Type::ContainerCreatedEvent,
        Happened::Started => Type::ContainerStartedEvent,
        Happened::Stopped => Type::ContainerStoppedEvent,
        Happened::Deleted => Type::ContainerDeletedEvent,
    };
    cri::ContainerEventResponse {
        container_id: change.id.clone(),
        container_event_type: kind.into(),
        created_at: change.at.0,
        pod_sandbox_status: Some(views::sandbox_status(&change.pod.sandbox)),
        containers_statuses: views::container_statuses(&change.pod),
    }
}
