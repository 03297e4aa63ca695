//! The sandbox of the pod: found, made, made anew, gone.

use std::sync::Arc;

use super::Driver;
use crate::model::{Context as _, Result};
use crate::play::defaults::RestartPolicy;
use crate::play::observe::{Facts, blocking};
use crate::play::probes::Health;
use crate::play::start::{Sandbox, hosts_file};
use crate::play::view::Notes;
use crate::play::{pod, volumes};
use crate::wire::cri;

impl Driver {
    pub(super) async fn is_deleted(&self) -> Result<bool> {
        if self.sandbox.is_none() {
            return Ok(false);
        }
        let mark = self.ground.dirs.deleting(&self.ground.plan);
        blocking(move || Ok(volumes::is_deleted_blocking(&mark))).await
    }

    /// The pod's sandbox, made where there is none that is ready. None where the one we had has ended and the pod is
    /// never to be restarted.
    pub(super) async fn sandbox(&mut self) -> Result<Option<Sandbox>> {
        let ground = self.ground.clone();
        let (plan, cri) = (&ground.plan, &ground.cri);
        let found = cri.sandboxes(pod::identity(plan)).await?;
        let attempt_of = |item: &cri::PodSandbox| item.metadata.as_ref().map_or(0, |m| m.attempt);
        let ready = found
            .iter()
            .find(|item| item.state() == cri::PodSandboxState::SandboxReady);
        if let (Some(known), Some(ready)) = (&self.sandbox, ready)
            && known.id == ready.id
        {
            return Ok(Some(known.clone()));
        }
        if self.sandbox.is_some() && plan.restart == RestartPolicy::Never {
            return Ok(None);
        }
        let (shared, maps) = (Arc::clone(plan), Arc::clone(&ground.config_maps));
        let dirs = ground.dirs.clone();
        let mark = ground.dirs.deleting(plan);
        let (node_dns, node_hosts) = blocking(move || {
            crate::sys::files::remove_file_blocking(&mark)?;
            volumes::prepare_blocking(&shared, &maps, &dirs)?;
            let read = |path| std::fs::read_to_string(path).unwrap_or_default();
            Ok((read("/etc/resolv.conf"), read("/etc/hosts")))
        })
        .await?;
        let attempt = match (ready, found.first()) {
            (Some(ready), _) => attempt_of(ready),
            (None, Some(old)) => attempt_of(old).saturating_add(1),
            (None, None) => 0,
        };
        let parent = &self.setting.cgroup_parent;
        let config = pod::sandbox_config(plan, attempt, &ground.dirs, parent, &node_dns)?;
        let id = match ready {
            Some(ready) => ready.id.clone(),
            None => {
                for old in &found {
                    cri.stop_sandbox(&old.id).await?;
                    cri.remove_sandbox(&old.id).await?;
                }
                self.begin_anew();
                self.make_sandbox(config.clone()).await?
            }
        };
        let addresses = cri.addresses(&id).await?;
        let path = ground.dirs.hosts(plan);
        let hosts = hosts_file(plan, &addresses, &node_hosts);
        blocking(move || volumes::write_hosts_blocking(&path, &hosts)).await?;
        let made = Sandbox {
            id,
            addresses,
            config,
        };
        self.sandbox = Some(made.clone());
        Ok(Some(made))
    }

    async fn make_sandbox(&mut self, config: cri::PodSandboxConfig) -> Result<String> {
        let directory = config.log_directory.clone();
        blocking(move || crate::sys::files::make_dir_blocking(directory.as_ref(), 0o755)).await?;
        self.notes.pod = "making the sandbox".into();
        self.show()?;
        let _making = self.making.lock().await;
        let made = self.ground.cri.run_sandbox(config).await;
        made.context(|| "FailedCreatePodSandBox".into())
    }

    /// A new sandbox: what was known of the old one's containers no longer counts.
    fn begin_anew(&mut self) {
        self.sandbox = None;
        self.last = None;
        self.notes = Notes::default();
        self.facts = Facts::default();
        self.health = Health::default();
    }
}
