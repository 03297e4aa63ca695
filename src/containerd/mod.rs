//! The seam to containerd: one narrow trait a service, the real client, and a fake world.

mod blobs;
#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod fake;
pub mod grpc;
mod link;
mod storage;
mod traits;

pub use blobs::write_blob;
pub use link::{Link, LinkReporter, LinkState, Prober};
pub use storage::*;
pub use traits::*;
