//! The FIFOs of tasks and execs: `<state>/containers/<id>/io/{stdin,stdout,stderr}`, and a directory of its own for each
//! exec, gone with it.

use std::path::{Path, PathBuf};

use crate::containerd::Stdio;
use crate::logs::Fifos;
use crate::model::{ContainerId, ExecId, Result};
use crate::sandbox::Deps;
use crate::sys;

/// Which streams a process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Streams {
    /// Something may be written to it.
    pub(super) stdin: bool,
    /// One terminal instead of stdout and stderr.
    pub(super) tty: bool,
}

/// Directory of the init process's FIFOs.
pub(super) fn task_dir(deps: &Deps, id: &ContainerId) -> PathBuf {
    deps.state_dir("containers", id.as_str()).join("io")
}

/// Directory of one exec's FIFOs.
pub(super) fn exec_dir(deps: &Deps, id: &ContainerId, exec: &ExecId) -> PathBuf {
    deps.state_dir("containers", id.as_str())
        .join("exec")
        .join(exec.as_str())
}

/// The paths in `dir` that a process with `streams` gets.
pub(super) fn stdio(dir: &Path, streams: Streams) -> Stdio {
    Stdio {
        stdin: streams.stdin.then(|| dir.join("stdin")),
        stdout: Some(dir.join("stdout")),
        stderr: (!streams.tty).then(|| dir.join("stderr")),
        terminal: streams.tty,
    }
}

/// Makes the FIFOs of `stdio` in `dir`, anew where they are there.
pub(super) async fn make(dir: PathBuf, stdio: Stdio) -> Result<Stdio> {
    sys::off_thread("make FIFOs", move || {
        sys::files::make_dir_blocking(&dir, 0o700)?;
        for path in [&stdio.stdin, &stdio.stdout, &stdio.stderr]
            .into_iter()
            .flatten()
        {
            sys::files::remove_file_blocking(path)?;
            sys::fifo::make(path)?;
        }
        Ok(stdio)
    })
    .await
}

/// Removes an exec's directory; what is left of it is removed with the container.
pub(super) async fn remove(dir: PathBuf) -> Result<()> {
    sys::off_thread("remove an exec's FIFOs", move || {
        sys::remove_tree_blocking(&dir)
    })
    .await
}

/// The output FIFOs, as the pump takes them; `None` where the process has none.
pub(super) fn outputs(stdio: &Stdio) -> Option<Fifos> {
    stdio.stdout.clone().map(|stdout| Fifos {
        stdout,
        stderr: stdio.stderr.clone(),
    })
}
