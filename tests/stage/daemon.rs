//! Starting the servers of a run, and waiting until they answer.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwright::wire::cri;

use crate::case::Outcome;
use crate::client::Cri;

const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a daemon whose output goes to `log`.
pub(crate) fn start(command: &mut Command, log: &Path) -> Outcome<Child> {
    let file = File::options().create(true).append(true).open(log)?;
    Ok(command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?)
}

/// Asks a daemon to end, and waits until it has.
pub(crate) async fn end(mut daemon: Child) -> Outcome {
    kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
    tokio::task::spawn_blocking(move || daemon.wait()).await??;
    Ok(())
}

/// Waits until something listens on a unix socket.
pub(crate) async fn until_listening(socket: &str) -> Outcome {
    let began = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if began.elapsed() > PATIENCE {
            return Err(format!("nothing answers on {socket}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until both conditions of Status are true, looking every 2 ms.
pub(crate) async fn until_ready(cri: &Cri) -> Outcome {
    let began = Instant::now();
    loop {
        let request = cri::StatusRequest { verbose: false };
        let reply = cri.runtime.clone().status(request).await;
        let is_ready = reply.as_ref().is_ok_and(|reply| {
            let status = reply.get_ref().status.as_ref();
            status.is_some_and(|s| s.conditions.iter().take(2).all(|c| c.status))
        });
        if is_ready {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("the server is not ready: {reply:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What `Version` says.
pub(crate) async fn version(cri: &Cri) -> Outcome<String> {
    let request = cri::VersionRequest::default();
    let version = cri.runtime.clone().version(request).await?.into_inner();
    let (name, number) = (version.runtime_name, version.runtime_version);
    Ok(format!("{name} {number}"))
}

/// Runs a program to its end; its failure is an error with its own words.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{command:?}: {complaint}").into())
}

/// Builds the stand-in images. It may have to fetch a package, for which there is no network on a machine of our own.
pub(crate) fn build_images() -> Outcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/images/build");
    run(Command::new(script).arg(images()))
}

/// The archive of the stand-in image that [`build_images`] has made.
pub(crate) fn busybox() -> PathBuf {
    images().join("busybox.tar")
}

fn images() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("images")
}

/// Has the podwright of this run take archives in.
pub(crate) fn import(archive: &Path) -> Outcome {
    run(Command::new(env!("CARGO_BIN_EXE_podwright"))
        .args(["image", "import"])
        .arg(archive))
}
