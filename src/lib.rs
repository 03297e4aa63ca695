//! podwright: a Kubernetes CRI runtime server that has containerd run its pods.
//!
//! `ARCHITECTURE.md` is the map of these rooms; `tests/architecture.rs` holds their levels as data.

pub mod admin;
pub mod cli;
pub mod config;
pub mod container;
pub mod containerd;
pub mod cri;
pub mod devices;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod image;
pub mod index;
pub mod logs;
pub mod model;
pub mod network;
pub mod node;
pub mod nri;
pub mod ops;
pub mod pause;
pub mod play;
pub mod recovery;
pub mod registry;
pub mod sandbox;
pub mod server;
pub mod spec;
pub mod stats;
pub mod store;
pub mod streaming;
pub mod sys;
pub mod telemetry;
pub mod wire;
