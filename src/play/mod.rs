//! `podwright play`: runs a Kubernetes Pod manifest on any CRI socket, as kubelet would.
//!
//! ```text
//! manifest -> defaults -> pod, container (CRI messages; env, volumes, resources, security below them)
//!                |
//!             driver: sees (observe) -> decides (lifecycle) -> acts (start, hooks, probes) -> shows (view, status)
//! ```

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

mod client;
mod container;
mod defaults;
mod dirs;
mod down;
mod driver;
mod env;
mod exec;
mod fields;
mod hooks;
mod lifecycle;
mod logs;
mod manifest;
mod observe;
mod pod;
mod probes;
mod resources;
mod security;
mod start;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod users;
mod view;
mod volumes;

pub use dirs::Dirs;
pub use exec::exec;
pub use status::Show;

use client::Cri;
use defaults::Plan;
use driver::{Driver, Outcome, Setting, Until};
use manifest::ConfigMaps;
use observe::blocking;
use start::Ground;
use status::Screen;

use crate::model::{Clock, Context as _, Error, Result};

/// The largest manifest file that is read.
const FILE_MAX: u64 = 16 << 20;
/// The pause between two looks for new log records.
const LOG_PERIOD: Duration = Duration::from_millis(200);
/// Looks without news before the runtime is asked whether more can come.
const QUIET_LOOKS: u32 = 5;

/// What every part of `play` needs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The manifest.
    pub file: PathBuf,
    /// The runtime's socket.
    pub endpoint: PathBuf,
    /// Where pods' files lie.
    pub dirs: Dirs,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// How people call off what runs.
#[derive(Clone, Debug, Default)]
pub struct CallOff {
    /// Delete the pods gracefully.
    pub stop: CancellationToken,
    /// And without grace.
    pub hurry: CancellationToken,
}

/// How a pod is run.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Return once all ordinary containers run.
    pub detach: bool,
    /// Delete the pod when it has ended.
    pub remove: bool,
    /// The cgroup that the pods are put below; empty leaves it to the runtime.
    pub cgroup_parent: String,
    /// How the table is shown.
    pub show: Show,
}

struct Loaded {
    plans: Vec<Arc<Plan>>,
    config_maps: Arc<ConfigMaps>,
    warnings: Vec<String>,
}

/// Runs the file's pods until they have ended or been called off, which deletes them. Whether all went well.
///
/// # Errors
/// A manifest that is none, a runtime that is not there, and what no retry mends.
pub async fn up(
    options: &Options,
    up: &UpOptions,
    out: Box<dyn Write + Send>,
    call_off: CallOff,
) -> Result<bool> {
    let loaded = load(options).await?;
    let cri = Cri::connect(&options.endpoint).await?;
    let screen = Screen::new(out, up.show, loaded.plans.len());
    let screen = Arc::new(Mutex::new(screen));
    let say = |text: &str| {
        let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
        screen.say(text)
    };
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"))?;
    }
    let memory_total = blocking(crate::sys::memory::total_blocking).await?;
    let runs = loaded.plans.iter().enumerate().map(|(index, plan)| {
        let ground = Ground {
            cri: cri.clone(),
            plan: Arc::clone(plan),
            config_maps: Arc::clone(&loaded.config_maps),
            dirs: options.dirs.clone(),
            memory_total,
        };
        let setting = Setting {
            cgroup_parent: up.cgroup_parent.clone(),
            clock: Arc::clone(&options.clock),
            screen: Arc::clone(&screen),
            index,
            call_off: call_off.clone(),
        };
        let until = if up.detach { Until::Up } else { Until::Ended };
        async move { Driver::new(ground, setting).run(until).await }
    });
    let outcomes = join_all(runs).await;
    let mut well = true;
    for (plan, outcome) in loaded.plans.iter().zip(outcomes) {
        let title = plan.title();
        let done = match outcome.context(|| format!("pod {title}")) {
            Ok(Outcome::Succeeded) => true,
            Ok(Outcome::Up) => {
                say(&format!("{title}: runs; play --down ends it"))?;
                false
            }
            Ok(Outcome::Deleted) => {
                say(&format!("{title}: is deleted by somebody else"))?;
                continue;
            }
            Ok(Outcome::Interrupted) => {
                say(&format!("{title}: deleting it"))?;
                let graceful = down::delete(&cri, plan, &options.dirs, None);
                match call_off.hurry.run_until_cancelled(graceful).await {
                    Some(deleted) => deleted?,
                    None => down::delete(&cri, plan, &options.dirs, Some(0)).await?,
                };
                say(&format!("{title}: deleted"))?;
                continue;
            }
            Ok(Outcome::Failed(why)) => {
                well = false;
                let rest = if up.remove {
                    ""
                } else {
                    "; what was made stays until play --down"
                };
                say(&format!("{title}: failed: {why}{rest}"))?;
                true
            }
            Err(error) => {
                well = false;
                say(&error.chain())?;
                true
            }
        };
        if done && up.remove {
            down::delete(&cri, plan, &options.dirs, None).await?;
        }
    }
    Ok(well)
}

/// Deletes the file's pods gracefully; `grace_s` overrides their own grace periods.
///
/// # Errors
/// A manifest that is none, a runtime that is not there or refuses.
pub async fn down(options: &Options, grace_s: Option<i64>, out: &mut dyn Write) -> Result<()> {
    let loaded = load(options).await?;
    let cri = Cri::connect(&options.endpoint).await?;
    let deletions = loaded.plans.iter().map(|plan| async {
        let found = down::delete(&cri, plan, &options.dirs, grace_s).await;
        found.context(|| format!("delete pod {}", plan.title()))
    });
    let outcomes = join_all(deletions).await;
    let mut failed = None;
    for (plan, outcome) in loaded.plans.iter().zip(outcomes) {
        let word = match outcome {
            Ok(true) => "deleted",
            Ok(false) => "was not there",
            Err(error) => {
                failed = failed.or(Some(error));
                continue;
            }
        };
        // Nothing is left to tell a reader that is gone.
        drop(writeln!(out, "{}: {word}", plan.title()));
    }
    failed.map_or(Ok(()), Err)
}

/// Writes the containers' logs, from the newest attempt's beginning on; `follow` goes on while the pod is there.
///
/// # Errors
/// A manifest that is none, a container that is not in it, logs that cannot be read.
pub async fn logs(
    options: &Options,
    container: Option<&str>,
    follow: bool,
    mut out: Box<dyn Write + Send>,
) -> Result<()> {
    let loaded = load(options).await?;
    let mut plans = loaded.plans.into_iter();
    let (Some(plan), None) = (plans.next(), plans.next()) else {
        return Err(Error::invalid("--logs wants a file with one pod"));
    };
    let only = container.map(str::to_owned);
    let (shared, dirs) = (Arc::clone(&plan), options.dirs.clone());
    let mut follower =
        blocking(move || logs::Follower::new_blocking(&shared, &dirs, only.as_deref())).await?;
    let cri = if follow {
        Some(Cri::connect(&options.endpoint).await?)
    } else {
        None
    };
    let (mut quiet, mut last_pass) = (0_u32, false);
    loop {
        let (any, kept, writer) = blocking(move || {
            let any = follower.pass_blocking(out.as_mut())?;
            Ok((any, follower, out))
        })
        .await?;
        (follower, out) = (kept, writer);
        if any {
            quiet = 0;
            continue;
        }
        let Some(cri) = &cri else { return Ok(()) };
        if last_pass {
            return Ok(());
        }
        quiet = quiet.saturating_add(1);
        if quiet.is_multiple_of(QUIET_LOOKS) {
            // One more pass: a record may have come between the last look and the end.
            last_pass = !is_there(cri, &plan).await?;
        } else {
            tokio::time::sleep(LOG_PERIOD).await;
        }
    }
}

/// Whether the pod has a sandbox that is ready.
async fn is_there(cri: &Cri, plan: &Plan) -> Result<bool> {
    let ready = crate::wire::cri::PodSandboxState::SandboxReady;
    let found = cri.sandboxes(pod::identity(plan)).await?;
    Ok(found.iter().any(|sandbox| sandbox.state() == ready))
}

async fn load(options: &Options) -> Result<Loaded> {
    let path = options.file.clone();
    let what = || format!("manifest {}", options.file.display());
    let bytes = blocking(move || crate::sys::files::read_capped_blocking(&path, FILE_MAX))
        .await
        .context(what)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Error::invalid("it is not UTF-8 text").caused_by(error))
        .context(what)?;
    let manifest = manifest::parse(&text).context(what)?;
    if manifest.pods.is_empty() {
        return Err(Error::invalid(format!("{}: there is no Pod in it", what())));
    }
    let plans: Result<Vec<Plan>> = manifest.pods.into_iter().map(Plan::of).collect();
    let plans = plans.context(what)?;
    for (index, plan) in plans.iter().enumerate() {
        if plans
            .iter()
            .skip(index + 1)
            .any(|other| other.uid == plan.uid)
        {
            let text = format!("{}: pod {} stands in it twice", what(), plan.title());
            return Err(Error::invalid(text));
        }
    }
    Ok(Loaded {
        plans: plans.into_iter().map(Arc::new).collect(),
        config_maps: Arc::new(manifest.config_maps),
        warnings: manifest.warnings,
    })
}
