//! Runs plugin binaries: what they get to see, how long they may take, how much they may say.
//!
//! Plugins are trusted to do what they say, but not to end, and not to say it briefly. Each call has a deadline for the
//! process and all its children, limits on its output, an environment that holds nothing of ours, and a row in the
//! table of live operations.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::failure::Failure;
use super::settings::NetworkSettings;
use crate::model::{Classify, Error, Kind, Result};
use crate::ops::LiveTable;
use crate::sys::spawn;

/// Most of a plugin's standard output that is read.
const STDOUT_CAP: u64 = 1 << 20;
/// Most of its standard error that is kept.
const STDERR_CAP: u64 = 64 << 10;
/// Plugin processes at once.
const PARALLEL_MAX: usize = 64;
/// How long output is waited for after the process has ended while a child of it holds the streams open.
const LEFT_OPEN_LIMIT: Duration = Duration::from_secs(1);
/// How long the end of a killed process is waited for.
const KILLED_LIMIT: Duration = Duration::from_secs(5);
/// After this long a call is worth a line in the log.
const SLOW: Duration = Duration::from_secs(30);
/// Runs of a binary that is being replaced, and the pause between them.
const BUSY_RUNS: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Where plugins find the tools that they call.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Status,
}

impl Verb {
    /// The value of CNI_COMMAND.
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Status => "STATUS",
        }
    }

    fn operation(self) -> &'static str {
        match self {
            Self::Add => "CNI ADD",
            Self::Del => "CNI DEL",
            Self::Status => "CNI STATUS",
        }
    }
}

/// One call of one plugin.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) verb: Verb,
    pub(super) plugin_type: &'a str,
    /// Sandbox id; empty for STATUS.
    pub(super) container_id: &'a str,
    /// Empty once the namespace is closed.
    pub(super) netns: &'a Path,
    pub(super) ifname: &'a str,
    /// Joined CNI_ARGS.
    pub(super) args: &'a str,
    pub(super) stdin: Vec<u8>,
    pub(super) deadline: Instant,
}

impl Call<'_> {
    fn name(&self) -> String {
        format!("plugin {} ({})", self.plugin_type, self.verb.command())
    }
}

/// Runs plugins, a bounded number at a time.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    slots: Arc<Semaphore>,
    live: LiveTable,
}

impl Runner {
    pub(super) fn new(live: LiveTable) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(PARALLEL_MAX)),
            live,
        }
    }

    /// Runs the call and returns what the plugin wrote. Dropping this future kills the plugin and its children.
    pub(super) async fn run(
        &self,
        settings: &NetworkSettings,
        call: Call<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let row = self.live.begin(call.verb.operation(), call.container_id);
        row.waits_on(Some(format!("a free slot for plugin {}", call.plugin_type)));
        let name = call.name();
        let work = async {
            let _slot = self
                .slots
                .acquire()
                .await
                .classify(Kind::Internal, || name.clone())?;
            row.waits_on(Some(format!("plugin {}", call.plugin_type)));
            self.run_now(settings, &call).await
        };
        let slow = async {
            tokio::time::sleep(SLOW).await;
            tracing::warn!(
                sandbox = call.container_id,
                plugin = call.plugin_type,
                verb = call.verb.command(),
                "a network plugin has been running for {SLOW:?}"
            );
            std::future::pending().await
        };
        tokio::select! {
            done = work => done,
            never = slow => never,
        }
    }

    async fn run_now(
        &self,
        settings: &NetworkSettings,
        call: &Call<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let bin_dirs = settings.bin_dirs.clone();
        let plugin_type = call.plugin_type.to_owned();
        let path = blocking(move || find_blocking(&bin_dirs, &plugin_type)).await?;
        let began = Instant::now();
        let mut child = start(settings, call, &path).await?;
        let group = Group::of(&child)?;
        let stdin = child.stdin.take();
        let exchange = exchange(&mut child, stdin, &call.stdin);
        let Ok(ended) = tokio::time::timeout_at(call.deadline, exchange).await else {
            drop(group); // kills
            if tokio::time::timeout(KILLED_LIMIT, child.wait())
                .await
                .is_err()
            {
                tracing::warn!(plugin = %path.display(), pid = child.id(), "a killed plugin does not end");
            }
            let error = Error::timed_out(call.name(), call.deadline.duration_since(began));
            return Err(error.into());
        };
        let ended = ended.classify(Kind::Internal, || call.name())?;
        group.release();
        ended.into_answer()
    }
}

/// Runs file system calls on a thread made for that.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .classify(Kind::Internal, || "run a blocking call".to_owned())?
}

/// Finds the binary of a plugin and makes sure that only the administrator can have put it there.
pub(super) fn find_blocking(bin_dirs: &[PathBuf], plugin_type: &str) -> Result<PathBuf> {
    let found = bin_dirs
        .iter()
        .map(|dir| dir.join(plugin_type))
        .find_map(|path| Some((path.metadata().ok()?, path)));
    let Some((metadata, path)) = found else {
        return Err(Error::precondition(format!(
            "plugin {plugin_type} is in none of {bin_dirs:?}; install it or set `cni.bin_dirs`"
        )));
    };
    let owned = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    let mode = metadata.mode();
    let wrong = match () {
        () if !metadata.is_file() => "is not a regular file",
        () if !owned => "does not belong to root",
        () if mode & 0o022 != 0 => "can be written by others than its owner",
        () if mode & 0o111 == 0 => "is not executable",
        () => return Ok(path),
    };
    Err(Error::precondition(format!("{} {wrong}", path.display())))
}

async fn start(settings: &NetworkSettings, call: &Call<'_>, path: &Path) -> Result<Child, Failure> {
    let mut runs = 0;
    loop {
        runs += 1;
        let mut command = command_of(settings, call, path);
        let spawned = blocking(move || Ok(command.spawn())).await?;
        match spawned {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy && runs < BUSY_RUNS =>
            {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            spawned => {
                let what = || format!("{}: start {}", call.name(), path.display());
                return Ok(spawned.classify(Kind::Internal, what)?);
            }
        }
    }
}

fn command_of(settings: &NetworkSettings, call: &Call<'_>, path: &Path) -> tokio::process::Command {
    let bin_dirs: Vec<OsString> = settings
        .bin_dirs
        .iter()
        .map(|dir| dir.as_os_str().to_owned())
        .collect();
    let mut command = std::process::Command::new(path);
    command
        .current_dir("/")
        .env_clear()
        .envs(settings.plugin_environment.iter().map(|(k, v)| (k, v)))
        .env("PATH", PATH)
        .env("CNI_COMMAND", call.verb.command())
        .env("CNI_CONTAINERID", call.container_id)
        .env("CNI_NETNS", call.netns)
        .env("CNI_IFNAME", call.ifname)
        .env("CNI_ARGS", call.args)
        .env("CNI_PATH", bin_dirs.join(&OsString::from(":")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    spawn::as_stranger(&mut command);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true); // should the caller leave before the group is known
    command
}

/// The process group of a running plugin: killed when this is dropped before [`Group::release`].
struct Group(Option<nix::unistd::Pid>);

impl Group {
    fn of(child: &Child) -> Result<Self> {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.map(|pid| Self(Some(nix::unistd::Pid::from_raw(pid))))
            .ok_or_else(|| Error::internal("a plugin has no process id"))
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
            tracing::warn!(%group, %errno, "cannot kill the processes of a network plugin");
        }
    }
}

/// How a plugin ended and what it said.
struct Ended {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ended {
    fn into_answer(self) -> Result<Vec<u8>, Failure> {
        if longer_than(&self.stdout, STDOUT_CAP) {
            let text = format!("it wrote more than {STDOUT_CAP} bytes");
            return Err(Error::internal(text).into());
        }
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(Failure::reported(self.status, &self.stdout, &self.stderr))
    }
}

fn longer_than(bytes: &[u8], cap: u64) -> bool {
    u64::try_from(bytes.len()).is_ok_and(|length| length > cap)
}

/// Feeds the plugin, reads what it says and waits for its end.
async fn exchange(
    child: &mut Child,
    stdin: Option<ChildStdin>,
    input: &[u8],
) -> std::io::Result<Ended> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = {
        let streams = async {
            tokio::join!(
                feed(stdin, input),
                keep_start(out, &mut stdout, STDOUT_CAP + 1, Beyond::Close),
                keep_start(err, &mut stderr, STDERR_CAP, Beyond::Drain),
            );
        };
        tokio::pin!(streams);
        tokio::select! {
            status = child.wait() => {
                if tokio::time::timeout(LEFT_OPEN_LIMIT, &mut streams).await.is_err() {
                    tracing::debug!("a network plugin left a process behind that holds its output open");
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

/// A plugin need not read its input: a broken pipe is its business.
async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    if let Some(mut stdin) = stdin
        && let Err(error) = stdin.write_all(input).await
    {
        tracing::debug!(%error, "a network plugin did not read all of its input");
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
        tracing::debug!(%error, "cannot read all output of a network plugin");
    }
}

#[cfg(test)]
mod tests;
