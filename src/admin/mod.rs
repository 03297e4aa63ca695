//! Our own control service, `podwright.admin.v1`, on the same root-only socket.

pub mod client;
mod configuration;
mod operations;
mod pulls;
mod service;
mod stock;
mod timeline;

pub use configuration::Configuration;
pub use pulls::{PullOrder, Pulls};
pub use service::{
    AdminParts, AdminService, Archive, Archives, ImageOffice, Imported, Mirrors, Pieces,
};
pub use stock::Stock;
