//! The words of the domain: ids, states, errors, references, digests, units and time. No I/O, nothing async.

pub mod classes;
pub mod clock;
pub mod container;
pub mod digest;
pub mod edits;
pub mod error;
pub mod host_facts;
pub mod ids;
pub mod image_defaults;
pub mod pod;
pub mod reference;
pub mod resources;
pub mod security;
pub mod signal;
pub mod state;
pub mod termination;

pub use clock::{Clock, Timestamp};
pub use container::{ContainerConfig, ContainerIdentity};
pub use digest::{Descriptor, Digest};
pub use edits::Edits;
pub use error::{Classify, Context, Error, Kind, Result};
pub use host_facts::HostFacts;
pub use ids::{ContainerId, ExecId, Pid, SandboxId};
pub use image_defaults::ImageDefaults;
pub use pod::{PodConfig, PodIdentity};
pub use reference::{LocalName, Reference};
pub use resources::Resources;
pub use signal::Signal;
pub use termination::Termination;
