//! What streams hold on to: a process's input and terminal, a command started for a client, and a client's share of a
//! container's own output. How the bytes travel to the client is `streaming`'s business.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;

use crate::containerd::Stdio;
use crate::logs::{Outflow, Subscription};
use crate::model::{Classify, ContainerId, Error, ExecId, Kind, Result};
use crate::sandbox::steps::tolerate_missing;
use crate::sys;

use super::exec::{Exec, ExecOrder};
use super::{Containers, io};

/// The pauses between looks for the reader of an input.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// A process of a container, as the one who talks to it sees it. Cloning gives another handle.
#[derive(Clone)]
pub struct Process {
    home: Containers,
    container: ContainerId,
    exec: Option<ExecId>,
    stdin: Option<PathBuf>,
}

impl Process {
    /// Whether it reads an input.
    pub fn has_input(&self) -> bool {
        self.stdin.is_some()
    }

    /// Opens its input, once its shim reads it; the shim may take a moment after the process's start. Several may be
    /// open at once, and closing one does not end the input: the shim holds it open until [`Self::end_input`].
    ///
    /// # Errors
    /// `FailedPrecondition` where it has none, `Internal` where its FIFO cannot be opened.
    pub async fn input(&self) -> Result<Input> {
        let path = self.stdin.as_ref().ok_or_else(|| {
            Error::precondition(format!(
                "container {}: its process reads no input",
                self.container.short()
            ))
        })?;
        let mut pause = FIRST_LOOK;
        loop {
            match sys::fifo::open_writer(path) {
                Ok(end) => {
                    return Sender::from_owned_fd(end)
                        .classify(Kind::Internal, || format!("watch the fifo {path:?}"))
                        .map(Input);
                }
                Err(error) if error.kind() == Kind::Unavailable => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_LOOK);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends its input for good: it reads what was written, and then the end.
    ///
    /// # Errors
    /// What containerd says; an ended process is fine.
    pub async fn end_input(&self) -> Result<()> {
        let tasks = &self.home.deps.containerd.tasks;
        let ended = tasks.close_stdin(self.container.as_str(), self.exec.as_ref());
        tolerate_missing(ended.await)
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// What containerd says; a process without a terminal has no size.
    pub async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let tasks = &self.home.deps.containerd.tasks;
        tasks
            .resize(self.container.as_str(), self.exec.as_ref(), width, height)
            .await
    }
}

/// The writing end of a process's input.
#[derive(Debug)]
pub struct Input(Sender);

impl Input {
    /// Writes all of `bytes`; waits while the process does not read.
    ///
    /// # Errors
    /// `Unavailable` where nobody reads any more.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0
            .write_all(bytes)
            .await
            .classify(Kind::Unavailable, || {
                "write to a process's input".to_owned()
            })
    }
}

/// A command started for a client. Dropping it kills the process where it still runs.
pub struct ExecProcess {
    process: Process,
    stdout: Outflow,
    stderr: Outflow,
    exec: Exec,
}

/// A client's share of a container's own process.
pub struct Attachment {
    /// The process.
    pub process: Process,
    /// Its output from now on.
    pub output: Subscription,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether the end of the first client's input is the end of the container's.
    pub stdin_once: bool,
}

impl Containers {
    /// Whether `text` is a running container that streams may be opened to, and which.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it runs.
    pub fn streamable(&self, text: &str) -> Result<ContainerId> {
        self.running(text).map(|(view, _)| view.id.clone())
    }

    /// Starts a command in a running container, its outputs open from before its start.
    ///
    /// # Errors
    /// As [`Self::exec_sync`].
    pub async fn exec_process(&self, id: &ContainerId, order: &ExecOrder) -> Result<ExecProcess> {
        let (view, site) = self.running(id.as_str())?;
        let exec = self.exec(&view, &site, order).await?;
        let (stdout, stderr) = outputs(exec.stdio())?;
        exec.start().await?;
        Ok(ExecProcess {
            process: Process {
                home: self.clone(),
                container: view.id.clone(),
                exec: Some(exec.request.exec.clone()),
                stdin: exec.stdio().stdin.clone(),
            },
            stdout,
            stderr,
            exec,
        })
    }

    /// A share of a running container's own output from now on, and a handle to its process.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it runs.
    pub fn attach(&self, id: &ContainerId) -> Result<Attachment> {
        let (view, site) = self.running(id.as_str())?;
        let pump = site.pump().ok_or_else(|| {
            Error::precondition(format!("container {}: its output has ended", id.short()))
        })?;
        let dir = io::task_dir(&self.deps, &view.id);
        let streams = io::Streams {
            stdin: view.config.stdin,
            tty: view.config.tty,
        };
        Ok(Attachment {
            process: Process {
                home: self.clone(),
                container: view.id.clone(),
                exec: None,
                stdin: io::stdio(&dir, streams).stdin,
            },
            output: pump.subscribe(),
            tty: view.config.tty,
            stdin_once: view.config.stdin_once,
        })
    }
}

fn outputs(stdio: &Stdio) -> Result<(Outflow, Outflow)> {
    let open = |path: &Option<PathBuf>| match path {
        Some(path) => Outflow::open(path),
        None => Ok(Outflow::none()),
    };
    Ok((open(&stdio.stdout)?, open(&stdio.stderr)?))
}

impl ExecProcess {
    /// A handle to its process.
    pub fn process(&self) -> Process {
        self.process.clone()
    }

    /// Its standard output and standard error, once.
    pub fn take_outputs(&mut self) -> (Outflow, Outflow) {
        let take = |flow: &mut Outflow| std::mem::replace(flow, Outflow::none());
        (take(&mut self.stdout), take(&mut self.stderr))
    }

    /// Waits for its end; its exit code, 128 + n after signal n.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn wait(&mut self) -> Result<i32> {
        self.exec.wait().await
    }

    /// How long an output that others hold open is read on after the end, at most.
    pub fn drain(&self) -> Duration {
        self.process.home.deps.settings().containers.exec_sync_drain
    }
}
