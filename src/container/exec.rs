//! ExecSync: exec, start, wait and output, delete. The process is killed with its caller; the delete happens after the
//! reply, since a shim waits in it for whoever still holds the pipes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::containerd::{ExecRequest, Payload};
use crate::index::ContainerView;
use crate::logs::{Capture, CaptureLimits};
use crate::model::{ContainerId, Context, Error, ExecId, Result, Signal};
use crate::sandbox::steps::tolerate_missing;
use crate::spec;

use super::{Containers, Site, io};

/// How long a killed exec may take to be reaped before it is left to the cleanup.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

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
        let (view, site) = self.expect(text)?;
        if !view.is_running() {
            return Err(Error::precondition(format!(
                "container {}: not running",
                view.id.short()
            )));
        }
        let operation = self.deps.live.begin("ExecSync", view.id.short());
        let _seat = self.seat(&site)?;
        let exec = self.prepare(&view, &request.command).await?;
        operation.step("start");
        exec.start().await?;
        operation.step("wait");
        exec.finish(&request).await
    }

    /// Counts an exec in, on the node and in its container.
    fn seat(&self, site: &Arc<Site>) -> Result<Seat> {
        let settings = self.deps.settings();
        let node = Count::enter(Arc::clone(&self.execs), settings.containers.max_execs.get())?;
        let own = Count::enter(
            Arc::clone(&site.execs),
            settings.containers.max_execs_per_container.get(),
        )?;
        Ok(Seat {
            _node: node,
            _own: own,
        })
    }

    /// Makes the FIFOs, attaches their readers and builds the process.
    async fn prepare(&self, view: &ContainerView, command: &[String]) -> Result<Exec> {
        let spec = spec::decode_spec(&view.spec)?;
        let process = spec::exec(&spec, command, false)?;
        let process = spec::encode_process(&process)?;
        let id = ExecId::generate()?;
        let dir = io::exec_dir(&self.deps, &view.id, &id);
        let cleanup = Cleanup {
            home: self.clone(),
            container: view.id.clone(),
            exec: id.clone(),
            dir: dir.clone(),
            kill: true,
        };
        let streams = io::Streams {
            stdin: false,
            tty: false,
        };
        let stdio = io::make(dir.clone(), io::stdio(&dir, streams)).await?;
        let fifos = io::outputs(&stdio).ok_or_else(|| Error::internal("an exec without output"))?;
        let settings = self.deps.settings();
        let limits = CaptureLimits {
            bytes: settings.containers.exec_sync_output_bytes.get(),
            drain: settings.containers.exec_sync_drain,
            ..CaptureLimits::default()
        };
        let capture = Capture::open(&fifos, limits, &self.output_budget)?;
        let request = ExecRequest {
            id: view.id.to_string(),
            exec: id,
            stdio,
            process: Payload::new(Payload::PROCESS, process),
        };
        Ok(Exec {
            home: self.clone(),
            request,
            capture,
            cleanup,
        })
    }
}

/// An exec about to run.
struct Exec {
    home: Containers,
    request: ExecRequest,
    capture: Capture,
    cleanup: Cleanup,
}

impl Exec {
    async fn start(&self) -> Result<()> {
        let tasks = &self.home.deps.containerd.tasks;
        let what = || format!("container {}: exec", self.cleanup.container.short());
        tasks.exec(&self.request).await.context(what)?;
        tasks
            .start(&self.request.id, Some(&self.request.exec))
            .await
            .context(what)?;
        Ok(())
    }

    /// Waits for the end and the output. The timeout covers the process, not the drain of its output.
    async fn finish(self, request: &ExecSyncRequest) -> Result<ExecAnswer> {
        let Self {
            home,
            request: exec,
            capture,
            mut cleanup,
        } = self;
        let tasks = Arc::clone(&home.deps.containerd.tasks);
        let (id, name) = (exec.id.clone(), exec.exec.clone());
        let (exit, output) = capture
            .until(wait_within(&*tasks, &id, &name, request.timeout_s))
            .await;
        cleanup.kill = exit.is_err();
        Ok(ExecAnswer {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: exit?,
        })
    }
}

async fn wait_within(
    tasks: &dyn crate::containerd::Tasks,
    id: &str,
    exec: &ExecId,
    timeout_s: i64,
) -> Result<i32> {
    let code = |exit: crate::containerd::Exit| i32::try_from(exit.code).unwrap_or(255);
    let Some(limit) = u64::try_from(timeout_s)
        .ok()
        .filter(|limit| *limit > 0)
        .map(Duration::from_secs)
    else {
        return tasks.wait(id, Some(exec)).await.map(code);
    };
    if let Ok(exit) = tokio::time::timeout(limit, tasks.wait(id, Some(exec))).await {
        return exit.map(code);
    }
    tolerate_missing(tasks.kill(id, Some(exec), Signal::KILL, false).await)?;
    if tokio::time::timeout(KILLED_LIMIT, tasks.wait(id, Some(exec)))
        .await
        .is_err()
    {
        tracing::warn!(
            container.id = id,
            "an exec outlived SIGKILL; it is left to the cleanup"
        );
    }
    Err(Error::deadline(format!(
        "command timed out: it ran longer than {limit:?} and was killed"
    )))
}

/// Frees an exec when it is dropped: kills it where it may still run, deletes it, removes its FIFOs.
struct Cleanup {
    home: Containers,
    container: ContainerId,
    exec: ExecId,
    dir: PathBuf,
    kill: bool,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let (home, container, exec) =
            (self.home.clone(), self.container.clone(), self.exec.clone());
        let (dir, kill) = (std::mem::take(&mut self.dir), self.kill);
        self.home.deps.supervisor.start("exec cleanup", async move {
            let tasks = &home.deps.containerd.tasks;
            if kill {
                let killed = tolerate_missing(tasks.kill(container.as_str(), Some(&exec), Signal::KILL, false).await);
                if killed.is_ok() {
                    drop(tokio::time::timeout(KILLED_LIMIT, tasks.wait(container.as_str(), Some(&exec))).await);
                }
            }
            if let Err(error) = tolerate_missing(tasks.delete(container.as_str(), Some(&exec)).await.map(drop)) {
                tracing::debug!(container.id = %container, %error, "an exec could not be deleted; it goes with the container");
            }
            if let Err(error) = io::remove(dir).await {
                tracing::debug!(container.id = %container, %error, "the FIFOs of an exec stay until the container goes");
            }
        });
    }
}

/// An exec's places in both limits.
struct Seat {
    _node: Count,
    _own: Count,
}

struct Count(Arc<AtomicUsize>);

impl Count {
    fn enter(count: Arc<AtomicUsize>, limit: usize) -> Result<Self> {
        let entered = count.fetch_add(1, Ordering::AcqRel);
        let seat = Self(count);
        match entered < limit {
            true => Ok(seat),
            false => Err(Error::exhausted(format!(
                "{limit} execs run already; try again when some have ended"
            ))),
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
