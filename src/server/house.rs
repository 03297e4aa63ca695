//! The rooms put together: who is made from what, and in which order they wake up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::handlers;
use super::identity::NodeIdentity;
use super::images::ImageDesk;
use super::logging::Level;
use super::metrics::{self, Reports};
use super::reload::Reloading;
use super::run::Origin;
use super::tending::Tending;
use super::{plugins, rooms, stuck};
use crate::admin::{AdminParts, AdminService};
use crate::config::{Config, Shared};
use crate::container::Containers;
use crate::containerd::grpc::{self, ChannelSettings};
use crate::containerd::{Containerd, Link};
use crate::cri;
use crate::devices::DeviceFiles;
use crate::events::Intake;
use crate::image::Images;
use crate::index::Index;
use crate::model::clock::{CreationStamps, SystemClock};
use crate::model::{Classify, Clock, Error, Kind, Pid, Result, Timestamp};
use crate::network::Cni;
use crate::node::features::Abilities;
use crate::nri::Nri;
use crate::ops::{LiveTable, Supervisor, TenantPaths};
use crate::recovery::Recovery;
use crate::sandbox::{Deps, Handlers, Sandboxes};
use crate::stats::Stats;
use crate::store::Facts;
use crate::streaming::Streaming;
use crate::sys;
use crate::telemetry::traces::Traces;
use crate::telemetry::{Source, Sources};

/// The pause after a recovery that containerd cut short.
const AFTER_CUT: Duration = Duration::from_millis(500);

/// Every room of the server.
pub(super) struct House {
    config: Shared,
    supervisor: Supervisor,
    closing: CancellationToken,
    live: LiveTable,
    containerd: Containerd,
    link: Link,
    cni: Arc<Cni>,
    tending: Tending,
    reloading: Reloading,
    images: Images,
    desk: Arc<ImageDesk>,
    sandboxes: Sandboxes,
    containers: Containers,
    recovery: Recovery,
    service: cri::Service,
    streaming: Streaming,
    stats: Stats,
}

impl House {
    /// Makes the rooms. containerd need not run yet.
    ///
    /// # Errors
    /// `InvalidArgument` where a setting cannot be used, `Internal` where our own records cannot be opened.
    pub(super) async fn build(config: Shared, origin: Origin, level: Level) -> Result<Self> {
        sys::off_thread("put the rooms together", move || {
            Self::build_blocking(config, origin, level)
        })
        .await
    }

    fn build_blocking(config: Shared, origin: Origin, level: Level) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let now = config.load();
        let client = grpc::connect(&ChannelSettings {
            address: now.containerd.address.clone(),
            namespace: now.containerd.namespace.clone(),
        })?;
        let supervisor = Supervisor::new();
        let stopping = supervisor.stopping().clone();
        supervisor.watch("containerd probe", async move {
            stopping.run_until_cancelled(client.prober.run()).await;
        });
        let live = LiveTable::new(Arc::clone(&clock));
        let network = rooms::network_settings(&now).shared();
        let cni = Arc::new(Cni::new(Arc::clone(&network), live.clone()));
        let (default, table) = handlers::table_blocking(&now, |_handler| Abilities::default())?;
        let deps = Arc::new(Deps {
            containerd: client.containerd.clone(),
            network: Arc::clone(&cni) as _,
            index: Arc::new(Index::new(Arc::clone(&clock))),
            supervisor: supervisor.clone(),
            live: live.clone(),
            nri: Arc::new(Nri::new(config.clone(), supervisor.clone())),
            device_files: Arc::new(DeviceFiles::new(config.clone(), Arc::clone(&clock))),
            paths: TenantPaths::new(Arc::clone(&clock)),
            facts: Facts::open_blocking(&now.server.root_dir.join("facts.journal"))?,
            config: config.clone(),
            handlers: Handlers::new(default, table),
            host: ArcSwap::from_pointee(sys::host_facts::gather_blocking(Pid(std::process::id()))?),
            clock: Arc::clone(&clock),
            stamps: CreationStamps::after(Timestamp(0)),
            node_name: node_name()?,
            boot_id: boot_id_blocking()?,
        });
        let images = rooms::images(&deps);
        let desk = Arc::new(ImageDesk::new(images.clone(), supervisor.clone()));
        let sandboxes = Sandboxes::new_blocking(Arc::clone(&deps))?;
        sandboxes.have_images(Arc::clone(&desk) as _);
        let containers = Containers::new_blocking(sandboxes.clone(), Arc::clone(&desk) as _)?;
        let tending = Tending {
            config: config.clone(),
            link: client.link.clone(),
            deps: Arc::clone(&deps),
            containers: containers.clone(),
            network,
            abilities: Arc::new(ArcSwap::from_pointee(BTreeMap::new())),
            trouble: Arc::default(),
        };
        let reloading = Reloading::new(origin, level, tending.clone());
        let identity = identity_of(&tending, &reloading, &now);
        let streaming = rooms::streaming_blocking(&sandboxes, &containers)?;
        let stats = Stats::new_blocking(Arc::clone(&deps), images.clone());
        let service = cri::Service::new(
            sandboxes.clone(),
            containers.clone(),
            Arc::clone(&desk) as _,
            Arc::new(identity),
            streaming.clone(),
            stats.clone(),
        );
        let recovery = Recovery::new(sandboxes.clone(), containers.clone());
        Ok(Self {
            config,
            recovery,
            closing: CancellationToken::new(),
            live,
            containerd: client.containerd,
            link: client.link,
            supervisor,
            cni,
            tending,
            reloading,
            images,
            desk,
            sandboxes,
            containers,
            service,
            streaming,
            stats,
        })
    }

    /// Cancelled once we no longer take new operations.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Runs every task of the server.
    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.supervisor
    }

    /// Where the streaming listener listens.
    pub(super) fn streaming_address(&self) -> Option<SocketAddr> {
        Some(self.streaming.address())
    }

    /// The services of the socket.
    pub(super) fn routes(&self) -> Routes {
        let limit = self.config.load().server.max_message_bytes.get();
        let admin = AdminService::new(AdminParts {
            live: self.live.clone(),
            paths: self.tending.deps.paths.clone(),
            pods: Arc::clone(&self.tending.deps.index),
            images: Arc::clone(&self.desk) as _,
            configuration: Arc::new(self.reloading.clone()),
        });
        Routes::new(admin.into_server(limit))
            .add_service(self.service.runtime_server(limit))
            .add_service(self.service.image_server(limit))
    }

    /// Waits for containerd, refuses one that would work against us, and brings every room to the state that records
    /// and containerd tell. A containerd that goes away meanwhile is waited for again.
    ///
    /// # Errors
    /// `FailedPrecondition` where containerd's CRI plugin is active, and whatever recovery meets.
    pub(super) async fn recover(&self) -> Result<()> {
        let recovery = self.recovery.clone();
        let mut follows_events = false;
        let generation = loop {
            let generation = self.link.until_up().await?;
            let attempt = async {
                self.tending.look().await?;
                self.cni.refresh().await;
                // Events first, then the lists: what happens between the two is seen at least once.
                if !std::mem::replace(&mut follows_events, true) {
                    self.follow_events();
                }
                self.images.load().await?;
                recovery.run().await
            };
            match attempt.await {
                Ok(_) => break generation,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "recovery was cut short; starting over");
                    tokio::time::sleep(AFTER_CUT).await;
                }
                Err(error) => return Err(error),
            }
        };
        self.images.start();
        self.stats.start();
        let reloading = self.reloading.clone();
        self.supervisor
            .keep("configuration file", move || reloading.clone().watch());
        let cni = Arc::clone(&self.cni);
        self.supervisor.keep("CNI configuration", move || {
            let cni = Arc::clone(&cni);
            async move { cni.watch().await }
        });
        let (live, clock) = (self.live.clone(), Arc::clone(&self.tending.deps.clock));
        self.supervisor.keep("stuck operations", move || {
            stuck::watch(live.clone(), Arc::clone(&clock))
        });
        self.supervisor
            .keep("janitor", move || recovery.clone().janitor());
        let tending = self.tending.clone();
        self.supervisor.keep("containerd's return", move || {
            tending.clone().follow(generation)
        });
        self.start_plugins().await;
        self.serve_streams();
        self.service.open();
        Ok(())
    }

    /// Answers Prometheus, where it has an address to scrape.
    pub(super) fn serve_metrics(&self, traces: Option<&Traces>) {
        let Some(address) = self.config.load().metrics.address.clone() else {
            return;
        };
        let reports = Reports {
            clock: Arc::clone(&self.tending.deps.clock),
            images: self.images.clone(),
            live: self.live.clone(),
            paths: self.tending.deps.paths.clone(),
            supervisor: self.supervisor.clone(),
            link: self.link.clone(),
            streaming: self.streaming.clone(),
            sandboxes: self.sandboxes.clone(),
            containers: self.containers.clone(),
            recovery: self.recovery.clone(),
            cni: Arc::clone(&self.cni),
            index: Arc::clone(&self.tending.deps.index),
            started_at: self.tending.deps.clock.now(),
        };
        let calls = self.service.calls().clone();
        let mut sources: Vec<Box<dyn Source>> = vec![Box::new(reports), Box::new(calls)];
        sources.extend(traces.map(|it| Box::new(it.counts().clone()) as _));
        let sources = Sources::new(sources);
        let listening = metrics::listen(address, sources, self.supervisor.clone());
        self.supervisor.watch("metrics endpoint", listening);
    }

    /// Answers the clients of exec, attach and port-forward.
    fn serve_streams(&self) {
        let streaming = self.streaming.clone();
        self.supervisor.keep("streaming listener", move || {
            let streaming = streaming.clone();
            async move {
                if let Err(error) = streaming.serve().await {
                    tracing::error!(%error, "exec, attach and port-forward do not answer");
                }
            }
        });
    }

    /// Starts the NRI plugins of the node, which are to hear of the first request, and lets others connect.
    async fn start_plugins(&self) {
        let settings = self.config.load().nri.clone();
        if !settings.enabled {
            return;
        }
        let nri = &self.tending.deps.nri;
        nri.launch().await;
        if let Some(path) = settings.socket {
            let stop = self.supervisor.stopping().clone();
            let listening = plugins::listen(Arc::clone(nri), path, stop);
            self.supervisor.watch("NRI socket", listening);
        }
    }

    /// Reads the configuration again, in a task of its own.
    pub(super) fn reload(&self) {
        let reloading = self.reloading.clone();
        self.supervisor.start("reload", async move {
            // What came of it was logged.
            drop(reloading.again().await);
        });
    }

    fn follow_events(&self) {
        let intake = Intake {
            events: Arc::clone(&self.containerd.events),
            sandboxes: self.sandboxes.clone(),
            containers: self.containers.clone(),
            images: Arc::clone(&self.desk) as _,
        };
        self.supervisor
            .keep("containerd events", move || intake.clone().follow());
    }
}

fn identity_of(tending: &Tending, reloading: &Reloading, now: &Config) -> NodeIdentity {
    NodeIdentity {
        config: tending.config.clone(),
        deps: Arc::clone(&tending.deps),
        network: Arc::clone(&tending.deps.network),
        link: tending.link.clone(),
        driver: handlers::cgroup_driver(now),
        abilities: Arc::clone(&tending.abilities),
        trouble: Arc::clone(&tending.trouble),
        reloading: reloading.clone(),
        pod_cidr: ArcSwap::default(),
    }
}

/// Whether trying again may help: containerd went away, or did not answer in time.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// What the host is called.
///
/// # Errors
/// `Internal` where the kernel does not say.
pub(super) fn node_name() -> Result<String> {
    let name =
        nix::unistd::gethostname().classify(Kind::Internal, || "read the host name".to_owned())?;
    Ok(name.to_string_lossy().into_owned())
}

fn boot_id_blocking() -> Result<String> {
    let path = std::path::Path::new("/proc/sys/kernel/random/boot_id");
    let bytes = sys::files::read_capped_blocking(path, 4096)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
