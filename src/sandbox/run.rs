//! RunPodSandbox: validate, reserve or join, netns, CNI intent, { CNI ADD } ∥ { record, task create, task start },
//! publish. Nothing is visible before the last step, and a failure leaves nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::containerd::{ContainerRecord, Payload, Stdio, TaskRequest};
use crate::index::{PauseImage, SandboxView};
use crate::model::security::NamespaceMode;
use crate::model::state::SandboxState;
use crate::model::{Context, Digest, Error, Pid, PodConfig, Result, SandboxId, Timestamp};
use crate::network::{AttachRequest, Attachment, Intent};
use crate::nri::Event;
use crate::ops::{Edge, Operation, gate};
use crate::spec::{self, PauseInput, PauseProgram, SandboxFiles, SelinuxLabels, UserMapping};
use crate::sys::{self, process::PidFd};

use super::deps::RuntimeHandler;
use super::plugins::Announced;
use super::record::{self, SandboxMark};
use super::steps::{AttachmentRecord, Step, StepRecord};
use super::{LocalPauseImage, PodKey, Sandboxes, files, userns};

/// What a task's calls wait on.
const SHIM: &str = "containerd and the shim";

/// A RunPodSandbox request.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The configuration, typed and checked.
    pub config: Arc<PodConfig>,
    /// The same as opaque record text.
    pub record: Arc<str>,
    /// Runtime handler; empty means the default.
    pub handler: String,
    /// More must come to be before it counts as made: until [`Sandboxes::conclude`] a restart takes it back.
    pub is_part: bool,
}

impl RunRequest {
    fn fingerprint(&self) -> Digest {
        let part = if self.is_part { "\npart" } else { "" };
        Digest::sha256(format!("{}\n{}{part}", self.handler, self.record).as_bytes())
    }
}

impl Sandboxes {
    /// Makes a sandbox, or joins the equal request that is making it. Runs on when the caller leaves.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown handler, `AlreadyExists` where the pod's attempt exists already, and whatever a
    /// step failed with.
    pub async fn run(&self, request: RunRequest) -> Result<SandboxId> {
        let handler = self.deps.handlers.get(&request.handler)?;
        let asks_userns = spec::check_pod(&request.config, &handler.spec)?.is_some();
        if let Some(why) = handler.no_user_namespaces.filter(|_| asks_userns) {
            return Err(Error::precondition(format!(
                "user namespaces: runtime handler {:?} cannot have them here: {why}; or set hostUsers: true",
                request.handler
            )));
        }
        let key = PodKey(request.config.identity.clone());
        let fingerprint = request.fingerprint();
        let (this, digest, joined) = (self.clone(), fingerprint.clone(), key.clone());
        let id = self
            .flights
            .join(
                &self.deps.supervisor,
                "RunPodSandbox",
                joined,
                fingerprint,
                move || this.make(request, handler, digest),
            )
            .await?;
        // One that was made for an earlier caller may have ended since: it is nothing to hand out.
        match self.deps.index.snapshot().sandbox(&id) {
            Some(view) if view.state.is_ready() => Ok(id),
            _ => Err(Error::already_exists(format!(
                "{key} exists already as {id}, which is not ready any more; remove it or use another attempt"
            ))),
        }
    }

    /// Says that a sandbox which is a part of more is whole, and stays from now on.
    ///
    /// # Errors
    /// `NotFound` where it was removed meanwhile, `Internal` where this cannot be recorded.
    pub(crate) async fn conclude(&self, id: &SandboxId) -> Result<()> {
        let gone = || Error::not_found(format!("sandbox {}: removed meanwhile", id.short()));
        let site = self.site(id).ok_or_else(gone)?;
        let _exclusive = site.lock.write().await;
        let mut steps = self.records.get(id.as_str()).await?.ok_or_else(gone)?;
        steps.complete = true;
        self.records.put(id.as_str(), &steps).await
    }

    async fn make(
        self,
        request: RunRequest,
        handler: Arc<RuntimeHandler>,
        fingerprint: Digest,
    ) -> Result<SandboxId> {
        let id = SandboxId::generate()?;
        let name = request.config.identity.reserved_name();
        let object = format!("{name} {}", id.short());
        let live = &self.deps.live;
        let operation = live.begin_for(id.as_str(), "RunPodSandbox", object);
        let created_at = self.deps.stamps.next(&*self.deps.clock);
        let steps = StepRecord {
            name,
            fingerprint,
            created_at,
            netns: None,
            snapshotter: None,
            steps: Vec::new(),
            complete: false,
        };
        let making = Making {
            home: &self,
            id: &id,
            request: &request,
            handler: &handler,
            operation,
            created_at,
            steps: Mutex::new(steps),
            announced: Announced::default(),
        };
        let ceiling = self.deps.settings().operations.ceiling;
        let run = self.deps.supervisor.survive("RunPodSandbox", making.run());
        let run = making.operation.place().hold(run);
        let made = tokio::time::timeout(ceiling, run).await;
        let failed =
            match made.unwrap_or_else(|_elapsed| Err(Error::timed_out("RunPodSandbox", ceiling))) {
                Ok(()) => return Ok(id),
                Err(error) => error,
            };
        making.operation.failed(&failed.chain());
        let unwind = making.operation.step("unwind");
        let (deps, announced) = (&self.deps, &making.announced);
        announced.retract(deps, Event::StopPodSandbox).await;
        let left = unwind.hold(self.take_back(&id, &Step::ALL)).await;
        let is_clean = matches!(&left, Ok(left) if left.is_empty());
        announced.retract(deps, Event::RemovePodSandbox).await;
        self.forget(&id);
        self.note_left(&id, !is_clean);
        match is_clean {
            true => Err(failed),
            false => Err(failed.context(
                "the failed sandbox could not be taken back whole; the janitor retries it",
            )),
        }
    }
}

/// A sandbox being made.
pub(super) struct Making<'a> {
    pub(super) home: &'a Sandboxes,
    pub(super) id: &'a SandboxId,
    pub(super) request: &'a RunRequest,
    pub(super) handler: &'a RuntimeHandler,
    pub(super) operation: Operation,
    pub(super) created_at: Timestamp,
    pub(super) steps: Mutex<StepRecord>,
    announced: Announced,
}

impl Making<'_> {
    /// All steps in order; the pause leg overlaps CNI ADD where that is safe (DESIGN §3).
    async fn run(&self) -> Result<()> {
        let config = &self.request.config;
        let mapping = spec::user_mapping(&config.security.namespaces)?;
        // Before anything is made: it may take a pull.
        let image = self.pause_image().await?;
        let labels = self.home.label_pod(self.id, config, self.handler)?;
        let label = labels.as_ref().map(|labels| labels.mount.clone());
        let sandbox_files = self
            .step(
                Step::Files,
                files::make(
                    self.home.deps.clone(),
                    self.id.clone(),
                    Arc::clone(config),
                    label.clone(),
                ),
            )
            .await?;
        if config.security.namespaces.ipc != NamespaceMode::Node {
            self.step(
                Step::Shm,
                files::mount_shm(self.home.deps.clone(), self.id.clone(), mapping, label),
            )
            .await?;
        }
        let userns = self.make_userns(mapping).await?;
        let netns = self.make_netns(userns.clone()).await?;
        let pause_leg = self.start_pause(
            image.as_ref(),
            netns.clone(),
            userns.as_deref(),
            &sandbox_files,
            labels.as_ref(),
        );
        let (attachment, pause) = match self.plan(netns.as_deref())? {
            None => (None, pause_leg.await?),
            Some(intent) if self.network_first(&intent) => {
                (Some(self.attach(intent).await?), pause_leg.await?)
            }
            Some(intent) => {
                // Both legs end before either failure is acted upon: an undo beside a running ADD would race it.
                let (attached, started) = tokio::join!(self.attach(intent), pause_leg);
                (Some(attached?), started?)
            }
        };
        let view = self.view(netns, image, attachment.as_ref(), &pause);
        let deps = &self.home.deps;
        let until_published = deps.nri.enter();
        let announcing = self.announced.announce(deps, &until_published, &view);
        self.operation.step("plugins").hold(announcing).await?;
        self.publish(view, attachment, pause.pidfd).await
    }

    fn plan(&self, netns: Option<&Path>) -> Result<Option<Intent>> {
        let Some(netns) = netns else { return Ok(None) };
        let request = AttachRequest {
            sandbox: self.id,
            netns,
            pod: &self.request.config,
        };
        self.home.deps.network.plan(&request).map(Some)
    }

    fn network_first(&self, intent: &Intent) -> bool {
        !self.handler.settings.is_runc_shim()
            || self.handler.settings.network_first
            || spec::sysctls_concern_network(&self.request.config.sysctls)
            || !self.home.deps.network.last_add_succeeded(intent)
    }

    fn on_node_network(&self) -> bool {
        self.request.config.security.namespaces.network == NamespaceMode::Node
    }

    /// The user namespace that owns the network namespace; on the node's network the OCI runtime makes one itself.
    async fn make_userns(&self, mapping: Option<UserMapping>) -> Result<Option<PathBuf>> {
        let Some(mapping) = mapping.filter(|_| !self.on_node_network()) else {
            return Ok(None);
        };
        let made = userns::make(self.home.deps.clone(), self.id.clone(), mapping);
        self.step(Step::Userns, made).await.map(Some)
    }

    async fn make_netns(&self, owner: Option<PathBuf>) -> Result<Option<PathBuf>> {
        if self.on_node_network() {
            return Ok(None);
        }
        let dir = self.home.deps.settings().sandbox.netns_dir.clone();
        let path = sys::netns::fresh_path(&dir)?;
        self.steps.lock().await.netns = Some(path.clone());
        let made = path.clone();
        self.step(
            Step::Netns,
            sys::off_thread("make a network namespace", move || match owner {
                Some(owner) => sys::userns::create_netns_blocking(&made, &owner),
                None => sys::netns::create_blocking(&made),
            }),
        )
        .await?;
        Ok(Some(path))
    }

    async fn attach(&self, intent: Intent) -> Result<Attachment> {
        let deps = &self.home.deps;
        let mut record = AttachmentRecord {
            boot_id: deps.boot_id.clone(),
            intent,
            attachment: None,
        };
        let attachment = self
            .step(Step::Network, async {
                self.home.attachments.put(self.id.as_str(), &record).await?;
                deps.network.add(&record.intent).await
            })
            .await?;
        record.attachment = Some(attachment.clone());
        self.home.attachments.put(self.id.as_str(), &record).await?;
        Ok(attachment)
    }

    async fn start_pause(
        &self,
        image: Option<&LocalPauseImage>,
        netns: Option<PathBuf>,
        userns: Option<&Path>,
        sandbox_files: &SandboxFiles,
        labels: Option<&SelinuxLabels>,
    ) -> Result<Pause> {
        let deps = &self.home.deps;
        let program = self.program(image, labels).await?;
        let seccomp = files::seccomp_text(deps, &self.request.config.security.seccomp).await?;
        let pause_spec = spec::pause(&PauseInput {
            id: self.id,
            config: &self.request.config,
            program: match image {
                Some(image) => PauseProgram::Image {
                    name: &image.name,
                    defaults: &image.defaults,
                    user: program.user.as_ref(),
                },
                None => PauseProgram::Embedded,
            },
            netns: netns.as_deref(),
            userns,
            files: sandbox_files,
            seccomp_profile: seccomp.as_deref(),
            selinux: labels,
            options: &self.handler.spec,
            host: &deps.host.load(),
        })?;
        let spec_json = spec::encode_spec(&pause_spec)?;
        let containerd_record = self.containerd_record(&spec_json, image, netns)?;
        self.step(
            Step::Record,
            deps.containerd.containers.create(&containerd_record),
        )
        .await?;
        let pid = self
            .step(Step::Task, async {
                let request = TaskRequest {
                    id: self.id.to_string(),
                    rootfs: program.rootfs,
                    stdio: Stdio::default(),
                    options: None,
                };
                let tasks = &deps.containerd.tasks;
                let shim = self.operation.within("shim and create");
                let create = shim.place().hold(tasks.create(&request));
                let pid = self.operation.waiting(SHIM, create).await;
                let pid = pid.context(|| "create task".to_owned())?;
                drop(shim);
                let pidfd = PidFd::open(pid).ok();
                let runtime = self.operation.within("runtime start");
                let start = runtime.place().hold(tasks.start(self.id.as_str(), None));
                let started = self.operation.waiting(SHIM, start).await;
                started.context(|| "start task".to_owned())?;
                Ok((pid, pidfd))
            })
            .await?;
        Ok(Pause {
            pid: pid.0,
            pidfd: pid.1,
            spec: spec_json.into(),
        })
    }

    fn containerd_record(
        &self,
        spec_json: &str,
        image: Option<&LocalPauseImage>,
        netns: Option<PathBuf>,
    ) -> Result<ContainerRecord> {
        let mark = SandboxMark {
            created_at: self.created_at,
            fingerprint: self.steps_fingerprint(),
            handler: self.request.handler.clone(),
        };
        let metadata = record::SandboxMetadata {
            id: self.id,
            config: &self.request.config,
            record: &self.request.record,
            handler: &self.request.handler,
            netns: netns.as_deref(),
            attachment: None,
        };
        Ok(ContainerRecord {
            id: self.id.to_string(),
            labels: record::labels(&self.request.config.labels, record::KIND_SANDBOX),
            image: image.map(|image| image.name.clone()).unwrap_or_default(),
            snapshotter: image.map(|_| self.snapshotter()).unwrap_or_default(),
            snapshot_key: image.map(|_| self.id.to_string()).unwrap_or_default(),
            runtime: self.handler.settings.runtime_type.clone(),
            runtime_options: self.handler.options.clone(),
            spec: Some(Payload::new(Payload::SPEC, spec_json)),
            extensions: record::sandbox_extensions(&metadata, &mark)?,
            ..ContainerRecord::default()
        })
    }

    fn steps_fingerprint(&self) -> Digest {
        self.request.fingerprint()
    }

    fn view(
        &self,
        netns: Option<PathBuf>,
        image: Option<LocalPauseImage>,
        attachment: Option<&Attachment>,
        pause: &Pause,
    ) -> SandboxView {
        SandboxView {
            id: self.id.clone(),
            config: Arc::clone(&self.request.config),
            record: Arc::clone(&self.request.record),
            handler: self.request.handler.clone(),
            state: SandboxState::Ready,
            created_at: self.created_at,
            ips: attachment.map(record::ips).unwrap_or_default(),
            netns,
            pause_pid: Some(pause.pid),
            runtime_type: self.handler.settings.runtime_type.clone(),
            pause_image: image.map(|image| PauseImage {
                name: image.name,
                snapshotter: self.snapshotter(),
            }),
            spec: Arc::clone(&pause.spec),
            cni_result: record::cni_result(attachment).into(),
            updated: None,
            stuck: Vec::new(),
        }
    }

    async fn publish(
        &self,
        view: SandboxView,
        attachment: Option<Attachment>,
        pidfd: Option<PidFd>,
    ) -> Result<()> {
        self.operation.step("publish");
        gate("run_pod_sandbox", "publish", Edge::Before).await;
        {
            let mut steps = self.steps.lock().await;
            steps.complete = !self.request.is_part;
            self.home.records.put(self.id.as_str(), &steps).await?;
        }
        self.home.list(view, pidfd);
        if let Some(attachment) = attachment {
            let fingerprint = self.request.fingerprint();
            self.home
                .record_network(self.id.clone(), fingerprint, attachment);
        }
        gate("run_pod_sandbox", "publish", Edge::After).await;
        Ok(())
    }

    /// Records `step`, then does it.
    pub(super) async fn step<T>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        {
            let mut steps = self.steps.lock().await;
            steps.steps.push(step);
            self.home.records.put(self.id.as_str(), &steps).await?;
        }
        let within = self.operation.within(step.name());
        if step == Step::Record {
            self.operation.waits_on(Some("containerd".to_owned()));
        }
        gate("run_pod_sandbox", step.name(), Edge::Before).await;
        let done = within.place().hold(work).await.context(|| {
            format!(
                "sandbox {}: {}",
                self.request.config.identity.name,
                step.name()
            )
        })?;
        gate("run_pod_sandbox", step.name(), Edge::After).await;
        Ok(done)
    }
}

/// A running pause process.
struct Pause {
    pid: Pid,
    pidfd: Option<PidFd>,
    spec: Arc<str>,
}
