//! The life of the server, phase by phase.
//!
//! ```text
//! log -> signals -> directories and locks -> managed containerd -> socket -> rooms
//!     -> serve (Version and Status answer, everything else is Unavailable)
//!        beside it: containerd answers -> its CRI plugin is off -> recover -> READY
//!     -> a signal -> refuse what is new -> wait for what runs -> end; containers run on
//! ```

use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::FusedFuture;
use tokio::sync::oneshot;

use super::collector::Variables;
use super::house::{House, node_name};
use super::managed::Managed;
use super::signals::{Signals, Word};
use super::sockets::{self, Admission, Listening};
use super::traced::Tracing;
use super::{dirs, logging, notify, serve, watchdog};
use crate::config::{Config, Overrides, Shared};
use crate::model::{Error, Result};
use crate::ops;
use crate::telemetry::traces::{Settings, Traces};

/// Names the socket at which every gated step reports, in tests.
const GATE: &str = "PODWRIGHT_GATE";
/// How long the replies of the last operations may take to their callers.
const LAST_REPLIES: Duration = Duration::from_secs(1);
/// How long the last traces may take to their collector.
const LAST_TRACES: Duration = Duration::from_secs(2);

/// Where the configuration came from, so that a reload reads the same.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The file; `None` is the default one.
    pub path: Option<PathBuf>,
    /// What flags say over it.
    pub overrides: Overrides,
}

/// Serves until a signal says stop.
///
/// # Errors
/// Whatever keeps it from starting, or ends it early.
pub async fn run(config: Config, origin: Origin) -> Result<()> {
    let variables = Variables::gather(std::env::vars_os(), &config.tracing);
    let traces = Settings::from_variables(|name| variables.get(name))?;
    let level = logging::install(&config.diagnostics)?;
    let mut signals = Signals::listen()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "podwright starts"
    );
    for warning in config.warnings() {
        tracing::warn!("configuration: {warning}");
    }
    let traces = match traces {
        Some(settings) => Some(Traces::start(settings, &node_name()?).await?),
        None => None,
    };
    let ground = tokio::select! {
        ground = Ground::lay(&config, variables.of_containerd()) => ground?,
        () = told_to_stop(&mut signals) => return Ok(()),
    };
    let limits = config.server.clone();
    let socket = ground.listening.path().unwrap_or(limits.socket.clone());
    let shared = Shared::new(config);
    let house = House::build(shared.clone(), origin, level).await?;
    house.serve_metrics(traces.as_ref());
    let closing = house.closing().clone();
    let managed = ground.managed.map(|managed| kept(managed, &house));
    let serving = serve::serve(
        ground.listening,
        ground.admission,
        &limits,
        house.routes(),
        Tracing(traces.clone()),
        closing.clone(),
    );
    let mut serving = std::pin::pin!(serving.fuse());
    let mut starting = std::pin::pin!(notify::while_starting("recovering", house.recover()).fuse());

    let ended = loop {
        tokio::select! {
            word = signals.next() => match word {
                Word::Stop => break Ok(()),
                Word::Reload => house.reload(),
            },
            served = &mut serving => {
                break served.and(Err(Error::internal("the listener ended by itself")));
            }
            started = &mut starting, if !starting.is_terminated() => {
                if let Err(error) = started {
                    break Err(error);
                }
                watchdog::start(house.supervisor(), socket.clone(), house.streaming_address());
                notify::ready();
                tracing::info!(socket = %socket.display(), "serving");
            }
        }
    };
    if let Err(error) = &ended {
        tracing::error!(%error, "podwright ends");
    }

    leave(&house, &shared, serving, &mut signals).await;
    end_managed(managed, &shared).await;
    if let Some(traces) = traces {
        traces.flush(LAST_TRACES).await;
    }
    tracing::info!("podwright ends; containers run on");
    ended
}

/// Refuses what is new, waits for running operations, and lets their callers have the answers.
async fn leave(
    house: &House,
    shared: &Shared,
    mut serving: Pin<&mut impl FusedFuture<Output = Result<()>>>,
    signals: &mut Signals,
) {
    let limit = shared.load().server.drain_deadline;
    notify::stopping(limit);
    house.closing().cancel();
    let left = {
        let mut drain = std::pin::pin!(house.supervisor().drain(limit));
        let drained = async {
            tokio::select! {
                left = &mut drain => left,
                _ = &mut serving, if !serving.is_terminated() => drain.await,
            }
        };
        tokio::select! {
            left = drained => left,
            () = told_to_stop(signals) => {
                tracing::warn!("told to stop again: not waiting for operations");
                house.supervisor().running()
            }
        }
    };
    if !serving.is_terminated() {
        // What was drained is being answered; streams would go on for ever.
        drop(tokio::time::timeout(LAST_REPLIES, &mut serving).await);
    }
    if left > 0 {
        tracing::warn!(
            left,
            "operations are cut short; the next start finishes or undoes them"
        );
    }
}

/// What everything else stands on.
struct Ground {
    _state_lock: File,
    admission: Admission,
    managed: Option<Managed>,
    listening: Listening,
}

impl Ground {
    /// Directories and locks, the managed containerd, the socket, in this order: a second server is refused before it
    /// touches anything of the first. `of_containerd` says where a managed containerd sends its traces.
    async fn lay(config: &Config, of_containerd: Variables) -> Result<Self> {
        let server = config.server.clone();
        let (state_lock, admission) = off_thread(move || {
            let lock = dirs::prepare_blocking(&server)?;
            Admission::of_group_blocking(server.socket_group.as_deref()).map(|group| (lock, group))
        })
        .await?;
        if let Some(gate) = std::env::var_os(GATE) {
            ops::gate::arm(&PathBuf::from(gate))?;
        }
        let managed = start_managed(config, of_containerd).await?;
        let (path, group) = (config.server.socket.clone(), admission.clone());
        let listening = off_thread(move || sockets::listen_blocking(&path, &group)).await?;
        Ok(Self {
            _state_lock: state_lock,
            admission,
            managed,
            listening,
        })
    }
}

async fn start_managed(config: &Config, traces: Variables) -> Result<Option<Managed>> {
    if !config.managed_containerd.enabled {
        return Ok(None);
    }
    let start = Managed::ensure(&config.managed_containerd, traces);
    notify::while_starting("starting the managed containerd", start)
        .await
        .map(Some)
}

/// Keeps the managed containerd running, in a task of its own, until the house closes; then it is handed back.
fn kept(managed: Managed, house: &House) -> oneshot::Receiver<Managed> {
    let (back, receiver) = oneshot::channel();
    let closing = house.closing().clone();
    house.supervisor().watch("managed containerd", async move {
        if back.send(managed.keep(closing).await).is_err() {
            tracing::debug!("nobody waits for the managed containerd any more");
        }
    });
    receiver
}

async fn end_managed(managed: Option<oneshot::Receiver<Managed>>, shared: &Shared) {
    let Some(back) = managed else { return };
    if !shared.load().managed_containerd.stop_at_exit {
        tracing::info!("the managed containerd runs on; the next start finds it");
        return;
    }
    let ended = match back.await {
        Ok(managed) => managed.end().await,
        Err(_panicked) => Err(Error::internal("its task ended early")),
    };
    if let Err(error) = ended {
        tracing::error!(%error, "the managed containerd was not ended");
    }
}

/// Waits for a request to stop; there is nothing to reload meanwhile.
async fn told_to_stop(signals: &mut Signals) {
    while signals.next().await != Word::Stop {}
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::internal("a helper thread died").caused_by(error)))
}
