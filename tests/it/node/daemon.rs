//! A program that a node keeps running, and that a case may stop, kill, freeze or start again.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::case::Outcome;

/// How long a daemon may take to answer, and to leave when asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// One daemon. It is not running until `start`.
pub(crate) struct Daemon {
    program: PathBuf,
    arguments: Vec<PathBuf>,
    log: PathBuf,
    socket: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    pub(crate) fn new(program: &str, home: &Path) -> Self {
        let program = PathBuf::from(program);
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let log = home.join(format!("{name}.log"));
        Self {
            program,
            arguments: Vec::new(),
            log,
            socket: PathBuf::new(),
            child: Mutex::new(None),
        }
    }

    pub(crate) fn args<const N: usize>(mut self, arguments: [PathBuf; N]) -> Self {
        self.arguments.extend(arguments);
        self
    }

    pub(crate) fn ready_when_answering(mut self, socket: &str) -> Self {
        self.socket = PathBuf::from(socket);
        self
    }

    /// Starts it and waits until its unix socket answers.
    pub(crate) async fn start(&self) -> Outcome {
        self.start_with(&[]).await
    }

    /// As `start`, with more environment variables.
    pub(crate) async fn start_with(&self, environment: &[(&str, &str)]) -> Outcome {
        self.spawn(environment).await?;
        self.until(|| UnixStream::connect(&self.socket).is_ok())
            .await
    }

    /// Starts it and waits until something listens at the TCP `address`.
    pub(super) async fn start_at(&self, address: &str) -> Outcome {
        self.spawn(&[]).await?;
        self.until(|| TcpStream::connect(address).is_ok()).await
    }

    async fn spawn(&self, environment: &[(&str, &str)]) -> Outcome {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *self.child.lock().await = Some(child);
        Ok(())
    }

    async fn until(&self, answers: impl Fn() -> bool) -> Outcome {
        let wait = async {
            while !answers() {
                if let Some(child) = self.child.lock().await.as_mut()
                    && let Some(status) = child.try_wait()?
                {
                    return Err(format!("{} ended: {status}", self.program.display()).into());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        tokio::time::timeout(super::patient(PATIENCE), wait)
            .await
            .map_err(|_elapsed| format!("{} does not answer", self.program.display()))?
    }

    /// Its process, while it runs.
    pub(crate) async fn pid(&self) -> Outcome<Pid> {
        let child = self.child.lock().await;
        let id = child.as_ref().and_then(Child::id);
        let id = id.ok_or_else(|| format!("{} is not running", self.program.display()))?;
        Ok(Pid::from_raw(i32::try_from(id)?))
    }

    /// Sends a signal and does not wait for what comes of it.
    pub(crate) async fn signal(&self, signal: Signal) -> Outcome {
        Ok(kill(self.pid().await?, signal)?)
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&self) -> Outcome {
        self.signal(Signal::SIGKILL).await?;
        self.ended().await
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&self) -> Outcome {
        self.signal(Signal::SIGTERM).await?;
        self.ended().await
    }

    /// Starts it, and waits until it ends by itself; fails if it stays.
    pub(crate) async fn refuses(&self) -> Outcome {
        self.spawn(&[]).await?;
        self.ended().await
    }

    async fn ended(&self) -> Outcome {
        let mut slot = self.child.lock().await;
        if let Some(child) = slot.as_mut() {
            tokio::time::timeout(super::patient(PATIENCE), child.wait())
                .await
                .map_err(|_elapsed| format!("{} does not end", self.program.display()))??;
        }
        *slot = None;
        Ok(())
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}
