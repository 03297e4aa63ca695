//! The lifecycle of workload containers: one file a verb.

pub mod io;
