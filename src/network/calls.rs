//! Calls of plugins that have ended: how many of each kind, how many failed, how long they took.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::telemetry::{Buckets, Timings};

/// Plugins that are told apart; all further ones are one. A node has a handful, but its configuration may change for ever.
const PLUGINS: usize = 32;
const OTHERS: &str = "others";

/// One plugin's calls of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginReport {
    /// The plugin's type.
    pub plugin: String,
    /// `ADD`, `DEL` or `STATUS`.
    pub operation: &'static str,
    /// How long they took.
    pub took: Buckets,
    /// Those that failed or took too long.
    pub errors: u64,
}

#[derive(Debug, Default)]
struct Row {
    took: Timings,
    errors: u64,
}

/// All calls since the start. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct PluginCalls(Arc<Mutex<Rows>>);

type Rows = BTreeMap<String, BTreeMap<&'static str, Row>>;

impl PluginCalls {
    pub(super) fn note(&self, plugin: &str, operation: &'static str, took: Duration, is_ok: bool) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told_apart = rows.contains_key(plugin) || rows.len() < PLUGINS;
        let name = if is_told_apart { plugin } else { OTHERS };
        let plugin = rows.entry(name.to_owned()).or_default();
        let row = plugin.entry(operation).or_default();
        row.took.note(took);
        row.errors = row.errors.saturating_add(u64::from(!is_ok));
    }

    /// What has ended so far.
    pub fn report(&self) -> Vec<PluginReport> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = rows
            .iter()
            .flat_map(|(plugin, rows)| rows.iter().map(move |row| (plugin, row)));
        each.map(|(plugin, (operation, row))| PluginReport {
            plugin: plugin.clone(),
            operation,
            took: row.took.buckets(),
            errors: row.errors,
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_and_operations_are_told_apart_up_to_a_limit() {
        let calls = PluginCalls::default();
        let took = Duration::from_millis(3);
        calls.note("bridge", "ADD", took, true);
        calls.note("bridge", "ADD", took, false);
        calls.note("bridge", "DEL", took, true);
        for n in 0..2 * PLUGINS {
            calls.note(&format!("x{n}"), "ADD", took, true);
        }

        let report = calls.report();

        assert_eq!(report.len(), PLUGINS + 2);
        let count = |plugin: &str, operation: &str| {
            let row = report
                .iter()
                .find(|row| row.plugin == plugin && row.operation == operation)
                .unwrap();
            let calls: u64 = row.took.counts.iter().map(|(_, count)| count).sum();
            (calls, row.errors)
        };
        assert_eq!(count("bridge", "ADD"), (2, 1));
        assert_eq!(count("bridge", "DEL"), (1, 0));
        assert_eq!(count(OTHERS, "ADD").0, u64::try_from(PLUGINS).unwrap() + 1);
    }
}
