//! Conditions, features, RuntimeConfig, and the checks behind `podwright doctor`.

pub mod backend;
pub mod checks;
pub mod conditions;
pub mod features;
pub mod runtime_config;
