//! Conditions, features, RuntimeConfig, and the checks behind `podwright doctor`.

pub mod backend;
