//! The answers of all plugins to one event as one.
//!
//! A key, destination, path or type with a dash before it removes the entry that earlier plugins or the request made; in
//! the merged answer removals stand beside what is set, and take effect first.

mod lists;
mod resources;

pub(super) use lists::removed;

use std::collections::BTreeMap;

use super::facts::{Eviction, Update, Wishes};
use super::limits;
use super::messages::api::{self, Field};
use super::owners::Owners;
use crate::model::{Context as _, Error, Result};

/// What plugins answered so far.
#[derive(Clone, Debug)]
pub(super) struct Merge {
    /// The container that the event is about.
    container: String,
    /// Who decided what.
    pub(super) owners: Owners,
    /// What to change of the container that is being made.
    pub(super) adjust: api::ContainerAdjustment,
    updates: BTreeMap<String, api::ContainerUpdate>,
    evictions: BTreeMap<String, String>,
}

impl Merge {
    /// Nothing yet, about `container`.
    pub(super) fn new(container: &str) -> Self {
        Self {
            container: container.to_owned(),
            owners: Owners::default(),
            adjust: api::ContainerAdjustment::default(),
            updates: BTreeMap::new(),
            evictions: BTreeMap::new(),
        }
    }

    /// Adds the answer of `plugin` to the making of the container.
    ///
    /// # Errors
    /// `FailedPrecondition` where another plugin set the same, or where the answer updates what is not made yet.
    pub(super) fn created(
        &mut self,
        plugin: &str,
        answer: api::CreateContainerResponse,
    ) -> Result<()> {
        if let Some(adjust) = answer.adjust {
            self.adjusted(plugin, adjust)?;
        }
        let own = |update: &api::ContainerUpdate| update.container_id == self.container;
        if answer.update.iter().any(own) {
            return Err(Error::precondition(format!(
                "NRI plugin {plugin:?} updates the container that is being made; it must adjust it"
            )));
        }
        self.updated(plugin, answer.update)?;
        self.evicted(plugin, answer.evict);
        Ok(())
    }

    /// Adds limits that `plugin` wants containers to have.
    ///
    /// # Errors
    /// `FailedPrecondition` where another plugin set the same.
    pub(super) fn updated(
        &mut self,
        plugin: &str,
        updates: Vec<api::ContainerUpdate>,
    ) -> Result<()> {
        for update in updates {
            let id = update.container_id.clone();
            let merged = self
                .updates
                .entry(id.clone())
                .or_insert_with(|| api::ContainerUpdate {
                    container_id: id.clone(),
                    linux: None,
                    ignore_failure: true,
                });
            merged.ignore_failure &= update.ignore_failure;
            let asked = update.linux.and_then(|linux| linux.resources);
            let into = merged.linux.get_or_insert_default();
            let into = into.resources.get_or_insert_default();
            if let Some(asked) = asked {
                resources::merge(&mut self.owners, &id, plugin, into, asked)?;
            }
        }
        Ok(())
    }

    /// Adds containers that `plugin` wants to end.
    pub(super) fn evicted(&mut self, plugin: &str, evictions: Vec<api::ContainerEviction>) {
        for eviction in evictions {
            let reason = format!("NRI plugin {plugin}: {}", eviction.reason);
            self.evictions
                .entry(eviction.container_id)
                .or_insert(reason);
        }
    }

    /// What was asked for the container itself, on top of `requested`, and what for others.
    pub(super) fn own_limits(&self) -> Option<api::LinuxResources> {
        let own = self.updates.get(&self.container)?;
        own.linux.as_ref()?.resources.clone()
    }

    /// The updates in the protocol's words.
    pub(super) fn update_messages(&self) -> Vec<api::ContainerUpdate> {
        self.updates.values().cloned().collect()
    }

    /// What is asked for beyond the container itself.
    ///
    /// # Errors
    /// `InvalidArgument` for limits that make no sense.
    pub(super) fn wishes(&self) -> Result<Wishes> {
        let others = self
            .updates
            .values()
            .filter(|update| update.container_id != self.container);
        let evictions = self.evictions.iter();
        Ok(Wishes {
            updates: others.map(asked_update).collect::<Result<_>>()?,
            evictions: evictions
                .map(|(container, reason)| Eviction {
                    container: container.clone(),
                    reason: reason.clone(),
                })
                .collect(),
        })
    }

    fn adjusted(&mut self, plugin: &str, adjust: api::ContainerAdjustment) -> Result<()> {
        self.annotations(plugin, adjust.annotations)?;
        self.mounts(plugin, adjust.mounts)?;
        self.env(plugin, adjust.env)?;
        self.args(plugin, adjust.args)?;
        if let Some(hooks) = adjust.hooks {
            self.hooks(plugin, hooks);
        }
        for rlimit in adjust.rlimits {
            let id = &self.container;
            self.owners
                .claim_entry(id, Field::Rlimits, &rlimit.r#type, plugin)?;
            self.adjust.rlimits.push(rlimit);
        }
        for device in adjust.cdi_devices {
            let id = &self.container;
            self.owners
                .claim_entry(id, Field::CdiDevices, &device.name, plugin)?;
            self.adjust.cdi_devices.push(device);
        }
        match adjust.linux {
            Some(linux) => self.linux(plugin, linux),
            None => Ok(()),
        }
    }

    fn linux(&mut self, plugin: &str, linux: api::LinuxContainerAdjustment) -> Result<()> {
        self.devices(plugin, linux.devices)?;
        self.namespaces(plugin, linux.namespaces)?;
        self.sysctls(plugin, linux.sysctl)?;
        self.net_devices(plugin, linux.net_devices)?;
        let (owners, id) = (&mut self.owners, self.container.as_str());
        let into = self.adjust.linux.get_or_insert_default();
        if let Some(asked) = linux.resources {
            let into = into.resources.get_or_insert_default();
            resources::merge(owners, id, plugin, into, asked)?;
        }
        if !linux.cgroups_path.is_empty() {
            owners.claim(id, Field::CgroupsPath, plugin)?;
            into.cgroups_path = linux.cgroups_path;
        }
        macro_rules! whole {
            ($($field:ident: $owned:ident),*) => {$(
                if let Some(asked) = linux.$field {
                    owners.claim(id, Field::$owned, plugin)?;
                    into.$field = Some(asked);
                }
            )*};
        }
        whole!(
            oom_score_adj: OomScoreAdj,
            io_priority: IoPriority,
            seccomp_policy: SeccompPolicy,
            scheduler: LinuxSched,
            memory_policy: MemoryPolicy
        );
        match linux.rdt {
            Some(rdt) => resources::merge_rdt(owners, id, plugin, &mut into.rdt, rdt),
            None => Ok(()),
        }
    }

    fn args(&mut self, plugin: &str, mut args: Vec<String>) -> Result<()> {
        if args.first().is_some_and(String::is_empty) {
            self.owners.release(&self.container, Field::Args);
            args.remove(0);
        }
        if args.is_empty() {
            return Ok(());
        }
        self.owners.claim(&self.container, Field::Args, plugin)?;
        self.adjust.args = args;
        Ok(())
    }

    fn hooks(&mut self, plugin: &str, hooks: api::Hooks) {
        let into = self.adjust.hooks.get_or_insert_default();
        let is_empty = hooks == api::Hooks::default();
        into.prestart.extend(hooks.prestart);
        into.create_runtime.extend(hooks.create_runtime);
        into.create_container.extend(hooks.create_container);
        into.start_container.extend(hooks.start_container);
        into.poststart.extend(hooks.poststart);
        into.poststop.extend(hooks.poststop);
        if !is_empty {
            self.owners.join(&self.container, Field::OciHooks, plugin);
        }
    }
}

/// Lays limits over limits, whoever asked for them.
pub(super) fn overlay(into: &mut api::LinuxResources, asked: api::LinuxResources) {
    let nobody = &mut Owners::default();
    // One owner of all never contradicts itself.
    drop(resources::merge(nobody, "", "", into, asked));
}

/// An update as a value of ours.
///
/// # Errors
/// `InvalidArgument` for limits that make no sense.
pub(super) fn asked_update(update: &api::ContainerUpdate) -> Result<Update> {
    let resources = update
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    let limits = limits::asked(resources.unwrap_or(&api::LinuxResources::default()))
        .context(|| format!("NRI: update of container {}", update.container_id))?;
    Ok(Update {
        container: update.container_id.clone(),
        limits,
        ignore_failure: update.ignore_failure,
    })
}

#[cfg(test)]
mod tests;
