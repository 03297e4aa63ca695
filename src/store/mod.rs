//! Records on disk: step records and network attachments as one checked file an object, and the journal of facts about
//! containers that no one else remembers (when they started, how they ended).
//!
//! Identity and configuration do not stand here but in containerd's own records. What is synced when is one rule:
//! step records live on tmpfs and are not; attachments are before the plugins run; exits are before they are shown.

mod facts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod peek;
mod records;

pub use facts::{ContainerFacts, Facts};
pub use peek::{Peeked, peek_blocking};
pub use records::{Durability, Loaded, Records};
