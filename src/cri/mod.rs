//! The CRI services: one thin handler a method through one `serve` wrapper.

pub mod views;
