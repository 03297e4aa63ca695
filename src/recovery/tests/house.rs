//! A node made of the real lifecycles over the fake world, and its lives: each in a runtime of its own, so that the end
//! of one drops everything that its process had in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::config::{Config, Shared};
use crate::container::{
    CheckpointRequest, Containers, CreateRequest, Criu, ExecSyncRequest, LocalImage, LocalImages,
};
use crate::containerd::Payload;
use crate::containerd::fake::World;
use crate::devices::DeviceFiles;
use crate::image::Archive;
use crate::index::Index;
use crate::model::clock::CreationStamps;
use crate::model::{
    Clock, ContainerConfig, ContainerId, Pid, PodConfig, Result, SandboxId, Timestamp,
};
use crate::network::fake::FakeNetwork;
use crate::nri::Nri;
use crate::ops::{LiveTable, Supervisor, TenantPaths};
use crate::recovery::Recovery;
use crate::sandbox::{Deps, Handlers, RunRequest, RuntimeHandler, Sandboxes};
use crate::spec::SpecOptions;
use crate::store::Facts;
use crate::sys;
use crate::wire::{cri, record};

/// Paused time waits for real threads (journal, pumps) this often, and so long.
const PACE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1));
/// A thread that takes so many real milliseconds hangs.
const HANGS_AFTER: u32 = 20_000;
/// What the containers of the test run.
pub(super) const IMAGE: &str = "app:1";
/// What outlives every pod: the pause root and the journal.
const FIXTURES: [&str; 2] = ["pause", "facts.journal"];

/// What outlives a process: containerd, the network, the disk.
pub(super) struct House {
    pub(super) world: World,
    pub(super) network: Arc<FakeNetwork>,
    pub(super) dir: tempfile::TempDir,
}

/// One process of ours.
pub(super) struct Home {
    pub(super) world: World,
    pub(super) deps: Arc<Deps>,
    pub(super) sandboxes: Sandboxes,
    pub(super) containers: Containers,
    pub(super) recovery: Recovery,
    pod: PodKind,
    /// Where checkpoints go.
    pub(super) archive: PathBuf,
    /// Where checkpoints of pods go: a directory that is made for the test.
    pub(super) shelf: PathBuf,
}

/// Which namespaces the pods of a test have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PodKind {
    /// The node's network and IPC: needs no privilege.
    Host,
    /// A network namespace and a `/dev/shm` of its own: needs root and a mount namespace to be lost in.
    Own,
    /// The same with a user namespace of its own, which the network namespace belongs to.
    Mapped,
}

#[derive(Debug)]
struct WorldClock(World);

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

/// One image without layers, which has every name.
struct OneImage;

impl LocalImages for OneImage {
    fn find(&self, text: &str) -> Result<Option<LocalImage>> {
        Ok(Some(LocalImage {
            id: format!("sha256:{}", "a".repeat(64)),
            reference: format!("registry.test/{text}"),
            record: format!("registry.test/{text}"),
            ..LocalImage::default()
        }))
    }

    fn unpack<'a>(
        &'a self,
        _image: &'a LocalImage,
        _snapshotter: &'a str,
    ) -> BoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed()
    }

    fn checkpoint<'a>(&'a self, _image: &'a LocalImage) -> BoxFuture<'a, Result<Vec<Archive>>> {
        async { Ok(Vec::new()) }.boxed()
    }
}

impl House {
    pub(super) fn new() -> Self {
        Self {
            world: World::new(),
            network: Arc::new(FakeNetwork::new()),
            // In memory where there is such a place: the tests write and sync thousands of files.
            dir: tempfile::tempdir_in("/dev/shm")
                .or_else(|_not_here| tempfile::tempdir())
                .unwrap(),
        }
    }

    /// Lives one process's life on this thread.
    pub(super) fn live<T>(&self, pod: PodKind, life: impl AsyncFnOnce(&Home) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let home = self.open(pod);
            let pace = keep_pace(home.deps.facts.clone(), home.deps.paths.clone());
            home.deps.supervisor.watch("pace", pace);
            life(&home).await
        })
    }

    fn open(&self, pod: PodKind) -> Home {
        let config = self.config();
        let clock: Arc<dyn Clock> = Arc::new(WorldClock(self.world.clone()));
        let handlers: BTreeMap<String, Arc<RuntimeHandler>> = config
            .runtimes
            .handlers
            .iter()
            .map(|(name, settings)| {
                let handler = RuntimeHandler {
                    settings: settings.clone(),
                    options: Some(Payload::new(Payload::RUNC_OPTIONS, "")),
                    no_user_namespaces: None,
                    spec: SpecOptions::default(),
                };
                (name.clone(), Arc::new(handler))
            })
            .collect();
        let journal = config.server.root_dir.join("facts.journal");
        let host = sys::host_facts::gather_blocking(Pid(std::process::id())).unwrap();
        let defaults = config.runtimes.default.clone();
        let config = Shared::new(config);
        let supervisor = Supervisor::new();
        let deps = Arc::new(Deps {
            device_files: Arc::new(DeviceFiles::new(config.clone(), Arc::clone(&clock))),
            containerd: self.world.containerd(),
            network: Arc::clone(&self.network) as _,
            index: Arc::new(Index::new(Arc::clone(&clock))),
            supervisor: supervisor.clone(),
            live: LiveTable::new(Arc::clone(&clock)),
            nri: Arc::new(Nri::new(config.clone(), supervisor.clone())),
            paths: TenantPaths::new(Arc::clone(&clock)),
            facts: Facts::open_blocking(&journal).unwrap(),
            handlers: Handlers::new(defaults, handlers),
            config,
            host: ArcSwap::from_pointee(host),
            clock,
            stamps: CreationStamps::after(Timestamp(0)),
            node_name: "node".to_owned(),
            boot_id: "boot".to_owned(),
        });
        let sandboxes = Sandboxes::new_blocking(Arc::clone(&deps)).unwrap();
        let containers = Containers::new_blocking(sandboxes.clone(), Arc::new(OneImage)).unwrap();
        Home {
            world: self.world.clone(),
            recovery: Recovery::new(sandboxes.clone(), containers.clone()),
            deps,
            sandboxes,
            containers,
            pod,
            archive: self.dir.path().join("archive.tar"),
            shelf: self.dir.path().join("shelf"),
        }
    }

    fn config(&self) -> Config {
        let dir = self.dir.path().display();
        let text = format!(
            "[server]\nroot_dir = \"{dir}/root\"\nstate_dir = \"{dir}/state\"\n[sandbox]\nnetns_dir = \"{dir}/netns\"\n[containers]\nenable_restore = true\n"
        );
        std::fs::create_dir_all(self.dir.path().join("root")).unwrap();
        std::fs::create_dir_all(self.dir.path().join("state")).unwrap();
        Config::parse(&text).unwrap()
    }

    /// Everything that is left anywhere, a line each: in containerd, in the network, on disk.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let mut left = self.world.leftovers();
        left.extend(
            self.network
                .held()
                .into_keys()
                .map(|id| format!("address of {id}")),
        );
        for base in ["root", "state", "netns"] {
            files_below(&self.dir.path().join(base), &mut left);
        }
        left
    }
}

/// Lists files, and directories that carry an id.
fn files_below(dir: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if FIXTURES.contains(&name.as_str()) {
            continue;
        }
        let is_dir = entry.file_type().unwrap().is_dir();
        if !is_dir || name.parse::<ContainerId>().is_ok() {
            into.push(format!("file {}", entry.path().display()));
        }
        if is_dir {
            files_below(&entry.path(), into);
        }
    }
}

/// A virtual 100 ms cost a real one, and whatever the journal and the threads of pods take, in which time stands still:
/// what waits for a thread is not timed out, however busy the machine is.
async fn keep_pace(facts: Facts, paths: TenantPaths) {
    loop {
        tokio::time::sleep(PACE.0).await;
        let (facts, paths) = (facts.clone(), paths.clone());
        #[expect(clippy::disallowed_methods, reason = "real time is what is waited for")]
        let paced = tokio::task::spawn_blocking(move || {
            std::thread::sleep(PACE.1);
            facts.settle_blocking();
            // One that hangs for good is none of these tests'.
            for _ in 0..HANGS_AFTER {
                if paths.snapshot().iter().all(|job| job.abandoned) {
                    break;
                }
                std::thread::sleep(PACE.1);
            }
        });
        if paced.await.is_err() {
            return;
        }
    }
}

impl Home {
    pub(super) fn pod_config(&self) -> (Arc<PodConfig>, Arc<str>) {
        let mode = match self.pod {
            PodKind::Host => cri::NamespaceMode::Node,
            PodKind::Own | PodKind::Mapped => cri::NamespaceMode::Pod,
        };
        let namespaces = cri::NamespaceOption {
            network: mode.into(),
            ipc: mode.into(),
            pid: cri::NamespaceMode::Container.into(),
            userns_options: self.users(),
            ..Default::default()
        };
        let config = cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: "web".to_owned(),
                uid: "uid".to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = record::pod_record(&config).unwrap().into();
        (Arc::new(config.try_into().unwrap()), text)
    }

    fn users(&self) -> Option<cri::UserNamespace> {
        let range = vec![cri::IdMapping {
            host_id: 200_000,
            container_id: 0,
            length: 65_536,
        }];
        (self.pod == PodKind::Mapped).then(|| cri::UserNamespace {
            mode: cri::NamespaceMode::Pod.into(),
            uids: range.clone(),
            gids: range,
        })
    }

    pub(super) fn container_config(&self, image: &str) -> (Arc<ContainerConfig>, Arc<str>) {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: "app".to_owned(),
                attempt: 0,
            }),
            image: Some(cri::ImageSpec {
                image: image.to_owned(),
                ..Default::default()
            }),
            command: vec!["/app".to_owned()],
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        userns_options: self.users(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = record::container_record(&config).unwrap().into();
        (Arc::new(config.try_into().unwrap()), text)
    }

    pub(super) async fn run(&self) -> Result<SandboxId> {
        let (config, record) = self.pod_config();
        let handler = String::new();
        self.sandboxes
            .run(RunRequest {
                config,
                record,
                handler,
                is_part: false,
            })
            .await
    }

    pub(super) fn create_request(&self) -> CreateRequest {
        self.create_request_of(IMAGE)
    }

    pub(super) fn create_request_of(&self, image: &str) -> CreateRequest {
        let (config, record) = self.container_config(image);
        CreateRequest {
            sandbox: self.pod_id().unwrap().to_string(),
            config,
            record,
            pod: self.pod_config().0,
            archive: None,
        }
    }

    pub(super) async fn create(&self) -> Result<ContainerId> {
        self.containers.create(self.create_request()).await
    }

    /// A pod with a running container.
    pub(super) async fn run_all(&self) -> ContainerId {
        self.run().await.unwrap();
        let id = self.create().await.unwrap();
        self.containers.start(id.as_str()).await.unwrap();
        id
    }

    pub(super) async fn exec(&self) -> Result<()> {
        let request = ExecSyncRequest {
            command: vec!["true".to_owned()],
            timeout_s: 5,
        };
        let id = self.container_id().unwrap();
        self.containers
            .exec_sync(id.as_str(), request)
            .await
            .map(drop)
    }

    /// Writes a container down, as on a node where CRIU works.
    pub(super) async fn checkpoint(&self, container: &str) -> Result<()> {
        let request = CheckpointRequest {
            container: container.to_owned(),
            location: self.archive.display().to_string(),
            timeout: None,
            status: "{}".to_owned(),
        };
        let criu = Criu::Works("4.1".to_owned());
        self.containers.checkpoint_by(Some(&criu), request).await
    }

    /// The pod of the test, where it is listed.
    pub(super) fn pod_id(&self) -> Option<SandboxId> {
        let now = self.deps.index.snapshot();
        now.pods().next().map(|pod| pod.sandbox.id.clone())
    }

    /// The container of the test, where it is known, parked or not.
    pub(super) fn container_id(&self) -> Option<ContainerId> {
        let now = self.deps.index.snapshot();
        now.containers().next().map(|view| view.id.clone())
    }

    /// Waits until nothing runs on by itself.
    pub(super) async fn settle(&self) {
        let quiet = async {
            while self.deps.supervisor.running() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let limit = Duration::from_secs(3600);
        assert!(
            tokio::time::timeout(limit, quiet).await.is_ok(),
            "an operation never ends: {:?}",
            self.deps.live.snapshot()
        );
    }

    /// Stops and removes all pods, lets the janitor sweep once, and says what is left of anything.
    pub(super) async fn clear(&self, house: &House) -> Vec<String> {
        self.settle().await;
        let ids: BTreeSet<SandboxId> = self
            .deps
            .index
            .snapshot()
            .pods()
            .map(|pod| pod.sandbox.id.clone())
            .collect();
        let mut left = Vec::new();
        for id in ids {
            let ended = self.sandboxes.stop(id.as_str()).await;
            left.extend(ended.err().map(|error| format!("stop: {}", error.chain())));
            let removed = self.sandboxes.remove(id.as_str()).await;
            left.extend(
                removed
                    .err()
                    .map(|error| format!("remove: {}", error.chain())),
            );
        }
        let swept = self.recovery.sweep().await;
        left.extend(swept.err().map(|error| format!("sweep: {}", error.chain())));
        self.settle().await;
        left.extend(house.leftovers());
        left.extend(
            self.deps
                .facts
                .ids()
                .into_iter()
                .map(|id| format!("facts of {id}")),
        );
        left.extend(
            self.sandboxes
                .leftovers()
                .into_iter()
                .map(|id| format!("sandbox leftover {id}")),
        );
        left.extend(
            self.containers
                .leftovers()
                .into_iter()
                .map(|id| format!("container leftover {id}")),
        );
        left.extend(self.pod_id().map(|id| format!("listed pod {id}")));
        left
    }
}
