//! Our own control service, `podwright.admin.v1`, on the same root-only socket.

pub mod client;
mod pulls;
mod service;

pub use pulls::{PullOrder, Pulls};
pub use service::{AdminParts, AdminService, Archive, Archives, Imported, Mirrors, Pieces};
