//! How operations run, once for all: supervisor, joining of equal requests, unwinder, live table, gates and the
//! threads for paths that tenants chose. What the operations do is not known here.
//!
//! The rules are DESIGN's: an operation that its caller would retry runs in a task of its own and the retry joins it;
//! every step is recorded before it is done and taken back by one unwinder; nothing waits without a limit.

mod callers;
mod flights;
pub mod gate;
mod live;
mod paths;
mod spans;
mod supervisor;
mod timeline;
mod traffic;
mod unwind;

pub use flights::{Flights, Landing};
pub use gate::{Edge, gate};
pub use live::{LiveTable, OpInfo, Operation, StepTime, Within};
pub use paths::{PathJobInfo, TenantPaths};
pub use supervisor::Supervisor;
pub use timeline::Passage;
pub use traffic::{Carried, Traffic};
pub use unwind::{StillThere, StuckSteps, unwind};
