//! A process executed in a running container, as ExecSync and streams both want it: counted in, built, its FIFOs made
//! before its start, and freed with whoever holds it. The delete happens in the background, since a shim waits in it for
//! whoever still holds the pipes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::containerd::{ExecRequest, Payload, Stdio};
use crate::index::ContainerView;
use crate::model::{ContainerId, Context, Error, ExecId, Result, Signal};
use crate::sandbox::steps::tolerate_missing;
use crate::spec;

use super::{Containers, Site, io};

/// How long a killed exec may take to be reaped before it is left to the cleanup.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

/// A command to be executed in a container.
#[derive(Clone, Debug)]
pub struct ExecOrder {
    /// Command and arguments.
    pub command: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// Its columns and rows from the start, where they are known.
    pub size: Option<(u16, u16)>,
    /// An input.
    pub stdin: bool,
}

/// A process about to run or running. Dropping it kills the process where it may still run.
pub(super) struct Exec {
    pub(super) home: Containers,
    pub(super) request: ExecRequest,
    cleanup: Cleanup,
    _seat: Seat,
}

impl Containers {
    /// A container that runs.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` unless it runs.
    pub(super) fn running(&self, text: &str) -> Result<(Arc<ContainerView>, Arc<Site>)> {
        let (view, site) = self.expect(text)?;
        match view.is_running() {
            true => Ok((view, site)),
            false => Err(Error::precondition(format!(
                "container {}: not running",
                view.id.short()
            ))),
        }
    }

    /// Builds the process that `order` wants in a running container and makes its FIFOs; nothing runs yet.
    ///
    /// # Errors
    /// `InvalidArgument` without a command; `ResourceExhausted` beyond the limits on execs; `Internal` as the kernel says.
    pub(super) async fn exec(
        &self,
        view: &ContainerView,
        site: &Arc<Site>,
        order: &ExecOrder,
    ) -> Result<Exec> {
        let seat = self.seat(site)?;
        let spec = spec::decode_spec(&view.spec)?;
        let mut process = spec::exec(&spec, &order.command, order.tty)?;
        if let Some((width, height)) = order.size.filter(|_| order.tty) {
            spec::set_console_size(&mut process, width, height)?;
        }
        let process = spec::encode_process(&process)?;
        let exec = ExecId::generate()?;
        let cleanup = Cleanup::of(self, &view.id, &exec);
        let streams = io::Streams {
            stdin: order.stdin,
            tty: order.tty,
        };
        let stdio = io::stdio(&cleanup.dir, streams);
        let stdio = io::make(cleanup.dir.clone(), stdio).await?;
        Ok(Exec {
            home: self.clone(),
            request: ExecRequest {
                id: view.id.to_string(),
                exec,
                stdio,
                process: Payload::new(Payload::PROCESS, process),
            },
            cleanup,
            _seat: seat,
        })
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
}

impl Exec {
    /// The FIFOs; readers belong to them before the start.
    pub(super) fn stdio(&self) -> &Stdio {
        &self.request.stdio
    }

    /// Starts the process.
    ///
    /// # Errors
    /// What containerd says.
    pub(super) async fn start(&self) -> Result<()> {
        let tasks = &self.home.deps.containerd.tasks;
        let what = || format!("container {}: exec", self.cleanup.container.short());
        tasks.exec(&self.request).await.context(what)?;
        let started = tasks.start(&self.request.id, Some(&self.request.exec));
        started.await.context(what).map(drop)
    }

    /// Waits for its end; its exit code, 128 + n after signal n.
    ///
    /// # Errors
    /// What containerd says.
    pub(super) async fn wait(&mut self) -> Result<i32> {
        let tasks = &self.home.deps.containerd.tasks;
        let exit = tasks
            .wait(&self.request.id, Some(&self.request.exec))
            .await?;
        self.cleanup.kill = false;
        Ok(i32::try_from(exit.code).unwrap_or(255))
    }

    /// Kills it and waits until it is reaped, for a while.
    ///
    /// # Errors
    /// What containerd says; an ended process is fine.
    pub(super) async fn kill(&self) -> Result<()> {
        let tasks = &self.home.deps.containerd.tasks;
        let (id, exec) = (self.request.id.as_str(), Some(&self.request.exec));
        tolerate_missing(tasks.kill(id, exec, Signal::KILL, false).await)?;
        if tokio::time::timeout(KILLED_LIMIT, tasks.wait(id, exec))
            .await
            .is_err()
        {
            tracing::warn!(
                container.id = id,
                "an exec outlived SIGKILL; it is left to the cleanup"
            );
        }
        Ok(())
    }
}

/// Frees an exec when it is dropped: kills it where it may still run, deletes it, removes its FIFOs.
struct Cleanup {
    home: Containers,
    container: ContainerId,
    exec: ExecId,
    dir: PathBuf,
    kill: bool,
}

impl Cleanup {
    /// For an exec that is about to be made.
    fn of(home: &Containers, container: &ContainerId, exec: &ExecId) -> Self {
        Self {
            home: home.clone(),
            container: container.clone(),
            exec: exec.clone(),
            dir: io::exec_dir(&home.deps, container, exec),
            kill: true,
        }
    }
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
