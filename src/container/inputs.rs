//! What a container's spec follows from: mounts, devices, profiles and users, looked up on the host before the pure
//! builder runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::Spec;

use crate::containerd::RootfsMount;
use crate::index::SandboxView;
use crate::model::container::{Device, Mount, Propagation};
use crate::model::host_facts::{DeviceNode, SourcePropagation};
use crate::model::security::NamespaceMode;
use crate::model::{ContainerConfig, ContainerId, Context, Error, Pid, PodConfig, Result};
use crate::sandbox::{RuntimeHandler, sandbox_files, seccomp_text};
use crate::spec::{self, Accounts, ContainerInput, ProcessUser, ResolvedDevice, ResolvedMount};
use crate::sys;

use super::Containers;
use super::images::LocalImage;
use super::volumes::Rootfs;

/// How long a path that the caller chose may take to answer.
const PATH_LIMIT: Duration = Duration::from_secs(30);

/// A spec and the user in it.
pub(super) struct Built {
    pub(super) spec: Spec,
    pub(super) user: ProcessUser,
}

impl Containers {
    /// Looks everything up and builds the spec.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one input of the spec, and all come from different places"
    )]
    pub(super) async fn build_spec(
        &self,
        id: &ContainerId,
        config: &ContainerConfig,
        pod: &PodConfig,
        sandbox: &SandboxView,
        handler: &RuntimeHandler,
        image: &LocalImage,
        rootfs: &Rootfs,
    ) -> Result<Built> {
        let host = self.deps.host.load_full();
        let filled = self.with_node_defaults(config)?;
        let config = &*filled;
        for mount in &config.mounts {
            spec::check_mount(mount, &handler.spec, &host)?;
        }
        let not_ready = || {
            Error::precondition(format!(
                "sandbox {}: its pause process has ended",
                sandbox.id.short()
            ))
        };
        let sandbox_pid = sandbox.pause_pid.ok_or_else(not_ready)?;
        let target_pid = self.target_pid(config, sandbox)?;
        let mut user = self.process_user(config, image, &rootfs.mounts).await?;
        let mounts = self.resolve_mounts(sandbox, config, rootfs).await?;
        let labels = self.sandboxes.label_container(
            (&sandbox.id, &sandbox.config),
            id.as_str(),
            config.security.selinux.as_ref(),
            handler,
        )?;
        if let Some(labels) = &labels {
            self.relabel(sandbox, &mounts, &rootfs.volumes, &labels.mount)
                .await?;
        }
        let devices = self.resolve_devices(sandbox, &config.devices).await?;
        let host_devices = match config.security.privileged {
            true => sys::off_thread("list the host's devices", sys::devices::all_blocking).await?,
            false => Vec::new(),
        };
        let classes = self.classes(config, pod).await?;
        let seccomp_profile = seccomp_text(&self.deps, &config.security.seccomp).await?;
        let mut spec = spec::container(&ContainerInput {
            id,
            config,
            image_name: &image.record,
            image: &image.defaults,
            user: &user,
            pod,
            sandbox_id: &sandbox.id,
            sandbox_pid,
            target_pid,
            files: &sandbox_files(&self.deps, &sandbox.id, &sandbox.config),
            mounts: &mounts,
            volumes: &rootfs.volumes,
            devices: &devices,
            host_devices: &host_devices,
            seccomp_profile: seccomp_profile.as_deref(),
            apparmor_loaded: &self.loaded_apparmor(config).await?,
            selinux: labels.as_ref(),
            classes: &classes,
            options: &handler.spec,
            host: &host,
        })?;
        self.inject(&mut spec, config, pod, &sandbox.id).await?;
        if let Some(process) = spec.process() {
            let groups = process.user().additional_gids();
            user.additional_gids = groups.clone().unwrap_or_default();
        }
        Ok(Built { spec, user })
    }

    /// Init process of the container whose PID namespace is joined; it must run in the same sandbox.
    pub(super) fn target_pid(
        &self,
        config: &ContainerConfig,
        sandbox: &SandboxView,
    ) -> Result<Option<Pid>> {
        let namespaces = &config.security.namespaces;
        if namespaces.pid != NamespaceMode::Target {
            return Ok(None);
        }
        let missing = || {
            Error::invalid(format!(
                "target container {:?}: not found",
                namespaces.target_id
            ))
        };
        let target = self.find(&namespaces.target_id)?.ok_or_else(missing)?;
        if target.sandbox != sandbox.id {
            return Err(Error::invalid(format!(
                "target container {}: in another sandbox",
                target.id.short()
            )));
        }
        let stopped = || {
            Error::precondition(format!(
                "target container {}: not running",
                target.id.short()
            ))
        };
        target
            .pid
            .filter(|_| target.is_running())
            .ok_or_else(stopped)
            .map(Some)
    }

    async fn process_user(
        &self,
        config: &ContainerConfig,
        image: &LocalImage,
        rootfs: &[RootfsMount],
    ) -> Result<ProcessUser> {
        let layers = rootfs.last().and_then(|mount| {
            sys::rootfs::Layers::of_mount(&mount.kind, &mount.source, &mount.options)
        });
        let read = match layers {
            Some(layers) => {
                let read = move || {
                    layers.read_blocking(&["etc/passwd", "etc/group"], spec::MAX_ACCOUNT_FILE_BYTES)
                };
                sys::off_thread("read the image's users", read)
                    .await
                    .context(|| "users of the image".to_owned())?
            }
            None => Vec::new(),
        };
        let text = |at: usize| {
            String::from_utf8_lossy(read.get(at).and_then(Option::as_deref).unwrap_or_default())
        };
        let (passwd, group) = (text(0), text(1));
        spec::resolve_user(
            &config.security,
            &image.defaults.user,
            Accounts {
                passwd: &passwd,
                group: &group,
            },
        )
    }

    /// Resolves the sources of all mounts, on threads of the pod's own: any of them may be a file system that hangs.
    async fn resolve_mounts(
        &self,
        sandbox: &SandboxView,
        config: &ContainerConfig,
        rootfs: &Rootfs,
    ) -> Result<Vec<ResolvedMount>> {
        let mut images = rootfs.images.iter();
        let mut resolved = Vec::with_capacity(config.mounts.len());
        for mount in &config.mounts {
            let asked = mount.clone();
            if mount.image.is_some() {
                let missing = || Error::internal("an image volume was not mounted");
                resolved.push(ResolvedMount {
                    asked,
                    source: images.next().ok_or_else(missing)?.clone(),
                    propagation: SourcePropagation::Private,
                });
                continue;
            }
            let what = format!("look up mount source {:?}", mount.host_path);
            let work = move || resolve_mount_blocking(asked);
            resolved.push(
                self.deps
                    .paths
                    .run(sandbox.id.as_str(), what, PATH_LIMIT, work)
                    .await?,
            );
        }
        Ok(resolved)
    }

    async fn resolve_devices(
        &self,
        sandbox: &SandboxView,
        devices: &[Device],
    ) -> Result<Vec<ResolvedDevice>> {
        let mut resolved = Vec::with_capacity(devices.len());
        for device in devices {
            let asked = device.clone();
            let what = format!("look up device {:?}", device.host_path);
            let work = move || resolve_device_blocking(asked);
            resolved.push(
                self.deps
                    .paths
                    .run(sandbox.id.as_str(), what, PATH_LIMIT, work)
                    .await?,
            );
        }
        Ok(resolved)
    }
}

fn resolve_mount_blocking(asked: Mount) -> Result<ResolvedMount> {
    let wants_peers = asked.propagation != Propagation::Private;
    let (source, propagation) =
        sys::host_facts::mount_source_blocking(Path::new(&asked.host_path), wants_peers)?;
    Ok(ResolvedMount {
        asked,
        source,
        propagation,
    })
}

fn resolve_device_blocking(asked: Device) -> Result<ResolvedDevice> {
    let nodes: Vec<(PathBuf, DeviceNode)> = sys::devices::at_blocking(Path::new(&asked.host_path))?;
    Ok(ResolvedDevice { asked, nodes })
}
