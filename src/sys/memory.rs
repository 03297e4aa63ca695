//! How much memory the machine has, and what this process holds of it without need.

#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "no crate wraps malloc_trim(3)")
)]

use std::fs;

use crate::model::{Classify as _, Error, Kind, Result};

/// Bytes of memory of the whole machine.
///
/// # Errors
/// `Internal` where the kernel does not tell.
pub fn total_blocking() -> Result<i64> {
    const PATH: &str = "/proc/meminfo";
    let text = fs::read_to_string(PATH).classify(Kind::Internal, || format!("read {PATH}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kilobytes| kilobytes.trim().parse::<i64>().ok())
        .and_then(|kilobytes| kilobytes.checked_mul(1024))
        .ok_or_else(|| Error::internal(format!("{PATH}: no readable MemTotal")))
}

/// Gives freed memory that the allocator keeps for later back to the kernel; takes milliseconds. Nothing happens with an
/// allocator that does not know how.
pub fn give_back_blocking() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer and may be called by any thread at any time.
    let _released = unsafe { nix::libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_memory() {
        assert!(super::total_blocking().unwrap() > 1 << 20);
    }
}
