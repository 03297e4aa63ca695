//! CRI messages to model values and back: the door at which a request is checked, so that nothing below re-checks.
//!
//! What a caller may send is bounded here and nowhere else. Everything refused is `InvalidArgument`, and the message
//! leads to the field: `linux.security_context: run_as_user: …`. Values are shown escaped and cut.

mod check;
mod container;
mod mounts;
mod pod;
mod resources;
mod security;
mod signal;
mod sysctls;

#[cfg(test)]
mod tests;
