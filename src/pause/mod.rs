//! The pause program and its embedding.
//!
//! `pause.rs` is a program of its own: `build.rs` compiles it, about a kilobyte, and its bytes ride in ours. So a
//! sandbox needs no image, no pull and no snapshot, and nothing that garbage collection could take away.

use crate::model::Digest;

static PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The program: a static ELF executable for the machine that we were built for.
pub fn program() -> &'static [u8] {
    PROGRAM
}

/// The digest of [`program`], which names the directory that it is laid out in.
pub fn content_digest() -> Digest {
    Digest::sha256(PROGRAM)
}

#[cfg(test)]
mod tests;
