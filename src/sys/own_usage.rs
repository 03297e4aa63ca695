//! What this process uses of the machine.

use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use super::files::read_capped_blocking;
use crate::model::{Classify as _, Error, Kind, Result};

const STATUS: &str = "/proc/self/status";
/// Its lines about cpus and signals grow with the machine, and stay far below.
const STATUS_MAX: u64 = 64 * 1024;

/// What this process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnUsage {
    /// Processor time since its start, in user and kernel mode.
    pub cpu: Duration,
    /// Bytes of memory that are resident.
    pub resident: u64,
    /// Threads.
    pub threads: u64,
}

impl OwnUsage {
    /// What is used now.
    ///
    /// # Errors
    /// `Internal` where the kernel does not tell.
    pub fn read_blocking() -> Result<Self> {
        let usage =
            getrusage(UsageWho::RUSAGE_SELF).classify(Kind::Internal, || "getrusage".to_owned())?;
        let text = read_capped_blocking(Path::new(STATUS), STATUS_MAX)?;
        let text = String::from_utf8_lossy(&text);
        let line = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next())
                .and_then(|number| number.parse::<u64>().ok())
                .ok_or_else(|| Error::internal(format!("{STATUS}: no readable {name}")))
        };
        Ok(Self {
            cpu: span(usage.user_time()) + span(usage.system_time()),
            resident: line("VmRSS:")?.saturating_mul(1_024),
            threads: line("Threads:")?,
        })
    }
}

fn span(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_seen_to_grow() {
        let before = OwnUsage::read_blocking().unwrap();
        let held = vec![1_u8; 64 << 20];
        let now = OwnUsage::read_blocking().unwrap();

        assert!(before.threads > 0);
        assert!(now.resident > 32 << 20);
        assert!(now.cpu > before.cpu);
        drop(held);
    }
}
