//! The seam to containerd: one narrow trait a service, the real client, and a fake world.

mod storage;
mod traits;

pub use storage::*;
pub use traits::*;
