//! The lifecycle of pod sandboxes: one file a verb.
//!
//! `run` makes one, step by step as `steps` records them; `stop` ends its containers, the pause process and the network;
//! `remove` frees the rest; `vigil` learns when the pause process ends. What is shown of a sandbox stands in `index`,
//! identity and configuration in containerd's record (`record`), the steps to take back on tmpfs.

mod adopt;
pub mod deps;
mod dial;
mod files;
pub(crate) mod group;
mod handover;
mod labels;
mod levels;
mod pause_image;
mod pause_root;
mod plugins;
pub mod record;
mod remove;
mod run;
pub(crate) mod snapshots;
pub mod steps;
mod stop;
mod update;
mod userns;
mod vigil;

pub use adopt::Adopted;
pub use deps::{Deps, Handlers, RuntimeHandler};
pub use files::{sandbox_files, seccomp_text};
pub use pause_image::{LocalPauseImage, PauseImages};
pub use plugins::pod_facts;
pub use run::RunRequest;
pub use vigil::{Ended, Vigil};

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use crate::index::SandboxView;
use crate::model::{PodIdentity, Result, SandboxId};
use crate::ops::{Flights, StuckSteps};
use crate::store::{Durability, Records};
use crate::sys::process::PidFd;

use levels::Levels;
use steps::{AttachmentRecord, StepRecord};

/// The containers that live in a sandbox, as far as its stop and removal go. `container` implements it.
pub trait Residents: Send + Sync {
    /// Stops all containers of the sandbox at once, also parked ones; answers when all have ended.
    fn stop_all<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<()>>;
    /// Removes all containers of the sandbox.
    fn remove_all<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<()>>;
}

/// The name tuple under which creations join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodKey(pub PodIdentity);

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PodIdentity {
            name,
            k8s_namespace,
            uid,
            attempt,
        } = &self.0;
        write!(
            f,
            "pod {k8s_namespace}/{name} (uid {uid}, attempt {attempt})"
        )
    }
}

/// What exists of a listed sandbox besides its view.
#[derive(Debug, Default)]
pub struct Site {
    /// Shared by container verbs while they change something, exclusive for the teardown. Taken before any container's
    /// own lock.
    pub lock: RwLock<()>,
    /// Cancelled when a stop was asked for: creations in flight give up.
    pub stopping: CancellationToken,
    /// Held while containerd's record is read, changed and written.
    record: tokio::sync::Mutex<()>,
    /// Tells the vigil to look at the pause task now.
    nudge: Arc<tokio::sync::Notify>,
    /// Plugins heard that it was stopped, or had no reason to.
    told_stop: AtomicBool,
}

/// All sandboxes. Cloning gives another handle.
#[derive(Clone)]
pub struct Sandboxes {
    deps: Arc<Deps>,
    flights: Flights<PodKey, SandboxId>,
    sites: Arc<Mutex<HashMap<SandboxId, Arc<Site>>>>,
    records: Arc<Records<StepRecord>>,
    attachments: Arc<Records<AttachmentRecord>>,
    residents: Arc<OnceLock<Arc<dyn Residents>>>,
    images: Arc<OnceLock<Arc<dyn PauseImages>>>,
    leftovers: Arc<Mutex<BTreeSet<SandboxId>>>,
    stuck: StuckSteps,
    levels: Arc<Levels>,
}

impl Sandboxes {
    /// No sandboxes yet; recovery adopts what exists.
    ///
    /// # Errors
    /// `Internal` where the record directories cannot be made.
    pub fn new_blocking(deps: Arc<Deps>) -> Result<Self> {
        let settings = deps.settings();
        let steps = settings.server.state_dir.join("steps").join("sandboxes");
        let attachments = settings.server.root_dir.join("attachments");
        Ok(Self {
            deps,
            flights: Flights::default(),
            sites: Arc::default(),
            records: Arc::new(Records::open_blocking(steps, Durability::Volatile)?),
            attachments: Arc::new(Records::open_blocking(attachments, Durability::Synced)?),
            residents: Arc::default(),
            images: Arc::default(),
            leftovers: Arc::default(),
            stuck: StuckSteps::default(),
            levels: Arc::default(),
        })
    }

    /// Says who the containers are; once, before the first request.
    pub fn settle(&self, residents: Arc<dyn Residents>) {
        if self.residents.set(residents).is_err() {
            tracing::error!("the residents of the sandboxes were set twice");
        }
    }

    /// Says where pause images are to be had; once, before the first request.
    pub fn have_images(&self, images: Arc<dyn PauseImages>) {
        if self.images.set(images).is_err() {
            tracing::error!("the images of the sandboxes were set twice");
        }
    }

    /// What the lifecycles work with.
    pub fn deps(&self) -> &Arc<Deps> {
        &self.deps
    }

    /// The sandbox that was made under `key` and not removed since.
    pub fn made(&self, key: &PodKey) -> Option<SandboxId> {
        self.flights.landing(key).map(|landing| landing.value)
    }

    /// The steps recorded on tmpfs.
    pub fn step_records(&self) -> &Records<StepRecord> {
        &self.records
    }

    /// The network attachments that DEL has not ended yet.
    pub fn attachment_records(&self) -> &Records<AttachmentRecord> {
        &self.attachments
    }

    /// Sandboxes that are not listed and of which something would not go.
    pub fn leftovers(&self) -> Vec<SandboxId> {
        self.leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// Whether `id` is listed, being made, or recorded as not wholly gone.
    ///
    /// # Errors
    /// `Internal` where its step record is there and cannot be read.
    pub async fn is_known(&self, id: &SandboxId) -> Result<bool> {
        Ok(self.site(id).is_some() || self.records.get(id.as_str()).await?.is_some())
    }

    /// The steps of sandboxes that would not go and are tried again, listed or not.
    pub fn stuck_steps(&self) -> &StuckSteps {
        &self.stuck
    }

    /// Remembers whether something of an unlisted sandbox is left.
    fn note_left(&self, id: &SandboxId, left: bool) {
        let mut leftovers = self
            .leftovers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if left {
            leftovers.insert(id.clone());
        } else {
            leftovers.remove(id);
        }
    }

    /// The site of a listed sandbox.
    pub fn site(&self, id: &SandboxId) -> Option<Arc<Site>> {
        self.sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// Makes the vigil of `id`'s pause task look now, because containerd told of an exit.
    pub fn nudge(&self, id: &str) {
        let sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.get(id) {
            site.nudge.notify_one();
        }
    }

    /// Makes every vigil look now: the connection to containerd is new, events were missed.
    pub fn nudge_all(&self) {
        for site in self
            .sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            site.nudge.notify_one();
        }
    }

    /// Publishes a sandbox and starts to watch its pause process.
    fn list(&self, view: SandboxView, pidfd: Option<PidFd>) {
        let (id, pid) = (view.id.clone(), view.pause_pid);
        let site = Arc::new(Site::default());
        self.sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), Arc::clone(&site));
        self.deps.index.insert_sandbox(view);
        if let Some(pid) = pid {
            self.watch_pause(id, pid, pidfd, &site);
        }
    }

    fn forget(&self, id: &SandboxId) {
        self.release_level(id.as_str());
        self.sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}
