//! The seam to containerd: one narrow trait a service, the real client, and a fake world.

mod traits;

pub use traits::*;
