//! Assembly order, sockets, signals, drain, the managed containerd.
//!
//! `run` tells the story; each other file is one part of it that knows nothing of the others.

mod accept;
mod collector;
mod deadline;
mod dirs;
mod handlers;
mod house;
mod identity;
mod images;
mod limit;
mod lock;
mod logging;
mod managed;
mod metrics;
mod notify;
mod plugins;
mod reload;
mod rooms;
mod run;
mod serve;
mod signals;
mod sockets;
mod stuck;
mod tending;
mod traced;
#[cfg(test)]
mod units_tests;
mod watchdog;

pub use rooms::network_settings;
pub use run::{Origin, run};
