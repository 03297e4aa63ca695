//! How much memory the machine has.

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_memory() {
        assert!(super::total_blocking().unwrap() > 1 << 20);
    }
}
