//! The metrics of containers and pods that kubelet passes on where it no longer asks cAdvisor.
//!
//! `table` names them, `reading` reads what they are made of, `samples` makes them. Nothing is kept: each scrape reads
//! afresh, one at a time.

mod disks;
mod reading;
mod samples;
mod table;

pub use samples::Sample;
pub use table::{BASE, Kind, METRICS, Metric};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::image::FsUsage;
use crate::index::{ContainerView, PodView, SandboxFilter};
use crate::model::{ContainerId, SandboxId};
use crate::sys::mounts::{self, MountInfo};
use crate::sys::{self, devices, survey};

use super::Stats;
use super::network::Network;
use reading::Reading;
use samples::Layer;

/// The samples of one pod.
#[derive(Clone, Debug)]
pub struct PodSamples {
    /// Whose they are.
    pub pod: SandboxId,
    /// Of the pod itself.
    pub own: Vec<Sample>,
    /// Of its running containers.
    pub containers: Vec<(ContainerId, Vec<Sample>)>,
}

/// One file system that holds writable layers.
#[derive(Clone, Debug, Default)]
struct Place {
    device: String,
    total_bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

/// What a scrape looks up once.
struct Scrape {
    stats: Stats,
    places: BTreeMap<String, Place>,
}

impl Stats {
    /// The samples of all ready pods. A container that goes meanwhile is left out.
    pub async fn samples(&self) -> Vec<PodSamples> {
        let _alone = self.scraping.lock().await;
        let pods = self.ready_pods(&SandboxFilter::default());
        let stats = self.clone();
        let read = sys::off_thread("read the metrics of containers", move || {
            let scrape = Scrape {
                places: places_blocking(stats.images.fs_info()),
                stats,
            };
            Ok(pods.iter().map(|pod| scrape.pod_blocking(pod)).collect())
        });
        read.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the metrics of containers could not be read");
            Vec::new()
        })
    }
}

impl Scrape {
    fn pod_blocking(&self, pod: &Arc<PodView>) -> PodSamples {
        let view = &pod.sandbox;
        let clock = self.stats.deps.clock.as_ref();
        let network = view.netns.as_deref();
        let network =
            network.and_then(|netns| Network::read_blocking(netns, view.pause_pid, clock));
        let running = pod.containers.values();
        let running = running.filter(|view| view.is_running() && !view.parked);
        let containers = running.filter_map(|view| self.container_blocking(pod, view));
        PodSamples {
            pod: view.id.clone(),
            own: network.map_or_else(Vec::new, |network| samples::of_pod(view, &network)),
            containers: containers.collect(),
        }
    }

    fn container_blocking(
        &self,
        pod: &PodView,
        view: &Arc<ContainerView>,
    ) -> Option<(ContainerId, Vec<Sample>)> {
        let files = self.stats.readings.files(view);
        let reading = Reading::make_blocking(&files, view.pid)?;
        let now = self.stats.deps.clock.now();
        let layer = self.layer_blocking(view);
        let of = (pod.sandbox.as_ref(), view.as_ref());
        let samples =
            samples::of_container(of, &reading, &layer, now, devices::block_name_blocking);
        Some((view.id.clone(), samples))
    }

    fn layer_blocking(&self, view: &ContainerView) -> Layer {
        let place = self.places.get(&view.snapshotter);
        let place = place.cloned().unwrap_or_default();
        let layer = self.stats.layer_now_blocking(view);
        Layer {
            device: place.device,
            used_bytes: layer.as_ref().map_or(0, |layer| layer.bytes),
            at: layer.map(|layer| layer.at),
            total_bytes: place.total_bytes,
            inodes: place.inodes,
            inodes_free: place.inodes_free,
        }
    }
}

/// The file systems of the snapshotters, by the snapshotters' names.
fn places_blocking(known: Vec<FsUsage>) -> BTreeMap<String, Place> {
    let table = mounts::table_blocking().unwrap_or_default();
    let place = |usage: FsUsage| (usage.snapshotter, place_blocking(&usage.mountpoint, &table));
    known.into_iter().map(place).collect()
}

fn place_blocking(path: &Path, table: &[MountInfo]) -> Place {
    let real: PathBuf = path
        .canonicalize()
        .unwrap_or_else(|_unresolved| path.to_owned());
    let device = mounts::containing(table, &real).map(|mount| mount.source.clone());
    let space = survey::space_blocking(path).ok();
    Place {
        device: device.unwrap_or_default(),
        total_bytes: space.map_or(0, |space| space.total_bytes),
        inodes: space.and_then(|space| space.total_inodes).unwrap_or(0),
        inodes_free: space.and_then(|space| space.free_inodes).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_told_by_its_device_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let table = mounts::table_blocking().unwrap();
        let place = place_blocking(dir.path(), &table);

        assert!(!place.device.is_empty() && place.total_bytes > 0);
        assert!(place.inodes_free <= place.inodes);
        let nowhere = place_blocking(Path::new("/none/such"), &table);
        assert_eq!(nowhere.total_bytes, 0);
    }
}
