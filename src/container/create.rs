//! CreateContainer: image from the index, snapshot prepare, spec, containerd record. Two containerd calls.

use std::path::PathBuf;
use std::sync::Arc;

use crate::containerd::{ContainerRecord, Payload, RootfsMount, SnapshotRequest};
use crate::index::{ContainerImage, ContainerUser, ContainerView, SandboxView};
use crate::model::state::{ContainerState, SandboxState};
use crate::model::{
    ContainerConfig, ContainerId, Context, Digest, Error, PodConfig, Result, SandboxId, Signal,
    Timestamp,
};
use crate::nri::Event;
use crate::ops::{Edge, Operation, gate};
use crate::sandbox::snapshots::mapping_labels;
use crate::sandbox::{RuntimeHandler, record as pod_record};
use crate::spec::{self, UserMapping};

use super::images::LocalImage;
use super::plugins::{Announced, encoded};
use super::record::{self, ContainerMark};
use super::restore::{Checkpoint, Origin, RestoreChanges, ensure_restorable, name_in};
use super::steps::{Step, StepRecord};
use super::volumes::Rootfs;
use super::{ContainerKey, Containers, image_volumes, snapshots, userns};

/// A CreateContainer request.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    /// Sandbox as the caller names it.
    pub sandbox: String,
    /// The configuration, typed and checked.
    pub config: Arc<ContainerConfig>,
    /// The same as opaque record text.
    pub record: Arc<str>,
    /// The pod's configuration as this request has it: the authority on hostname, cgroup parent and log directory.
    pub pod: Arc<PodConfig>,
    /// The checkpoint's archive that it goes on from, where that is not what the configuration names as its image.
    pub archive: Option<PathBuf>,
}

impl CreateRequest {
    fn fingerprint(&self, sandbox: &SandboxId) -> Digest {
        let mut text = format!("{sandbox}\n{}", self.record);
        if let Some(archive) = &self.archive {
            text.push_str(&format!("\n{}", archive.display()));
        }
        Digest::sha256(text.as_bytes())
    }
}

impl Containers {
    /// Makes a container, or joins the equal request that is making it. Runs on when the caller leaves; the result is
    /// then parked: not listed until a retry asks for it.
    ///
    /// # Errors
    /// `NotFound` without the sandbox or the image, `FailedPrecondition` where the sandbox is not ready,
    /// `AlreadyExists` where the attempt exists already, and whatever a step failed with.
    pub async fn create(&self, request: CreateRequest) -> Result<ContainerId> {
        let missing = || Error::not_found(format!("sandbox {:?}: not found", request.sandbox));
        let pod = self
            .deps
            .index
            .snapshot()
            .find_sandbox(&request.sandbox)?
            .cloned()
            .ok_or_else(missing)?;
        let key = ContainerKey {
            sandbox: pod.sandbox.id.clone(),
            identity: request.config.identity.clone(),
        };
        let fingerprint = request.fingerprint(&pod.sandbox.id);
        let (this, digest, making_key) = (self.clone(), fingerprint.clone(), key.clone());
        let name = key.to_string();
        let id = self
            .flights
            .join(
                &self.deps.supervisor,
                "CreateContainer",
                key,
                fingerprint,
                move || this.make(making_key, request, digest),
            )
            .await?;
        // Nothing waits between the join and this, so the reply is on its way to a caller.
        self.unpark(&id);
        // One that was made for an earlier caller may have run since: it is nothing to hand out as new.
        match self.deps.index.snapshot().container(&id) {
            Some(view) if view.state == ContainerState::Created => Ok(id),
            _ => Err(Error::already_exists(format!(
                "{name} exists already as {id}, which is not new any more"
            ))),
        }
    }

    fn unpark(&self, id: &ContainerId) {
        let shown = self.deps.index.update_container(id, |view| {
            view.parked = false;
            Ok(())
        });
        if let Err(error) = shown {
            tracing::debug!(container.id = %id, %error, "a created container was gone before its reply");
        }
    }

    async fn make(
        self,
        key: ContainerKey,
        request: CreateRequest,
        fingerprint: Digest,
    ) -> Result<ContainerId> {
        let id = ContainerId::generate()?;
        let sandbox_id = key.sandbox.clone();
        let operation = self.deps.live.begin_for(
            sandbox_id.as_str(),
            "CreateContainer",
            format!("{} {}", key.identity.name, id.short()),
        );
        let missing = || Error::not_found(format!("sandbox {}: not found", sandbox_id.short()));
        let site = self.sandboxes.site(&sandbox_id).ok_or_else(missing)?;
        let lock = site.lock.read();
        let _pod_stays = operation.waiting("the pod's lock", lock).await;
        if site.stopping.is_cancelled() {
            return Err(Error::precondition(format!(
                "sandbox {} was stopped and takes no more containers",
                sandbox_id.short()
            )));
        }
        let created_at = self.deps.stamps.next(&*self.deps.clock);
        let making = Making {
            home: &self,
            id: &id,
            key: &key,
            request: &request,
            fingerprint,
            operation,
            created_at,
            announced: Announced::default(),
        };
        let ceiling = self.deps.settings().operations.ceiling;
        let run = self
            .deps
            .supervisor
            .survive("CreateContainer", making.run());
        let run = making.operation.place().hold(run);
        let made = tokio::select! {
            made = tokio::time::timeout(ceiling, run) => {
                made.unwrap_or_else(|_elapsed| Err(Error::timed_out("CreateContainer", ceiling)))
            }
            () = site.stopping.cancelled() => Err(Error::cancelled(format!("sandbox {} is being stopped", sandbox_id.short()))),
        };
        let Err(failed) = made else {
            self.expire_if_parked(id.clone());
            return Ok(id);
        };
        making.operation.failed(&failed.chain());
        let unwind = making.operation.step("unwind");
        self.deps.index.remove_container(&id);
        self.forget(&id);
        self.retract(&making.announced).await;
        let left = unwind.hold(self.take_back(&id, &Step::ALL)).await;
        let is_clean = matches!(&left, Ok(left) if left.is_empty());
        self.note_left(&id, !is_clean);
        match is_clean {
            true => Err(failed),
            false => Err(failed.context(
                "the failed container could not be taken back whole; the janitor retries it",
            )),
        }
    }

    /// Removes a container whose creation nobody ever asked for again.
    fn expire_if_parked(&self, id: ContainerId) {
        let (this, time) = (self.clone(), self.deps.settings().operations.park_time);
        let stop = self.deps.supervisor.stopping().clone();
        self.deps.supervisor.watch("parked container", async move {
            if stop.run_until_cancelled(tokio::time::sleep(time)).await.is_none() {
                return;
            }
            if this.deps.index.snapshot().container(&id).is_some_and(|view| view.parked) {
                tracing::info!(container.id = %id, "nobody asked for the created container; it is removed");
                if let Err(error) = this.remove(id.as_str()).await {
                    tracing::warn!(container.id = %id, %error, "a parked container could not be removed");
                }
            }
        });
    }
}

/// A container being made.
struct Making<'a> {
    home: &'a Containers,
    id: &'a ContainerId,
    key: &'a ContainerKey,
    request: &'a CreateRequest,
    fingerprint: Digest,
    operation: Operation,
    created_at: Timestamp,
    announced: Announced,
}

impl Making<'_> {
    async fn run(&self) -> Result<()> {
        let deps = &self.home.deps;
        let pod = deps.index.snapshot().pod(&self.key.sandbox).cloned();
        let pod = pod
            .filter(|pod| pod.sandbox.state == SandboxState::Ready)
            .ok_or_else(|| {
                Error::precondition(format!(
                    "sandbox {}: not ready, no container can be created in it",
                    self.key.sandbox.short()
                ))
            })?;
        if self.request.config.security.privileged && !pod.sandbox.config.security.privileged {
            return Err(Error::invalid(
                "privileged container: its sandbox is not privileged",
            ));
        }
        let mapping = spec::shared_user_mapping(
            &self.request.config.security.namespaces,
            &pod.sandbox.config.security.namespaces,
        )?;
        let handler = deps.handlers.get(&pod.sandbox.handler)?;
        let Origin { image, checkpoint } = self
            .home
            .origin(self.request, self.key.sandbox.as_str())
            .await?;
        if checkpoint.is_some() {
            ensure_restorable(&handler, mapping)?;
        }
        let volume_images = self.home.volume_images(&self.request.config)?;
        self.record_begin(&handler).await?;
        let mut rootfs = self
            .step(Step::Snapshot, self.prepare(&handler, &image, mapping))
            .await?;
        let restored_from = checkpoint.as_ref().map(|found| found.from.clone());
        if let Some(checkpoint) = checkpoint {
            self.restore(checkpoint, &rootfs).await?;
        }
        rootfs.images = self
            .mount_images(&pod.sandbox, &handler, &volume_images)
            .await?;
        self.operation.step("spec");
        let mut built = self
            .home
            .build_spec(
                self.id,
                &self.request.config,
                &self.request.pod,
                &pod.sandbox,
                &handler,
                &image,
                &rootfs,
            )
            .await?;
        if restored_from.is_some() {
            name_in(&mut built.spec, deps, self.id);
        }
        let mut view = self.view(&handler, &image, &built, encoded(&built.spec)?)?;
        view.restored_from = restored_from;
        view.volume_images = volume_images.iter().map(ContainerImage::from).collect();
        view.project = rootfs.project;
        let until_published = deps.nri.enter();
        let consulting = self
            .home
            .consult(view, &built.spec, &self.announced, &until_published);
        let view = self.operation.step("plugins").hold(consulting).await?;
        let record = ContainerRecord {
            runtime_options: userns::shim_options(&handler, &view.user, mapping)?,
            ..self.containerd_record(&view, &handler, &image, &view.spec)?
        };
        self.step(Step::Record, deps.containerd.containers.create(&record))
            .await?;
        self.finish(view).await
    }

    async fn record_begin(&self, handler: &RuntimeHandler) -> Result<()> {
        let record = StepRecord {
            sandbox: self.key.sandbox.to_string(),
            fingerprint: self.fingerprint.clone(),
            created_at: self.created_at,
            snapshotter: handler.settings.snapshotter.clone(),
            steps: Vec::new(),
            complete: false,
        };
        self.home.records.put(self.id.as_str(), &record).await
    }

    /// The root file system: the writable snapshot and the volumes over it. The label keeps garbage collection away from
    /// the snapshot until the record refers to it.
    async fn prepare(
        &self,
        handler: &RuntimeHandler,
        image: &LocalImage,
        mapping: Option<UserMapping>,
    ) -> Result<Rootfs> {
        let mounts = self.prepare_snapshot(handler, image, mapping).await?;
        // Before anything is written there, so that nothing escapes the count.
        let project = self.home.begin_project(&mounts, mapping.is_some()).await;
        let volumes = self
            .home
            .make_volumes(
                self.id,
                self.key.sandbox.as_str(),
                &self.request.config,
                &image.defaults.volumes,
                &mounts,
            )
            .await?;
        Ok(Rootfs {
            mounts,
            project,
            volumes,
            images: Vec::new(),
        })
    }

    async fn restore(&self, checkpoint: Checkpoint, rootfs: &Rootfs) -> Result<()> {
        let over = RestoreChanges {
            id: self.id,
            pod: self.key.sandbox.as_str(),
            mounts: &rootfs.mounts,
            operation: &self.operation,
        };
        let work = self.home.lay_out(checkpoint, over);
        self.step(Step::Restore, work).await
    }

    async fn mount_images(
        &self,
        sandbox: &SandboxView,
        handler: &RuntimeHandler,
        images: &[LocalImage],
    ) -> Result<Vec<PathBuf>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let snapshotter = &handler.settings.snapshotter;
        let config = &self.request.config;
        let labels = self.home.sandboxes.label_container(
            (&sandbox.id, &sandbox.config),
            self.id.as_str(),
            config.security.selinux.as_ref(),
            handler,
        )?;
        let label = labels.as_ref().map(|labels| labels.mount.as_str());
        let pod = (self.key.sandbox.as_str(), label);
        let work = self
            .home
            .mount_images(self.id, pod, config, images, snapshotter);
        let mounted = self.step(Step::Images, work).await;
        mounted.context(|| image_volumes::FAILED.to_owned())
    }

    async fn prepare_snapshot(
        &self,
        handler: &RuntimeHandler,
        image: &LocalImage,
        mapping: Option<UserMapping>,
    ) -> Result<Vec<RootfsMount>> {
        let snapshots = &self.home.deps.containerd.snapshots;
        let mut labels = snapshots::labels(self.created_at);
        labels.extend(mapping.into_iter().flat_map(mapping_labels));
        let request = SnapshotRequest {
            snapshotter: handler.settings.snapshotter.clone(),
            key: self.id.to_string(),
            parent: image.chain_id.clone(),
            labels,
            lease: None,
        };
        match snapshots.prepare(&request).await {
            Err(error) if error.is_not_found() => {
                let within = self.operation.within("unpack");
                self.operation
                    .waits_on(Some(format!("unpacking of image {}", image.id)));
                let unpack = self
                    .home
                    .images
                    .unpack(image, &handler.settings.snapshotter);
                within.place().hold(unpack).await?;
                snapshots.prepare(&request).await
            }
            prepared => prepared,
        }
    }

    fn view(
        &self,
        handler: &RuntimeHandler,
        image: &LocalImage,
        built: &super::inputs::Built,
        spec_json: Arc<str>,
    ) -> Result<ContainerView> {
        let config = &self.request.config;
        Ok(ContainerView {
            id: self.id.clone(),
            sandbox: self.key.sandbox.clone(),
            config: Arc::clone(config),
            record: Arc::clone(&self.request.record),
            state: ContainerState::Created,
            created_at: self.created_at,
            started_at: None,
            ended: None,
            pid: None,
            image: ContainerImage {
                name: image.tag.clone().unwrap_or_else(|| config.image.clone()),
                ..image.into()
            },
            volume_images: Vec::new(),
            project: None,
            restored_from: None,
            log_path: super::log::path(&self.request.pod.log_directory, &config.log_path),
            resources: spec::effective_resources(&built.spec),
            user: ContainerUser {
                uid: built.user.uid,
                gid: built.user.gid,
                groups: built.user.additional_gids.clone(),
            },
            stop_signal: self.asked_signal(image).unwrap_or(Signal::TERM),
            runtime_type: handler.settings.runtime_type.clone(),
            snapshotter: handler.settings.snapshotter.clone(),
            spec: spec_json,
            parked: true,
            oom_killed: false,
        })
    }

    /// The stop signal that the request or the image asks for.
    fn asked_signal(&self, image: &LocalImage) -> Option<Signal> {
        let of_image = || image.defaults.stop_signal.as_ref()?.parse().ok();
        self.request.config.stop_signal.or_else(of_image)
    }

    fn containerd_record(
        &self,
        view: &ContainerView,
        handler: &RuntimeHandler,
        image: &LocalImage,
        spec_json: &str,
    ) -> Result<ContainerRecord> {
        let mark = ContainerMark {
            created_at: self.created_at,
            fingerprint: self.fingerprint.clone(),
            image: view.image.clone(),
            user: view.user.clone(),
            volume_images: view.volume_images.clone(),
            project: view.project.clone(),
            restored_from: view.restored_from.clone(),
        };
        let reserved = self.key.identity.reserved_name(&self.request.pod.identity);
        Ok(ContainerRecord {
            id: self.id.to_string(),
            labels: pod_record::labels(&self.request.config.labels, pod_record::KIND_CONTAINER),
            image: image.record.clone(),
            runtime: handler.settings.runtime_type.clone(),
            spec: Some(Payload::new(Payload::SPEC, spec_json)),
            snapshotter: handler.settings.snapshotter.clone(),
            snapshot_key: self.id.to_string(),
            extensions: record::extensions(view, &reserved, self.asked_signal(image), &mark)?,
            ..ContainerRecord::default()
        })
    }

    /// Publishes the container, parked until its reply is on the way.
    async fn finish(&self, view: ContainerView) -> Result<()> {
        self.operation.step("publish");
        gate("create_container", "publish", Edge::Before).await;
        let missing = || Error::internal("the container's steps are not recorded");
        let mut record = self
            .home
            .records
            .get(self.id.as_str())
            .await?
            .ok_or_else(missing)?;
        record.complete = true;
        self.home.records.put(self.id.as_str(), &record).await?;
        drop(self.home.place(self.id));
        self.home.deps.index.insert_container(view)?;
        let home = self.home;
        home.tell(Event::PostCreateContainer, self.id).await;
        gate("create_container", "publish", Edge::After).await;
        Ok(())
    }

    async fn step<T>(&self, step: Step, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.home.begin(self.id, step).await?;
        let within = self.operation.within(step.name());
        if step == Step::Record {
            self.operation.waits_on(Some("containerd".to_owned()));
        }
        gate("create_container", step.name(), Edge::Before).await;
        let done = within
            .place()
            .hold(work)
            .await
            .context(|| format!("container {}: {}", self.key.identity.name, step.name()))?;
        gate("create_container", step.name(), Edge::After).await;
        Ok(done)
    }
}
