//! No stream is begun that would leave the rest of the server without file descriptors: a stream takes half a dozen, and
//! probes, logs and pods need some too (threats §5).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::{Error, Result};
use crate::sys::open_files;

/// How long a count is good for; counting takes as long as there are descriptors.
const FRESH: Duration = Duration::from_millis(200);
/// Of a hundred descriptors so many may be open.
const PERCENT: u64 = 80;

/// Looks at the descriptors of this process.
#[derive(Debug, Default)]
pub(super) struct Descriptors(Mutex<Option<(Instant, u64)>>);

impl Descriptors {
    /// # Errors
    /// `ResourceExhausted` where most of what may be open is.
    pub(super) fn check(&self) -> Result<()> {
        check(self.open()?, open_files::own_limit()?)
    }

    fn open(&self) -> Result<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, open)) = *last
            && at.elapsed() < FRESH
        {
            return Ok(open);
        }
        let open = open_files::own_blocking()?;
        *last = Some((Instant::now(), open));
        Ok(open)
    }
}

fn check(open: u64, limit: u64) -> Result<()> {
    if open.saturating_mul(100) < limit.saturating_mul(PERCENT) {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "podwright has {open} of {limit} file descriptors open, and begins no stream beyond {PERCENT} of a hundred; try \
         again when some have ended, or raise LimitNOFILE of its unit"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn streams_are_refused_from_eighty_of_a_hundred_descriptors_on() {
        assert!(check(799, 1_000).is_ok());
        assert!(check(41, 57).is_ok());
        let refused = check(800, 1_000).unwrap_err();
        assert_eq!(refused.kind(), Kind::ResourceExhausted);
        assert!(refused.to_string().contains("800 of 1000"), "{refused}");
        assert!(Descriptors::default().check().is_ok());
    }
}
