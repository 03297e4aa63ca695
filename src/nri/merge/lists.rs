//! Lists and maps whose entries have an owner each.

use std::collections::BTreeMap;

use super::Merge;
use crate::model::Result;
use crate::nri::messages::api::{self, Field};

/// The name of a removed entry; `None` where `key` sets one.
pub(in crate::nri) fn removed(key: &str) -> Option<&str> {
    key.strip_prefix('-').filter(|name| !name.is_empty())
}

/// The mark that removes `name`.
fn mark(name: &str) -> String {
    format!("-{name}")
}

impl Merge {
    /// Frees the entry `name` of `field`: what earlier plugins set there counts no more.
    fn release(&mut self, field: Field, name: &str) {
        self.owners.release_entry(&self.container, field, name);
    }

    fn claim(&mut self, field: Field, name: &str, plugin: &str) -> Result<()> {
        self.owners
            .claim_entry(&self.container, field, name, plugin)
    }

    /// Takes a map in; answers it with removals first.
    fn map<V: Default>(
        &mut self,
        field: Field,
        plugin: &str,
        asked: BTreeMap<String, V>,
        into: impl Fn(&mut api::ContainerAdjustment) -> &mut BTreeMap<String, V>,
    ) -> Result<()> {
        let (removals, set): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|(key, _)| removed(key).is_some());
        for (key, _) in removals {
            let name = removed(&key).unwrap_or_default().to_owned();
            self.release(field, &name);
            let all = into(&mut self.adjust);
            all.remove(&name);
            all.insert(key, V::default());
        }
        for (key, value) in set {
            self.claim(field, &key, plugin)?;
            into(&mut self.adjust).insert(key, value);
        }
        Ok(())
    }

    /// Takes a list in whose entries have names.
    fn list<V: Clone>(
        &mut self,
        field: Field,
        plugin: &str,
        asked: Vec<V>,
        name: impl Fn(&V) -> &str,
        into: impl Fn(&mut api::ContainerAdjustment) -> &mut Vec<V>,
    ) -> Result<()> {
        let (removals, set): (Vec<V>, Vec<V>) = asked
            .into_iter()
            .partition(|entry| removed(name(entry)).is_some());
        for entry in removals {
            let gone = removed(name(&entry)).unwrap_or_default().to_owned();
            self.release(field, &gone);
            let all = into(&mut self.adjust);
            all.retain(|other| name(other) != gone && name(other) != mark(&gone));
            all.push(entry);
        }
        for entry in set {
            let key = name(&entry).to_owned();
            self.claim(field, &key, plugin)?;
            let all = into(&mut self.adjust);
            all.retain(|other| name(other) != key);
            all.push(entry);
        }
        Ok(())
    }

    pub(super) fn annotations(
        &mut self,
        plugin: &str,
        asked: BTreeMap<String, String>,
    ) -> Result<()> {
        self.map(Field::Annotations, plugin, asked, |adjust| {
            &mut adjust.annotations
        })
    }

    pub(super) fn sysctls(&mut self, plugin: &str, asked: BTreeMap<String, String>) -> Result<()> {
        self.map(Field::Sysctl, plugin, asked, |adjust| {
            &mut adjust.linux.get_or_insert_default().sysctl
        })
    }

    pub(super) fn net_devices(
        &mut self,
        plugin: &str,
        asked: BTreeMap<String, api::LinuxNetDevice>,
    ) -> Result<()> {
        self.map(Field::LinuxNetDevices, plugin, asked, |adjust| {
            &mut adjust.linux.get_or_insert_default().net_devices
        })
    }

    pub(super) fn mounts(&mut self, plugin: &str, asked: Vec<api::Mount>) -> Result<()> {
        self.list(
            Field::Mounts,
            plugin,
            asked,
            |mount| &mount.destination,
            |adjust| &mut adjust.mounts,
        )
    }

    pub(super) fn env(&mut self, plugin: &str, asked: Vec<api::KeyValue>) -> Result<()> {
        self.list(
            Field::Env,
            plugin,
            asked,
            |variable| &variable.key,
            |adjust| &mut adjust.env,
        )
    }

    pub(super) fn devices(&mut self, plugin: &str, asked: Vec<api::LinuxDevice>) -> Result<()> {
        self.list(
            Field::Devices,
            plugin,
            asked,
            |device| &device.path,
            |adjust| &mut adjust.linux.get_or_insert_default().devices,
        )
    }

    /// Namespaces: a removal is a decision like any other, and frees nothing.
    pub(super) fn namespaces(
        &mut self,
        plugin: &str,
        asked: Vec<api::LinuxNamespace>,
    ) -> Result<()> {
        for namespace in asked {
            let key = removed(&namespace.r#type).unwrap_or(&namespace.r#type);
            let key = key.to_owned();
            self.claim(Field::Namespace, &key, plugin)?;
            let all = &mut self.adjust.linux.get_or_insert_default().namespaces;
            all.retain(|other| removed(&other.r#type).unwrap_or(&other.r#type) != key);
            all.push(namespace);
        }
        Ok(())
    }
}
