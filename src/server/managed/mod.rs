//! The private containerd of `serve --managed-containerd`: started once, found again by the next start of ours, never
//! started twice on the same root. It runs on when we end, since its containers do, unless the operator says otherwise.
//!
//! ```text
//! lock the root -> recorded process alive? -> adopt it
//!                  else somebody answers?  -> adopt who answers (our record was lost with us)
//!                  else write its configuration, start it, record it, wait until it answers
//! ```

mod process;
mod template;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::collector::Variables;
use crate::config::settings;
use crate::model::{Classify as _, Context as _, Error, Kind, Pid, Result};
use crate::sys::files;
use crate::sys::host_facts::oom_score_adj_blocking;
use crate::sys::process::{PidFd, ProcessIdentity};

use process::{answering_pid, spawn_blocking};

/// How often a starting containerd is asked whether it answers.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long an asked-for end may take.
const END_LIMIT: Duration = Duration::from_secs(15);
/// The pause after a start that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
const RECORD: &str = "podwright-managed.json";
const RECORD_CAP: u64 = 4096;

/// A managed containerd that answers. Dropping the handle leaves it running.
#[derive(Debug)]
pub(super) struct Managed {
    settings: settings::Managed,
    /// Where it sends its traces.
    traces: Variables,
    process: PidFd,
    _root_lock: File,
}

impl Managed {
    /// Finds the running instance or starts one, which sends its traces as `traces` say, and waits until it answers.
    ///
    /// # Errors
    /// `FailedPrecondition` where another podwright holds the root, or the program is missing; `Unavailable` where
    /// containerd runs and does not answer in time.
    pub(super) async fn ensure(settings: &settings::Managed, traces: Variables) -> Result<Self> {
        let root_lock = {
            let settings = settings.clone();
            blocking(move || prepare_blocking(&settings)).await?
        };
        let (process, adopted) = match find(settings).await? {
            Some(process) => (process, true),
            None => (start(settings, &traces).await?, false),
        };
        tracing::info!(pid = process.pid().0, adopted, socket = %socket(settings).display(), "managed containerd answers");
        Ok(Self {
            settings: settings.clone(),
            traces,
            process,
            _root_lock: root_lock,
        })
    }

    /// Watches the process and starts it again whenever it ends, until `closing`; then hands itself back.
    pub(super) async fn keep(mut self, closing: CancellationToken) -> Self {
        while let Some(ended) = closing.run_until_cancelled(self.process.exited()).await {
            if let Err(error) = ended {
                tracing::error!(%error, "the managed containerd cannot be watched");
                closing.cancelled().await;
                break;
            }
            tracing::warn!(
                pid = self.process.pid().0,
                "the managed containerd ended; starting it again"
            );
            // Not interrupted: a start must be recorded before anything else may happen.
            while let Err(error) = self.again().await {
                tracing::error!(%error, "the managed containerd does not start");
                let pause = tokio::time::sleep(AFTER_FAILURE);
                if closing.run_until_cancelled(pause).await.is_none() {
                    break;
                }
            }
        }
        self
    }

    async fn again(&mut self) -> Result<()> {
        self.process = match find(&self.settings).await? {
            Some(process) => process,
            None => start(&self.settings, &self.traces).await?,
        };
        tracing::info!(
            pid = self.process.pid().0,
            "the managed containerd answers again"
        );
        Ok(())
    }

    /// Ends containerd in good order. Shims and containers run on.
    ///
    /// # Errors
    /// `DeadlineExceeded` where it does not end; it is left alone then.
    pub(super) async fn end(self) -> Result<()> {
        let what = || format!("end the managed containerd, process {}", self.process.pid());
        match self.process.kill(nix::sys::signal::Signal::SIGTERM) {
            Err(error) if !error.is_not_found() => return Err(error).context(what),
            _ => {}
        }
        match tokio::time::timeout(END_LIMIT, self.process.exited()).await {
            Ok(ended) => ended.context(what),
            Err(_elapsed) => Err(Error::timed_out(what(), END_LIMIT)),
        }
    }
}

/// Its socket.
fn socket(settings: &settings::Managed) -> PathBuf {
    settings.state.join("containerd.sock")
}

/// Makes the directories and takes the root's lock, which the kernel frees when we end.
fn prepare_blocking(settings: &settings::Managed) -> Result<File> {
    // Processes in user namespaces walk through both directories to their root file systems; nobody lists them.
    files::make_dir_blocking(&settings.root, 0o711)?;
    files::make_dir_blocking(&settings.state, 0o711)?;
    files::make_dir_blocking(&settings.state.join("runc"), 0o700)?;
    super::lock::take_blocking(
        &settings.root.join("podwright.lock"),
        super::lock::PATIENCE,
        || {
            format!(
                "another podwright manages a containerd on {}; stop it first, or set managed_containerd.root and .state",
                settings.root.display()
            )
        },
    )
}

/// The running instance: the recorded process, else whoever answers on the private socket. A recorded one that does
/// not answer within the start deadline is an error, since a second one must never be started beside it.
async fn find(settings: &settings::Managed) -> Result<Option<PidFd>> {
    let record = settings.state.join(RECORD);
    let recorded = blocking(move || recorded_blocking(&record)).await?;
    if let Some(process) = recorded {
        wait_until_answering(settings, &process).await?;
        return Ok(Some(process));
    }
    let Some(pid) = answering_pid(&socket(settings)).await else {
        return Ok(None);
    };
    let process = PidFd::open(pid)?;
    note(settings, pid).await?;
    Ok(Some(process))
}

async fn start(settings: &settings::Managed, traces: &Variables) -> Result<PidFd> {
    let pid = {
        let (settings, traces) = (settings.clone(), traces.clone());
        blocking(move || {
            let config = settings.state.join("config.toml");
            let own_score = oom_score_adj_blocking(Pid(std::process::id()))?;
            let text = template::render(&settings, own_score);
            files::write_atomic_blocking(&config, text.as_bytes(), 0o600)?;
            spawn_blocking(&settings, &config, &traces)
        })
        .await?
    };
    // Reaped already: it ended before anything could be asked about it.
    let gone = |error: Error| match error.is_not_found() {
        true => ended_at_once(settings, pid),
        false => error,
    };
    let process = PidFd::open(pid).map_err(gone)?;
    note(settings, pid).await.map_err(gone)?;
    wait_until_answering(settings, &process).await?;
    Ok(process)
}

fn ended_at_once(settings: &settings::Managed, pid: Pid) -> Error {
    Error::unavailable(format!(
        "the managed containerd, process {pid}, ended at once; its log {} says why",
        settings.root.join(process::LOG).display()
    ))
}

async fn note(settings: &settings::Managed, pid: Pid) -> Result<()> {
    let path = settings.state.join(RECORD);
    blocking(move || {
        let identity = ProcessIdentity::of_blocking(pid)?;
        let text = serde_json::to_vec(&identity).classify(Kind::Internal, || {
            "write down the managed containerd".into()
        })?;
        files::write_atomic_blocking(&path, &text, 0o600)
    })
    .await
}

/// A handle on the recorded process, where exactly that one still runs.
fn recorded_blocking(record: &Path) -> Result<Option<PidFd>> {
    let text = match files::read_capped_blocking(record, RECORD_CAP) {
        Ok(text) => text,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(identity) = serde_json::from_slice::<ProcessIdentity>(&text) else {
        tracing::warn!(record = %record.display(), "the record of the managed containerd is damaged; looking who answers");
        return Ok(None);
    };
    // Opened before the comparison: what is compared is then the process that the handle holds.
    let process = match PidFd::open(Pid(identity.pid)) {
        Ok(process) => process,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(identity.is_alive_blocking()?.then_some(process))
}

async fn wait_until_answering(settings: &settings::Managed, process: &PidFd) -> Result<()> {
    let limit = settings.start_deadline;
    let log = settings.root.join(process::LOG);
    let wait = async {
        loop {
            if answering_pid(&socket(settings)).await.is_some() {
                return Ok(());
            }
            if process.has_exited()? {
                return Err(ended_at_once(settings, process.pid()));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(limit, wait)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(Error::unavailable(format!(
                "the managed containerd, process {}, runs but does not answer within {limit:?}; see {}, or end that process",
                process.pid(),
                log.display()
            )))
        })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error::internal("managed containerd: a helper thread died").caused_by(error))
        })
}

#[cfg(test)]
mod tests;
