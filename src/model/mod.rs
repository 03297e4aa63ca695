//! The words of the domain: ids, states, errors, references, digests, units and time. No I/O, nothing async.

pub mod clock;
pub mod digest;
pub mod error;
pub mod ids;
pub mod state;

pub use clock::{Clock, Timestamp};
pub use digest::{Descriptor, Digest};
pub use error::{Classify, Context, Error, Kind, Result};
pub use ids::{ContainerId, ExecId, Pid, SandboxId};
