//! The real client: the seam's traits over containerd's gRPC services, one file a service.

mod channel;
mod checkpoint;
mod containers;
mod content;
mod convert;
mod diff;
mod error;
mod events;
mod images;
mod introspection;
mod leases;
mod limits;
#[cfg(test)]
pub(crate) mod live;
mod metrics;
mod snapshots;
mod tasks;
mod traced;
mod versions;

use std::sync::Arc;

pub use channel::ChannelSettings;

use super::{Containerd, Introspection, Link, LinkReporter, Prober};
use crate::model::Result;
use channel::Wire;

/// A client of one containerd.
pub struct Client {
    /// Its services.
    pub containerd: Containerd,
    /// Whether it answers. While it is known not to, every call fails at once with `Unavailable`.
    pub link: Link,
    /// What keeps [`Self::link`] true: the caller runs it in a task of its own. A short-lived client may drop it;
    /// then each call finds out by itself.
    pub prober: Prober,
}

/// A client of the containerd that listens at `settings.address`, running or not: the first call connects, and after
/// a broken connection the next one does. Needs a running tokio runtime.
///
/// # Errors
/// `InvalidArgument` for a namespace that cannot be sent.
pub fn connect(settings: &ChannelSettings) -> Result<Client> {
    let (report, link) = LinkReporter::new();
    let wire = Arc::new(Wire::new(settings, link.clone())?);
    let introspection: Arc<dyn Introspection> =
        Arc::new(introspection::RemoteIntrospection(Arc::clone(&wire)));
    let containerd = Containerd {
        containers: Arc::new(containers::RemoteContainers(Arc::clone(&wire))),
        tasks: Arc::new(tasks::RemoteTasks(Arc::clone(&wire))),
        snapshots: Arc::new(snapshots::RemoteSnapshots(Arc::clone(&wire))),
        content: Arc::new(content::RemoteContent(Arc::clone(&wire))),
        diff: Arc::new(diff::RemoteDiff(Arc::clone(&wire))),
        images: Arc::new(images::RemoteImages(Arc::clone(&wire))),
        leases: Arc::new(leases::RemoteLeases(Arc::clone(&wire))),
        events: Arc::new(events::RemoteEvents(wire)),
        introspection: Arc::clone(&introspection),
    };
    Ok(Client {
        containerd,
        link,
        prober: Prober::new(introspection, report),
    })
}
