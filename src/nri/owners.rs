//! Who decided what: the first plugin that sets something owns it, a second one that sets it is in conflict.

use std::collections::BTreeMap;

use super::messages::api::{self, Field};
use crate::model::{Error, Result};

/// The decisions about all containers that one event led to.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(api::OwningPlugins);

impl Owners {
    /// As the protocol has them.
    pub(super) fn message(&self) -> api::OwningPlugins {
        self.0.clone()
    }

    /// Who set `field` of `container` as a whole.
    pub(super) fn simple(&self, container: &str, field: Field) -> Option<&str> {
        let owners = self.0.owners.get(container)?;
        owners.simple.get(&i32::from(field)).map(String::as_str)
    }

    /// Who set the entries of `field`, by entry.
    pub(super) fn entries(
        &self,
        container: &str,
        field: Field,
    ) -> Option<&BTreeMap<String, String>> {
        let owners = self.0.owners.get(container)?;
        owners
            .compound
            .get(&i32::from(field))
            .map(|entries| &entries.owners)
    }

    /// `plugin` sets `field` of `container`.
    ///
    /// # Errors
    /// `FailedPrecondition` naming both plugins and the field.
    pub(super) fn claim(&mut self, container: &str, field: Field, plugin: &str) -> Result<()> {
        let owners = self.0.owners.entry(container.to_owned()).or_default();
        take(&mut owners.simple, i32::from(field), plugin)
            .map_err(|owner| conflict(container, field, "", &owner, plugin))
    }

    /// `plugin` sets the entry `key` of `field`.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub(super) fn claim_entry(
        &mut self,
        container: &str,
        field: Field,
        key: &str,
        plugin: &str,
    ) -> Result<()> {
        let owners = self.0.owners.entry(container.to_owned()).or_default();
        let entries = owners.compound.entry(i32::from(field)).or_default();
        take(&mut entries.owners, key.to_owned(), plugin)
            .map_err(|owner| conflict(container, field, key, &owner, plugin))
    }

    /// `plugin` adds to `field`, as others may.
    pub(super) fn join(&mut self, container: &str, field: Field, plugin: &str) {
        let owners = self.0.owners.entry(container.to_owned()).or_default();
        let names = owners.simple.entry(i32::from(field)).or_default();
        if !names.split(',').any(|name| name == plugin) {
            if !names.is_empty() {
                names.push(',');
            }
            names.push_str(plugin);
        }
    }

    /// Nobody owns `field` any more.
    pub(super) fn release(&mut self, container: &str, field: Field) {
        if let Some(owners) = self.0.owners.get_mut(container) {
            owners.simple.remove(&i32::from(field));
        }
    }

    /// Nobody owns the entry `key` of `field` any more.
    pub(super) fn release_entry(&mut self, container: &str, field: Field, key: &str) {
        let owners = self.0.owners.get_mut(container);
        if let Some(entries) = owners.and_then(|owners| owners.compound.get_mut(&i32::from(field)))
        {
            entries.owners.remove(key);
        }
    }
}

/// Enters `plugin` under `key`, or answers who stands there. What one plugin sets twice is its own affair.
fn take<K: Ord>(owners: &mut BTreeMap<K, String>, key: K, plugin: &str) -> Result<(), String> {
    let owner = owners.entry(key).or_insert_with(|| plugin.to_owned());
    if owner == plugin {
        Ok(())
    } else {
        Err(owner.clone())
    }
}

fn conflict(container: &str, field: Field, key: &str, owner: &str, plugin: &str) -> Error {
    let name = field.as_str_name().trim_start_matches("FIELD_");
    let name = name.to_ascii_lowercase().replace('_', " ");
    let entry = if key.is_empty() {
        name
    } else {
        format!("{name} {key:?}")
    };
    Error::precondition(format!(
        "NRI plugins {owner:?} and {plugin:?} both set {entry} of container {}; remove one of them",
        container.get(..13).unwrap_or(container)
    ))
}
