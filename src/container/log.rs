//! The container's log: where it lies, how its pump is started, and ReopenContainerLog.

use std::sync::Arc;
use std::time::Duration;

use crate::config::LogQuota;
use crate::containerd::Stdio;
use crate::index::ContainerView;
use crate::logs::{LineLimit, LogPump, LogTarget, LogTotals, PumpOptions, PumpStats};
use crate::model::{ContainerId, Error, Result};

use super::{Containers, io};

/// How long the log's file system may take to open a file.
#[cfg(not(test))]
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// The time of tests is virtual and runs on while a real thread opens the file.
#[cfg(test)]
const OPEN_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Absolute path of the log, empty where either part is: logging is then disabled (behaviour §2.1).
pub(super) fn path(directory: &str, file: &str) -> String {
    match directory.is_empty() || file.is_empty() {
        true => String::new(),
        false => format!("{}/{file}", directory.trim_end_matches('/')),
    }
}

impl Containers {
    /// Starts the pump of a task's output. `requires_file`: a log that cannot be opened fails the call; otherwise the
    /// process runs already, and opening is tried again while its output is drained.
    pub(super) async fn start_pump(
        &self,
        view: &ContainerView,
        stdio: &Stdio,
        requires_file: bool,
    ) -> Result<Option<Arc<LogPump>>> {
        let Some(fifos) = io::outputs(stdio) else {
            return Ok(None);
        };
        let target = match view.log_path.strip_suffix(&view.config.log_path) {
            Some(directory) if !view.log_path.is_empty() => {
                LogTarget::new(directory, &view.config.log_path)?
            }
            _ => LogTarget::discard(),
        };
        let line =
            i64::try_from(self.deps.settings().logs.max_line_bytes.get()).unwrap_or(i64::MAX);
        let options = PumpOptions {
            line_limit: LineLimit::new(line),
            open_limit: OPEN_LIMIT,
            requires_file,
            buffer_bytes: self.deps.settings().logs.buffer_bytes.get(),
        };
        let pump = self
            .pumps
            .start(&view.sandbox, target, &fifos, options)
            .await?;
        Ok(Some(Arc::new(pump)))
    }

    /// Puts another quota on what containers log, those that run included.
    pub fn govern_logs(&self, quota: LogQuota) {
        self.pumps.govern(quota);
    }

    /// What was logged of all containers since the start.
    pub fn log_totals(&self) -> LogTotals {
        self.pumps.totals()
    }

    /// What was logged of a container since its start or ours; `None` before its start, and after an end before ours.
    pub fn log_stats(&self, id: &ContainerId) -> Option<PumpStats> {
        let site = self.site(id)?;
        let logged = site.logged.get().copied();
        logged.or_else(|| Some(site.pump()?.stats()))
    }

    /// ReopenContainerLog: from the answer on nothing goes to the old file.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where the container does not run (no file is made then); what opening failed
    /// with.
    pub async fn reopen_log(&self, text: &str) -> Result<()> {
        let (view, site) = self.expect(text)?;
        let operation = self.deps.live.begin("ReopenContainerLog", view.id.short());
        operation.waits_on(Some(view.log_path.clone()));
        let stopped = || {
            Error::precondition(format!(
                "container {}: not running, its log is not reopened",
                view.id.short()
            ))
        };
        if !view.is_running() {
            return Err(stopped());
        }
        let pump = site.pump().ok_or_else(stopped)?;
        self.deps
            .supervisor
            .detached("ReopenContainerLog", async move {
                pump.reopen(OPEN_LIMIT).await
            })
            .await
    }
}
