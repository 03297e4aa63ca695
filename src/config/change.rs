//! What a reload changes: live keys at once, the others at the next start. Until then those keep the value that the
//! rooms were built with, so that nobody reads one half of a change.

use serde_json::Value;

use super::keys::{self, Reload};
use super::{Config, Problems, check, file};
use crate::model::{Context as _, Error, Result};

/// One key that a file gives another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted path of the key; of the map or list that holds it, where it is in one.
    pub key: String,
    /// Its value until now, as JSON; `null` where it was unset.
    pub before: String,
    /// The file's.
    pub after: String,
    /// Whether it waits for a restart.
    pub waits: bool,
}

impl Config {
    /// This configuration as it can take the place of `running`, and what changes then. Keys that follow a restart only
    /// keep the value they have in `running`.
    ///
    /// # Errors
    /// `InvalidArgument` where the keys that change do not go with those that cannot.
    pub fn in_place_of(&self, running: &Self) -> Result<(Self, Vec<Change>)> {
        let changes = changes(running.effective(), self.effective());
        let mut merged = self.effective().clone();
        for change in changes.iter().filter(|change| change.waits) {
            keep(&mut merged, running.effective(), &change.key);
        }
        let what = || "the configuration without the changes that wait for a restart".to_owned();
        let file: file::File = serde_json::from_value(merged)
            .map_err(|error| Error::invalid(error.to_string()))
            .context(what)?;
        let config = check::check(&file)
            .map_err(|problems| Error::from(Problems(problems)))
            .context(what)?;
        Ok((config, changes))
    }
}

fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for key in keys::KEYS {
        let (old, new) = (key.find(before), key.find(after));
        let holder = key.holder();
        if old == new || changes.iter().any(|change| change.key == holder) {
            continue;
        }
        let shown = |value: Option<&Value>| value.unwrap_or(&Value::Null).to_string();
        changes.push(Change {
            key: holder.to_owned(),
            before: shown(old),
            after: shown(new),
            waits: key.reload == Reload::Restart,
        });
    }
    changes
}

/// Gives the key in `merged` the value it has in `running`.
fn keep(merged: &mut Value, running: &Value, key: &str) {
    let value = key
        .split('.')
        .try_fold(running, |value, part| value.get(part))
        .cloned()
        .unwrap_or(Value::Null);
    let place = key
        .split('.')
        .try_fold(merged, |value, part| value.get_mut(part));
    if let Some(place) = place {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    #[test]
    fn a_live_key_changes_and_one_that_waits_for_a_restart_keeps_its_value() {
        let running = parsed("[server]\nroot_dir = \"/srv/a\"\n");
        let file = parsed("[server]\nroot_dir = \"/srv/b\"\n[logs]\nmax_line_bytes = 4096\n");

        let (config, changes) = file.in_place_of(&running).unwrap();

        assert_eq!(config.logs.max_line_bytes.get(), 4096);
        assert_eq!(config.server.root_dir.to_str(), Some("/srv/a"));
        let shown: Vec<_> = changes
            .iter()
            .map(|change| {
                (
                    change.key.as_str(),
                    change.before.as_str(),
                    change.after.as_str(),
                    change.waits,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("server.root_dir", "\"/srv/a\"", "\"/srv/b\"", true),
                ("logs.max_line_bytes", "16384", "4096", false),
            ]
        );
        // The next reload of the same file still knows what waits.
        let (again, changes) = file.in_place_of(&config).unwrap();
        assert_eq!(again.effective(), config.effective());
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn a_map_of_handlers_is_one_change() {
        let handler = "[runtimes]\ndefault = \"a\"\n[runtimes.handlers.a]\nruntime_type = \"io.containerd.runc.v2\"\n";
        let (config, changes) = parsed(handler).in_place_of(&parsed("")).unwrap();

        assert_eq!(config.runtimes.default, "a");
        let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["runtimes.default", "runtimes.handlers"]);
        assert!(changes.iter().all(|change| !change.waits));
    }

    #[test]
    fn every_configuration_takes_its_own_place_without_a_change() {
        let full = Config::load(
            Some(std::path::Path::new(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/deploy/config.toml"
            ))),
            &super::super::Overrides::default(),
        )
        .unwrap();

        let (same, changes) = full.in_place_of(&full).unwrap();

        assert_eq!(changes, []);
        assert_eq!(same.effective(), full.effective());
    }
}
