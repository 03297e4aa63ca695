//! NRI wire and plugin set.
//!
//! `link` is a connection with a plugin: `mux` carries several connections over its socket, `ttrpc` the calls over one of
//! them, `messages` what they say. `join` is a plugin's life, `launch` starts those of the node; `set` asks all of them as
//! one, `merge` makes one answer of theirs, and `adjust` puts it into a spec. The lifecycles hand over `facts` and get
//! values back; what plugins want of other containers they get through a trait of theirs.

mod adjust;
mod event;
mod facts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod join;
mod launch;
mod limits;
pub mod link;
mod merge;
pub mod messages;
mod mux;
mod objects;
mod owners;
mod plugin;
mod roster;
mod seccomp;
mod set;
#[cfg(test)]
mod testing;
mod ttrpc;
mod validate;
mod words;

pub use event::Event;
pub use facts::{
    ContainerFacts, Eviction, Household, ImageFacts, Limits, PodFacts, Update, Wishes,
};
pub use launch::{Installed, Misfit, installed_blocking};
pub use roster::Present;
pub use set::{Created, Nri, Updated};

#[cfg(test)]
mod tests;
