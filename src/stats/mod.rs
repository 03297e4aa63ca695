//! What containers and pods use, read from the kernel's files: no call to containerd.
//!
//! `parse` understands the files and `group` makes one reading of them; `collect` keeps the last reading of each
//! container and pod, makes new ones in the background and for callers that need a fresher one, and knows by two of
//! them how busy a group is. `container` and `sandbox` put together what is shown. What a writable layer takes on
//! disk is asked of the file system in `layers` where that counts it, else measured by `image`, which looks at all snapshots
//! anyway. `metrics` is the same for kubelet's metrics, in their words.

mod collect;
mod container;
mod group;
mod guests;
mod layers;
pub mod metrics;
mod network;
mod parse;
mod sandbox;
#[cfg(test)]
mod testing;

pub use container::{ContainerUsage, LayerUsage};
pub use group::{Cpu, Io, Memory, Swap, Tasks, Usage};
pub use network::{Interface, Network};
pub use parse::{Pressure, PressureLine};
pub use sandbox::PodUsage;

use std::sync::Arc;

use crate::image::Images;
use crate::sandbox::Deps;
use crate::sys::cgroup::Cgroups;

use collect::Readings;
use layers::Layers;

/// Tells what containers and pods use. Cloning gives another handle.
#[derive(Clone)]
pub struct Stats {
    deps: Arc<Deps>,
    images: Images,
    readings: Arc<Readings>,
    layers: Arc<Layers>,
    /// Held by whoever reads metrics.
    scraping: Arc<tokio::sync::Mutex<()>>,
}

impl Stats {
    /// Nothing was read yet.
    pub fn new_blocking(deps: Arc<Deps>, images: Images) -> Self {
        let cgroups = Cgroups::discover_blocking().ok();
        let readings = Readings::new(cgroups, Arc::clone(&deps.clock));
        Self {
            deps,
            images,
            readings: Arc::new(readings),
            layers: Arc::default(),
            scraping: Arc::default(),
        }
    }

    /// Starts the readings in the background, which keep rates over a known time.
    pub fn start(&self) {
        let stats = self.clone();
        let collecting = move || stats.clone().keep_collecting();
        self.deps.supervisor.keep("collect usage", collecting);
        let stats = self.clone();
        let asking = move || stats.clone().keep_asking();
        self.deps.supervisor.keep("ask shims of guests", asking);
    }
}
