//! Removal of whole directories of ours, with whatever is mounted below them.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use crate::model::{Classify, Kind, Result};

use super::mounts;

/// A mount that is being let go keeps its directory busy for a moment.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Unmounts everything at or below `dir`, then removes it. A missing directory counts as removed. Links are removed, not
/// followed.
///
/// # Errors
/// `Internal` where something stays busy or cannot be removed.
pub fn remove_tree_blocking(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for round in 1.. {
        mounts::unmount_all_below_blocking(dir)?;
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && round < TRIES => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this is a blocking thread, not a worker"
                )]
                std::thread::sleep(PAUSE);
            }
            Err(error) => {
                return Err(error).classify(Kind::Internal, || format!("remove {}", dir.display()));
            }
        }
    }
    Ok(())
}
