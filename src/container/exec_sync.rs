//! ExecSync: exec, start, wait and output. The process is killed with its caller.

use std::time::Duration;

use crate::logs::{Capture, CaptureLimits};
use crate::model::{Error, Result};

use super::exec::{Exec, ExecOrder};
use super::{Containers, io};

/// An ExecSync request.
#[derive(Clone, Debug)]
pub struct ExecSyncRequest {
    /// Command and arguments.
    pub command: Vec<String>,
    /// Seconds that the process may take; no limit unless positive.
    pub timeout_s: i64,
}

/// What the command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecAnswer {
    /// First bytes of its output.
    pub stdout: Vec<u8>,
    /// First bytes of its errors.
    pub stderr: Vec<u8>,
    /// Exit code; 128 + n after signal n.
    pub exit_code: i32,
}

impl Containers {
    /// Runs a command in a running container and answers its output. Dropping the future kills the process.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless the container runs; `InvalidArgument` without a command;
    /// `DeadlineExceeded` where the time was up, the process being dead then; `ResourceExhausted` beyond the limits on
    /// execs. A command that cannot be started is an error, one that fails is not.
    pub async fn exec_sync(&self, text: &str, request: ExecSyncRequest) -> Result<ExecAnswer> {
        let (view, site) = self.running(text)?;
        let operation = self.deps.live.begin("ExecSync", view.id.short());
        let order = ExecOrder {
            command: request.command,
            tty: false,
            size: None,
            stdin: false,
        };
        let making = self.exec(&view, &site, &order);
        let mut exec = operation.place().hold(making).await?;
        let capture = self.capture(&exec)?;
        operation.step("start").hold(exec.start()).await?;
        operation.step("wait");
        operation.patiently();
        // The timeout covers the process, not the drain of its output.
        let ended = wait_within(&mut exec, request.timeout_s);
        let (exit, output) = capture.until(ended).await;
        Ok(ExecAnswer {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: exit?,
        })
    }

    /// Attaches readers to both outputs.
    fn capture(&self, exec: &Exec) -> Result<Capture> {
        let fifos = io::outputs(exec.stdio());
        let fifos = fifos.ok_or_else(|| Error::internal("an exec without output"))?;
        let settings = self.deps.settings();
        let limits = CaptureLimits {
            bytes: settings.containers.exec_sync_output_bytes.get(),
            drain: settings.containers.exec_sync_drain,
            ..CaptureLimits::default()
        };
        Capture::open(&fifos, limits, &self.output_budget)
    }
}

async fn wait_within(exec: &mut Exec, timeout_s: i64) -> Result<i32> {
    let limit = u64::try_from(timeout_s).ok().filter(|limit| *limit > 0);
    let Some(limit) = limit.map(Duration::from_secs) else {
        return exec.wait().await;
    };
    if let Ok(exit) = tokio::time::timeout(limit, exec.wait()).await {
        return exit;
    }
    exec.kill().await?;
    Err(Error::deadline(format!(
        "command timed out: it ran longer than {limit:?} and was killed"
    )))
}
