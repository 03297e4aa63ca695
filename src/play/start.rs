//! Brings one container up: image, environment, mounts, create, start, `postStart`.

use std::sync::Arc;

use super::client::{Cri, Image};
use super::container::{Found, container_config, termination_mount};
use super::defaults::{ContainerPlan, Plan, PullPolicy};
use super::dirs::{Dirs, text};
use super::logs::newest_attempt_blocking;
use super::manifest::ConfigMaps;
use super::observe::blocking;
use super::{env, hooks, volumes};
use crate::model::{Error, Kind, Result};
use crate::wire::cri;

/// What all containers of a pod are made from.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) cri: Cri,
    pub(super) plan: Arc<Plan>,
    pub(super) config_maps: Arc<ConfigMaps>,
    pub(super) dirs: Dirs,
    pub(super) memory_total: i64,
}

/// The sandbox that containers are put into.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) addresses: Vec<String>,
    pub(super) config: cri::PodSandboxConfig,
}

/// A failure with Kubernetes' word for where it happened.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: &'static str,
    pub(super) error: Error,
}

fn refused(reason: &'static str) -> impl FnOnce(Error) -> Refused {
    move |error| Refused { reason, error }
}

fn image_refused(name: &str, error: Error) -> Refused {
    let reason = match error.kind() {
        Kind::InvalidArgument => "InvalidImageName",
        _ => "ErrImagePull",
    };
    refused(reason)(error.context(format!("image {name}")))
}

impl Ground {
    /// The container's image where it is here already and need not be pulled.
    ///
    /// # Errors
    /// `ErrImageNeverPull`, and what [`Self::pull`] fails with.
    pub(super) async fn present(
        &self,
        container: &ContainerPlan,
    ) -> Result<Option<Image>, Refused> {
        if container.pull == PullPolicy::Always {
            return Ok(None);
        }
        let name = &container.image;
        let found = self.cri.image(name).await;
        let found = found.map_err(|error| image_refused(name, error))?;
        if found.is_none() && container.pull == PullPolicy::Never {
            let text = format!("image {name} is not on this node and its pull policy is Never");
            return Err(refused("ErrImageNeverPull")(Error::not_found(text)));
        }
        Ok(found)
    }

    /// Pulls the container's image.
    ///
    /// # Errors
    /// `InvalidImageName`, `ErrImagePull`.
    pub(super) async fn pull(
        &self,
        container: &ContainerPlan,
        sandbox: &Sandbox,
    ) -> Result<Image, Refused> {
        let name = &container.image;
        let pulled = self.cri.pull(name, &sandbox.config).await;
        let found = match pulled {
            Ok(()) => self.cri.image(name).await,
            Err(error) => Err(error),
        };
        found
            .and_then(|found| found.ok_or_else(|| Error::not_found("pulled and yet not there")))
            .map_err(|error| image_refused(name, error))
    }

    /// The attempt to begin with, where the runtime knows none: the one after the newest that left a log, so that no
    /// log is written twice. As kubelet counts.
    ///
    /// # Errors
    /// `Internal` where the thread that looks is lost.
    pub(super) async fn first_attempt(&self, index: usize) -> Result<u32> {
        let directory = self.dirs.log_directory(&self.plan);
        let Some(container) = self.plan.containers.get(index) else {
            return Ok(0);
        };
        let name = container.spec.name.clone();
        let newest = blocking(move || Ok(newest_attempt_blocking(&directory, &name))).await?;
        Ok(newest.map_or(0, |newest| newest.saturating_add(1)))
    }

    /// Makes the container; its id.
    ///
    /// # Errors
    /// `CreateContainerConfigError`, `CreateContainerError`.
    pub(super) async fn create(
        &self,
        container: &ContainerPlan,
        image: &Image,
        sandbox: &Sandbox,
        attempt: u32,
    ) -> Result<String, Refused> {
        let config = self
            .config(container, image, sandbox, attempt)
            .await
            .map_err(refused("CreateContainerConfigError"))?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        self.cri
            .create(request)
            .await
            .map_err(refused("CreateContainerError"))
    }

    /// Starts the container and runs its `postStart` hook, whose failure stops it again.
    ///
    /// # Errors
    /// `RunContainerError`, `PostStartHookError`.
    pub(super) async fn start(&self, container: &ContainerPlan, id: &str) -> Result<(), Refused> {
        self.cri
            .start(id)
            .await
            .map_err(refused("RunContainerError"))?;
        if let Err(error) = hooks::post_start(&self.cri, id, container).await {
            let stopped = hooks::stop(&self.cri, id, Some(container), self.plan.grace_s).await;
            let error = match stopped {
                Ok(()) => error,
                Err(more) => error.context(format!("not even stopped ({more})")),
            };
            return Err(refused("PostStartHookError")(error));
        }
        Ok(())
    }

    async fn config(
        &self,
        container: &ContainerPlan,
        image: &Image,
        sandbox: &Sandbox,
        attempt: u32,
    ) -> Result<cri::ContainerConfig> {
        let plan = &self.plan;
        let variables = env::resolve(plan, container, &self.config_maps, &sandbox.addresses)?;
        let name = &container.spec.name;
        let message = self.dirs.termination_message(plan, name, attempt);
        let logs = self.dirs.log_directory(plan).join(name);
        let (shared_plan, shared_container) = (Arc::clone(plan), container.clone());
        let dirs = self.dirs.clone();
        let (mut mounts, variables) = blocking(move || {
            volumes::prepare_container_blocking(&message, &logs)?;
            let mounts =
                volumes::mounts_blocking(&shared_plan, &shared_container, &variables, &dirs)?;
            Ok((mounts, variables))
        })
        .await?;
        let mut own = vec![termination_mount(plan, container, attempt, &self.dirs)];
        own.push(cri::Mount {
            container_path: "/etc/hosts".into(),
            host_path: text(&self.dirs.hosts(plan)),
            ..Default::default()
        });
        let taken = |path: &str| mounts.iter().any(|mount| mount.container_path == path);
        own.retain(|mount| !taken(&mount.container_path));
        mounts.extend(own);
        let found = Found {
            attempt,
            image_ref: &image.id,
            user: &image.user,
            variables: &variables,
            mounts,
            memory_total: self.memory_total,
        };
        container_config(plan, container, found, &self.dirs)
    }
}

/// The pod's `/etc/hosts`; on the node's network it is the node's own, with what the manifest adds.
pub(super) fn hosts_file(plan: &Plan, addresses: &[String], node: &str) -> String {
    let mut out = if plan.spec.host_network == Some(true) {
        node.to_owned()
    } else {
        let mut own = String::from(
            "# Written by podwright play.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for address in addresses {
            own.push_str(&format!("{address}\t{}\n", super::pod::hostname(plan)));
        }
        own
    };
    for alias in plan.spec.host_aliases.iter().flatten() {
        let names: Vec<&str> = alias
            .hostnames
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        out.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::testing::plan;

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let plan = plan(
            "hostAliases: [{ip: 10.1.1.1, hostnames: [db, db.lan]}]\ncontainers: [{name: a, image: i}]",
        );

        let text = hosts_file(&plan, &["10.0.0.2".into()], "node's");

        assert!(text.contains("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.2\tweb\n10.1.1.1\tdb\tdb.lan\n"));
    }
}
