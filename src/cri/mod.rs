//! The CRI services: one thin handler a method through one `serve` wrapper.

mod status;
pub mod views;
