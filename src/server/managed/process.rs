//! Starting containerd as a process of its own, and finding who answers on a socket.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::collector::Variables;
use crate::config::settings;
use crate::model::{Classify as _, Error, Kind, Pid, Result};
use crate::sys::program::PATH;
use crate::sys::spawn::as_stranger;
use crate::sys::tools::look_up_blocking;

/// Name of its log below its root.
pub(super) const LOG: &str = "containerd.log";
/// A log larger than this is put aside at the next start.
const LOG_MAX: u64 = 16 * 1024 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Starts containerd in a session of its own, with no environment but `traces` and its output in its own log. It is reaped by
/// a thread, so that its end leaves no zombie.
///
/// # Errors
/// `FailedPrecondition` where the program is missing.
pub(super) fn spawn_blocking(
    settings: &settings::Managed,
    config: &Path,
    traces: &Variables,
) -> Result<Pid> {
    let program = look_up_blocking(&settings.binary).ok_or_else(|| {
        Error::precondition(format!(
            "no program {} ({PATH}); install containerd, or set managed_containerd.binary",
            settings.binary.display()
        ))
    })?;
    let log = open_log(&settings.root.join(LOG))?;
    let errors = log
        .try_clone()
        .classify(Kind::Internal, || "share containerd's log".into())?;
    let mut command = Command::new(&program);
    command
        .arg("--config")
        .arg(config)
        .env_clear()
        .envs(traces.iter())
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    as_stranger(&mut command);
    let mut child = command.spawn().classify(Kind::FailedPrecondition, || {
        format!("start {}", program.display())
    })?;
    let pid = Pid(child.id());
    std::thread::Builder::new()
        .name("managed-reaper".into())
        .spawn(move || match child.wait() {
            Ok(status) => tracing::info!(pid = pid.0, %status, "managed containerd reaped"),
            Err(error) => {
                tracing::warn!(pid = pid.0, %error, "managed containerd cannot be reaped")
            }
        })
        .classify(Kind::Internal, || {
            "start the thread that reaps containerd".into()
        })?;
    Ok(pid)
}

fn open_log(path: &Path) -> Result<File> {
    let what = || format!("open {}", path.display());
    let large = std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_MAX);
    if large {
        std::fs::rename(path, path.with_extension("log.1")).classify(Kind::Internal, what)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .classify(Kind::Internal, what)
}

/// The pid of the process that accepts connections on `socket`; `None` where nobody does. A connection proves that the
/// socket listens, which containerd does once its plugins are loaded.
pub(super) async fn answering_pid(socket: &Path) -> Option<Pid> {
    let connect = tokio::net::UnixStream::connect(socket);
    let peer: io::Result<_> = tokio::time::timeout(ANSWER_LIMIT, connect)
        .await
        .ok()?
        .and_then(|stream| stream.peer_cred());
    let pid = peer.ok()?.pid()?;
    u32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid)
}
