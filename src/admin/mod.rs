//! Our own control service, `podwright.admin.v1`, on the same root-only socket.

pub mod client;
mod service;

pub use service::{AdminService, Archive, Archives, Imported, Mirrors};
