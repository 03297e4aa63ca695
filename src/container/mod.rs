//! The lifecycle of workload containers: one file a verb.
//!
//! `create` prepares a snapshot and containerd's record; `start` attaches the log pump before the task exists; `exit`
//! learns the end, writes it down and only then shows it; `stop` is one shared session however often it is asked for;
//! `remove` frees everything. What is shown of a container stands in `index`.

mod adopt;
mod attach;
mod checkpoint;
mod confine;
mod create;
mod diagnosis;
mod exec;
mod exec_sync;
mod exit;
mod image_volumes;
mod images;
mod injected;
mod inputs;
mod io;
mod labels;
mod leases;
mod log;
mod lost;
mod oom;
mod plugins;
mod projects;
pub mod record;
mod remove;
mod residents;
mod restore;
pub mod snapshots;
mod start;
pub mod steps;
mod stop;
mod update;
mod userns;
mod volumes;

pub use adopt::AdoptedContainer;
pub use attach::{Attachment, ExecProcess, Input, Process};
pub use checkpoint::{CheckpointRequest, Criu, PodCheckpointRequest};
pub use create::CreateRequest;
pub use exec::ExecOrder;
pub use exec_sync::{ExecAnswer, ExecSyncRequest};
pub use images::{LocalImage, LocalImages};
pub use restore::{RestorePodRequest, RestoredPod};

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::Notify;

use crate::index::ContainerView;
use crate::logs::{CaptureBudget, LogPump, PumpStats, Pumps};
use crate::model::{ContainerId, ContainerIdentity, Error, Result, SandboxId};
use crate::ops::{Flights, StuckSteps};
use crate::sandbox::{Deps, PodKey, Sandboxes};
use crate::store::{Durability, Records};

use oom::{Parents, Witness};
use projects::Projects;
use start::StartKey;
use steps::StepRecord;
use stop::StopSession;

/// Output of ExecSync calls held at once on the node; more is read and thrown away.
const EXEC_OUTPUT_BYTES: usize = 256 << 20;

/// The name tuple under which creations join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerKey {
    /// The pod's sandbox.
    pub sandbox: SandboxId,
    /// Name and attempt within it.
    pub identity: ContainerIdentity,
}

impl fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContainerIdentity { name, attempt } = &self.identity;
        write!(
            f,
            "container {name} (attempt {attempt}) of sandbox {}",
            self.sandbox.short()
        )
    }
}

/// What exists of a listed container besides its view.
#[derive(Default)]
pub struct Site {
    /// Held over transitions: start, update, remove. Never over a wait.
    lock: tokio::sync::Mutex<()>,
    /// The shared stop, where one was asked for.
    stop: StopSession,
    /// Held while it is written down.
    checkpoint: tokio::sync::Mutex<()>,
    /// The pump of its output, while its task exists.
    pump: Mutex<Option<Arc<LogPump>>>,
    /// What its pump had counted when it ended.
    logged: OnceLock<PumpStats>,
    /// Tells the vigil to look at the task now.
    nudge: Arc<Notify>,
    /// Execs that run now.
    execs: Arc<AtomicUsize>,
    /// We sent it SIGKILL.
    killed: AtomicBool,
    /// Who can tell of an out-of-memory kill in it, from its start on.
    witness: OnceLock<Arc<Witness>>,
    /// Plugins heard of its end, or had no reason to.
    told_end: tokio::sync::OnceCell<()>,
    /// Plugins heard of its removal.
    told_removal: AtomicBool,
}

impl Site {
    fn was_killed_by_us(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    fn pump(&self) -> Option<Arc<LogPump>> {
        self.pump
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_pump(&self, pump: Option<Arc<LogPump>>) -> Option<Arc<LogPump>> {
        std::mem::replace(
            &mut self.pump.lock().unwrap_or_else(PoisonError::into_inner),
            pump,
        )
    }
}

/// All containers. Cloning gives another handle.
#[derive(Clone)]
pub struct Containers {
    deps: Arc<Deps>,
    sandboxes: Sandboxes,
    images: Arc<dyn LocalImages>,
    pumps: Arc<Pumps>,
    flights: Flights<ContainerKey, ContainerId>,
    starts: Flights<StartKey, ContainerId>,
    restores: Flights<PodKey, SandboxId>,
    sites: Arc<Mutex<HashMap<ContainerId, Arc<Site>>>>,
    records: Arc<Records<StepRecord>>,
    execs: Arc<AtomicUsize>,
    parents: Arc<Parents>,
    output_budget: Arc<CaptureBudget>,
    leftovers: Arc<Mutex<BTreeSet<ContainerId>>>,
    stuck: StuckSteps,
    projects: Arc<Projects>,
}

impl Containers {
    /// No containers yet; recovery adopts what exists. The sandboxes learn of this room as their residents.
    ///
    /// # Errors
    /// `Internal` where the record directory cannot be made.
    pub fn new_blocking(sandboxes: Sandboxes, images: Arc<dyn LocalImages>) -> Result<Self> {
        let deps = Arc::clone(sandboxes.deps());
        let steps = deps
            .settings()
            .server
            .state_dir
            .join("steps")
            .join("containers");
        let containers = Self {
            pumps: Arc::new(Pumps::new(
                Arc::clone(&deps.clock),
                deps.settings().logs.quota,
            )),
            deps,
            sandboxes: sandboxes.clone(),
            images,
            flights: Flights::default(),
            starts: Flights::default(),
            restores: Flights::default(),
            sites: Arc::default(),
            records: Arc::new(Records::open_blocking(steps, Durability::Volatile)?),
            execs: Arc::default(),
            parents: Arc::new(Parents::new_blocking()),
            output_budget: CaptureBudget::new(EXEC_OUTPUT_BYTES),
            leftovers: Arc::default(),
            stuck: StuckSteps::default(),
            projects: Arc::default(),
        };
        sandboxes.settle(Arc::new(containers.clone()));
        containers.deps.nri.settle(Arc::new(containers.clone()));
        Ok(containers)
    }

    /// The steps recorded on tmpfs.
    pub fn step_records(&self) -> &Records<StepRecord> {
        &self.records
    }

    /// Makes the vigil of `id`'s task look now, because containerd told of an exit.
    pub fn nudge(&self, id: &str) {
        if let Some(site) = self
            .sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
        {
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

    /// Containers that are not listed and of which something would not go.
    pub fn leftovers(&self) -> Vec<ContainerId> {
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
    pub async fn is_known(&self, id: &ContainerId) -> Result<bool> {
        Ok(self.site(id).is_some() || self.records.get(id.as_str()).await?.is_some())
    }

    /// The steps of containers that would not go and are tried again, listed or not.
    pub fn stuck_steps(&self) -> &StuckSteps {
        &self.stuck
    }

    /// Remembers whether something of an unlisted container is left.
    fn note_left(&self, id: &ContainerId, left: bool) {
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

    fn site(&self, id: &ContainerId) -> Option<Arc<Site>> {
        self.sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    fn place(&self, id: &ContainerId) -> Arc<Site> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sites.entry(id.clone()).or_default())
    }

    fn forget(&self, id: &ContainerId) {
        self.sandboxes.release_level(id.as_str());
        self.sites
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// The container that `text`, a whole id or a unique prefix, means.
    fn find(&self, text: &str) -> Result<Option<Arc<ContainerView>>> {
        Ok(self.deps.index.snapshot().find_container(text)?.cloned())
    }

    /// As [`Self::find`], where a missing one is an error.
    fn expect(&self, text: &str) -> Result<(Arc<ContainerView>, Arc<Site>)> {
        let missing = || Error::not_found(format!("container {text:?}: not found"));
        let view = self.find(text)?.ok_or_else(missing)?;
        let site = self.site(&view.id).ok_or_else(missing)?;
        Ok((view, site))
    }
}
