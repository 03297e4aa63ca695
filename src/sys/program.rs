//! Helper programs run to their end: input, output within limits, a deadline for the process and all its children.
//!
//! Such programs are trusted to do what they say, but not to end, and not to say it briefly.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::time::Instant;

use super::{off_thread, spawn};
use crate::model::{Classify, Error, Kind, Result};

/// Where helper programs find the tools that they call.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long output is waited for after the process has ended while a child of it holds the streams open.
const LEFT_OPEN_LIMIT: Duration = Duration::from_secs(1);
/// How long the end of a killed process is waited for.
const KILLED_LIMIT: Duration = Duration::from_secs(5);
/// Runs of a binary that is being replaced, and the pause between them.
const BUSY_RUNS: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// A run of a program.
pub struct Run<'a, F> {
    /// Which run, for messages.
    pub name: &'a str,
    /// Makes the command: program, arguments, environment. It starts with nothing of ours, see [`spawn::as_stranger`].
    pub command: F,
    /// Fed to its standard input.
    pub input: &'a [u8],
    /// Most bytes of its standard output that are kept; beyond them the stream is closed.
    pub stdout_cap: u64,
    /// Most bytes of its standard error that are kept; the rest is thrown away.
    pub stderr_cap: u64,
    /// When it is killed, with its children.
    pub deadline: Instant,
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output, one byte over the cap where it said more.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
}

impl<F: Fn() -> Command> Run<'_, F> {
    /// Runs it. `None` where it was killed at its deadline. Dropping the future kills it and its children.
    ///
    /// # Errors
    /// Where it cannot be started or waited for.
    pub async fn to_end(self) -> Result<Option<Ended>> {
        let mut child = self.start().await?;
        let group = Group::of(&child, self.name)?;
        let Ok(ended) = tokio::time::timeout_at(self.deadline, self.exchange(&mut child)).await
        else {
            drop(group); // kills
            if tokio::time::timeout(KILLED_LIMIT, child.wait())
                .await
                .is_err()
            {
                tracing::warn!(
                    program = self.name,
                    pid = child.id(),
                    "a killed program does not end"
                );
            }
            return Ok(None);
        };
        let ended = ended.classify(Kind::Internal, || self.name.to_owned())?;
        group.release();
        Ok(Some(ended))
    }

    async fn start(&self) -> Result<Child> {
        let mut runs = 0;
        loop {
            runs += 1;
            let mut command = (self.command)();
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            spawn::as_stranger(&mut command);
            let program = command.get_program().to_owned();
            let mut command = tokio::process::Command::from(command);
            command.kill_on_drop(true); // should the caller leave before the group is known
            let spawned = off_thread("start a program", move || Ok(command.spawn())).await?;
            match spawned {
                Err(error)
                    if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                        && runs < BUSY_RUNS =>
                {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                spawned => {
                    let what = || format!("{}: start {}", self.name, program.display());
                    return spawned.classify(Kind::Internal, what);
                }
            }
        }
    }

    /// Feeds the program, reads what it says and waits for its end.
    async fn exchange(&self, child: &mut Child) -> std::io::Result<Ended> {
        let stdin = child.stdin.take();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let out_cap = self.stdout_cap.saturating_add(1);
        let status = {
            let streams = async {
                tokio::join!(
                    feed(stdin, self.input),
                    keep_start(out, &mut stdout, out_cap, Beyond::Close),
                    keep_start(err, &mut stderr, self.stderr_cap, Beyond::Drain),
                );
            };
            tokio::pin!(streams);
            tokio::select! {
                status = child.wait() => {
                    if tokio::time::timeout(LEFT_OPEN_LIMIT, &mut streams).await.is_err() {
                        tracing::debug!(program = self.name, "it left a process behind that holds its output open");
                    }
                    status?
                }
                () = &mut streams => child.wait().await?,
            }
        };
        Ok(Ended {
            status,
            stdout,
            stderr,
        })
    }
}

/// What makes `path` a program that somebody else than the administrator may have put there, if anything.
pub fn distrust(metadata: &Metadata) -> Option<&'static str> {
    let owned = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    let mode = metadata.mode();
    match () {
        () if !metadata.is_file() => Some("is not a regular file"),
        () if !owned => Some("does not belong to root"),
        () if mode & 0o022 != 0 => Some("can be written by others than its owner"),
        () if mode & 0o111 == 0 => Some("is not executable"),
        () => None,
    }
}

/// Makes sure that `path` is a program that only the administrator can have put there.
///
/// # Errors
/// `FailedPrecondition` where it is missing, or what [`distrust`] finds.
pub fn trusted_blocking(path: &Path) -> Result<()> {
    let metadata = path
        .metadata()
        .classify(Kind::FailedPrecondition, || path.display().to_string())?;
    match distrust(&metadata) {
        None => Ok(()),
        Some(wrong) => Err(Error::precondition(format!("{} {wrong}", path.display()))),
    }
}

/// The process group of a running program: killed when this is dropped before [`Group::release`].
struct Group(Option<nix::unistd::Pid>);

impl Group {
    fn of(child: &Child, name: &str) -> Result<Self> {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.map(|pid| Self(Some(nix::unistd::Pid::from_raw(pid))))
            .ok_or_else(|| Error::internal(format!("{name}: it has no process id")))
    }

    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0
            && let Err(errno) = nix::sys::signal::killpg(group, Signal::SIGKILL)
            && errno != nix::errno::Errno::ESRCH
        {
            tracing::warn!(%group, %errno, "cannot kill the processes of a helper program");
        }
    }
}

/// A program need not read its input: a broken pipe is its business.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin
        && let Err(error) = stdin.write_all(input).await
    {
        tracing::debug!(%error, "a helper program did not read all of its input");
    }
}

/// What happens to output beyond the part that is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// The stream is closed: a writer that goes on gets a broken pipe.
    Close,
    /// It is read and thrown away.
    Drain,
}

async fn keep_start(
    stream: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
    cap: u64,
    beyond: Beyond,
) {
    let Some(mut stream) = stream else { return };
    let mut read = (&mut stream).take(cap).read_to_end(kept).await.map(drop);
    if read.is_ok() && beyond == Beyond::Drain {
        read = tokio::io::copy(&mut stream, &mut tokio::io::sink())
            .await
            .map(drop);
    }
    if let Err(error) = read {
        tracing::debug!(%error, "cannot read all output of a helper program");
    }
}
