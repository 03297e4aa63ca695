//! The lifecycle of images: pull, unpack, list, remove, usage, import.
//!
//! containerd's image records are the truth; [`Images`] keeps them in memory as immutable views, so that List and
//! Status make no call. A pull asks the registry every time, brings what is missing straight into the content store
//! under a lease, unpacks while it downloads, and only then writes the records: until then no image is there.

mod apply;
mod archive;
mod artifact;
mod catalog;
mod checkpoint;
mod config_blob;
mod counted;
mod du;
mod export;
mod facts;
mod fetch;
mod import;
mod joined;
mod labels;
mod layout;
mod lazy;
mod lease;
mod load;
mod local;
mod locks;
mod pattern;
mod progress;
mod prune;
mod pull;
mod remove;
mod store;
#[cfg(test)]
mod tests;
mod throttle;
mod unpack;
mod usage;
mod verify;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::RwLock;

#[cfg(any(test, fuzzing))]
pub(crate) use apply::fuzz;
pub use archive::{Archive, Span, plain_blocking};
pub use config_blob::{ImageConfig, ImageUser};
pub use du::{DiskUsage, ImageUsage};
pub use facts::Layer;
pub use import::{ImportRequest, Imported};
pub use progress::{LayerReport, LayerState, PullEnd, PullReport, PullTally};
pub use prune::{Amount, Interrupted, PruneRequest, Pruned, interrupted};
pub use pull::{PullRequest, Step};
pub use usage::{FsUsage, SnapshotUsage, snapshotter_roots};
pub use verify::broken_verifiers_blocking;
pub use view::ImageView;

use catalog::Catalog;
use joined::Joined;
use lease::LeaseBook;
use locks::Locks;
use progress::PullBook;
use prune::Uses;
use pull::PullKey;
use throttle::Throttle;
use usage::Usages;

use crate::config;
use crate::containerd::Containerd;
use crate::index::Index;
use crate::model::{Clock, Digest, Error, Result};
use crate::ops::{LiveTable, Supervisor};
use crate::registry::platform::PlatformVector;
use crate::registry::{HostReport, Registry};

/// What images are made with.
pub struct ImageParts {
    /// The seam.
    pub containerd: Containerd,
    /// The way to registries.
    pub registry: Registry,
    /// Starts tasks.
    pub supervisor: Supervisor,
    /// Shows what runs.
    pub live: LiveTable,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The configuration as it is now.
    pub config: config::Shared,
    /// What is published of containers, whose writable layers are measured.
    pub index: Arc<Index>,
}

/// All images of the node. Cloning gives another handle.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    containerd: Containerd,
    registry: Registry,
    supervisor: Supervisor,
    live: LiveTable,
    clock: Arc<dyn Clock>,
    config: config::Shared,
    index: Arc<Index>,
    platforms: PlatformVector,
    catalog: Catalog,
    loaded: AtomicBool,
    /// Shared by whoever writes records and the catalog together; a load, which replaces the catalog by what it was
    /// told before, holds it alone.
    records: RwLock<()>,
    locks: Locks,
    leases: LeaseBook,
    pulls: Joined<PullKey, Digest>,
    book: PullBook,
    throttle: Throttle,
    usages: Usages,
    uses: Uses,
}

impl Images {
    /// No images yet; [`Images::load`] reads them.
    pub fn new(parts: ImageParts) -> Self {
        Self {
            inner: Arc::new(Inner {
                pulls: Joined::new(parts.supervisor.clone()),
                throttle: Throttle::new(parts.config.clone()),
                uses: Uses::since(parts.clock.now()),
                book: PullBook::new(Arc::clone(&parts.clock)),
                containerd: parts.containerd,
                registry: parts.registry,
                supervisor: parts.supervisor,
                live: parts.live,
                clock: parts.clock,
                config: parts.config,
                index: parts.index,
                platforms: PlatformVector::of_this_machine(),
                catalog: Catalog::default(),
                loaded: AtomicBool::new(false),
                records: RwLock::new(()),
                locks: Locks::default(),
                leases: LeaseBook::default(),
                usages: Usages::default(),
            }),
        }
    }

    /// Starts what images do in the background: measuring, giving back what interrupted pulls left, and trying registry
    /// hosts that are out of order.
    pub fn start(&self) {
        let images = self.clone();
        let measuring = move || images.clone().keep_measuring();
        self.inner.supervisor.keep("measure images", measuring);
        let images = self.clone();
        let tidying = move || images.clone().keep_tidy();
        self.inner.supervisor.keep("tidy up after pulls", tidying);
        let registry = self.inner.registry.clone();
        let probing = move || registry.clone().keep_probing();
        self.inner.supervisor.keep("probe registry hosts", probing);
    }

    /// Every registry host that was asked lately, and how it fares.
    pub fn mirrors(&self) -> Vec<HostReport> {
        self.inner.registry.hosts(self.inner.clock.now())
    }

    /// What all pulls since the start came to.
    pub fn pull_tally(&self) -> PullTally {
        self.inner.book.tally()
    }

    /// The image that `text` names: a digest is an id; else the exact reference, else a unique prefix of an id. Makes
    /// no call and never waits.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty text and an ambiguous prefix; `Unavailable` before the first load.
    pub fn resolve_local(&self, text: &str) -> Result<Option<Arc<ImageView>>> {
        self.ensure_loaded()?;
        self.inner.catalog.snapshot().find(text)
    }

    /// All images, ordered by id; with `filter`, the one that it names.
    ///
    /// # Errors
    /// `Unavailable` before the first load: an answer without images would make the kubelet forget credentials.
    pub fn list(&self, filter: Option<&str>) -> Result<Vec<Arc<ImageView>>> {
        self.ensure_loaded()?;
        match filter {
            None | Some("") => Ok(self.inner.catalog.snapshot().all().cloned().collect()),
            Some(text) => Ok(self.resolve_local(text)?.into_iter().collect()),
        }
    }

    fn ensure_loaded(&self) -> Result<()> {
        if self.inner.loaded.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::unavailable(
            "images: still being read from containerd; try again",
        ))
    }
}
