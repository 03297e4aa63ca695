//! Plugins that outlived the process, or the call, that started them. One that still attaches while its sandbox is being detached
//! would leave what it makes behind, so it is ended first.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::plugin::blocking;
use crate::model::{Error, Result};
use crate::sys::process::{self, PidFd};

/// How long the end of a killed plugin is waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// Kills every process that was started as a plugin for `sandbox`, and waits for their end.
///
/// # Errors
/// `DeadlineExceeded` where one does not end.
pub(super) async fn end(sandbox: &str) -> Result<()> {
    let entry = format!("CNI_CONTAINERID={sandbox}");
    let left = blocking(move || process::with_environment_blocking(&entry)).await?;
    for pid in left {
        let process = match PidFd::open(pid) {
            Err(error) if error.is_not_found() => continue,
            opened => opened?,
        };
        tracing::warn!(sandbox, %pid, "ending a network plugin that was left running");
        match process.kill(Signal::SIGKILL) {
            Err(error) if error.is_not_found() => continue,
            sent => sent?,
        }
        match tokio::time::timeout(LIMIT, process.exited()).await {
            Ok(ended) => ended?,
            Err(_elapsed) => {
                let step = format!("end of network plugin process {pid}, left for {sandbox}");
                return Err(Error::timed_out(step, LIMIT));
            }
        }
    }
    Ok(())
}
