//! Runs plugin binaries: what they get to see, how long they may take, how much they may say.
//!
//! Plugins are trusted to do what they say, but not to end, and not to say it briefly. Each call has a deadline for the
//! process and all its children, limits on its output, an environment that holds nothing of ours, and a row in the
//! table of live operations.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::calls::PluginCalls;
use super::failure::Failure;
use super::settings::NetworkSettings;
use crate::model::{Classify, Error, Kind, Result};
use crate::ops::LiveTable;
use crate::sys::program::{self, Ended, PATH, Run};

/// Most of a plugin's standard output that is read.
const STDOUT_CAP: u64 = 1 << 20;
/// Most of its standard error that is kept.
const STDERR_CAP: u64 = 64 << 10;
/// Plugin processes at once.
const PARALLEL_MAX: usize = 64;
/// After this long a call is worth a line in the log.
const SLOW: Duration = Duration::from_secs(30);

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
    ended: PluginCalls,
}

impl Runner {
    pub(super) fn new(live: LiveTable) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(PARALLEL_MAX)),
            live,
            ended: PluginCalls::default(),
        }
    }

    /// The calls that have ended.
    pub(super) fn ended(&self) -> &PluginCalls {
        &self.ended
    }

    /// Runs the call and returns what the plugin wrote. Dropping this future kills the plugin and its children.
    pub(super) async fn run(
        &self,
        settings: &NetworkSettings,
        call: Call<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let row = match call.verb {
            Verb::Add => {
                let object = format!("{} {}", call.plugin_type, call.container_id);
                self.live.begin_for(call.container_id, "CNI ADD", object)
            }
            verb => self.live.begin(verb.operation(), call.container_id),
        };
        row.waits_on(Some(format!("a free slot for plugin {}", call.plugin_type)));
        let name = call.name();
        let work = async {
            let _slot = self
                .slots
                .acquire()
                .await
                .classify(Kind::Internal, || name.clone())?;
            let place = row.step("plugin");
            row.waits_on(Some(format!("plugin {}", call.plugin_type)));
            let began = Instant::now();
            let ran = place.hold(self.run_now(settings, &call)).await;
            let (plugin, operation) = (call.plugin_type, call.verb.command());
            self.ended
                .note(plugin, operation, began.elapsed(), ran.is_ok());
            if let Err(failure) = &ran {
                row.failed(&failure.words());
            }
            ran
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
        let run = Run {
            name: &call.name(),
            command: || command_of(settings, call, &path),
            input: &call.stdin,
            stdout_cap: STDOUT_CAP,
            stderr_cap: STDERR_CAP,
            deadline: call.deadline,
        };
        match run.to_end().await? {
            Some(ended) => answer_of(ended),
            None => Err(Error::timed_out(call.name(), call.deadline.duration_since(began)).into()),
        }
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
    match program::distrust(&metadata) {
        Some(wrong) => Err(Error::precondition(format!("{} {wrong}", path.display()))),
        None => Ok(path),
    }
}

fn command_of(settings: &NetworkSettings, call: &Call<'_>, path: &Path) -> std::process::Command {
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
        .env("CNI_PATH", bin_dirs.join(&OsString::from(":")));
    command
}

fn answer_of(ended: Ended) -> Result<Vec<u8>, Failure> {
    if longer_than(&ended.stdout, STDOUT_CAP) {
        let text = format!("it wrote more than {STDOUT_CAP} bytes");
        return Err(Error::internal(text).into());
    }
    if ended.status.success() {
        return Ok(ended.stdout);
    }
    Err(Failure::reported(
        ended.status,
        &ended.stdout,
        &ended.stderr,
    ))
}

fn longer_than(bytes: &[u8], cap: u64) -> bool {
    u64::try_from(bytes.len()).is_ok_and(|length| length > cap)
}

#[cfg(test)]
mod tests;
