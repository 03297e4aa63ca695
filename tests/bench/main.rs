//! podwright beside containerd's own CRI plugin, in one run: `make bench`.
//!
//! Both get a private containerd of the same version, the same OCI runtime, the same CNI plugins and the same image, in
//! namespaces that end with the run. Samples alternate between the two, so that whatever else the machine does falls on
//! both. Bare times say little about another machine, therefore each row ends with the ratio of the medians, its 95 %
//! interval and the budget.

mod chart;
mod endpoint;
mod floor;
mod latency;
mod lifecycle;
mod lists;
mod memory;
mod pull;
mod report;
mod requests;
mod sample;
mod throughput;

/// What the integration tests' client expects of its surroundings.
mod case {
    /// What a step ends with.
    pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
}
#[path = "../it/client.rs"]
mod client;
#[path = "../stage/daemon.rs"]
mod daemon;
#[path = "../stage/machine.rs"]
mod machine;
#[path = "../stage/pause_image.rs"]
mod pause_image;
#[path = "../stage/registry.rs"]
mod registry;

use std::io::Write as _;
use std::process::ExitCode;

use case::Outcome;
use endpoint::Endpoint;
use report::Report;

fn main() -> ExitCode {
    let outcome = if machine::is_inside() {
        measure()
    } else {
        enter()
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            drop(writeln!(std::io::stderr(), "bench: FAILED: {e}"));
            ExitCode::FAILURE
        }
    }
}

/// Starts this program again on a machine of its own, and waits for it.
fn enter() -> Outcome {
    if let Some(obstacle) = machine::obstacle() {
        return Err(obstacle.into());
    }
    match machine::enter("bench")? {
        (status, _home) if status.success() => Ok(()),
        (status, _home) => Err(format!("the run inside the namespaces ended with {status}").into()),
    }
}

/// How much is measured, from the environment: `BENCH_QUICK=1` for minutes instead of a quarter of an hour.
pub(crate) struct Plan {
    /// Whole pod lifecycles per endpoint.
    pub(crate) lifecycles: usize,
    /// Sizes at which lists and memory are measured.
    pub(crate) sizes: Vec<usize>,
    /// Calls of each reading RPC.
    pub(crate) reads: usize,
    /// Cold pulls per endpoint.
    pub(crate) pulls: usize,
    /// Pods started for each degree of parallelism.
    pub(crate) burst: usize,
    /// One part alone, with `BENCH_ONLY=pulls` or `BENCH_ONLY=execs`.
    pub(crate) only: Option<Part>,
}

/// A part of the benchmark that can be asked for alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Pulls.
    Pulls,
    /// Whole pods, and the floor of an exec.
    Execs,
}

impl Part {
    fn from_environment() -> Outcome<Option<Self>> {
        let Some(only) = std::env::var_os("BENCH_ONLY") else {
            return Ok(None);
        };
        match only.to_str() {
            Some("pulls") => Ok(Some(Self::Pulls)),
            Some("execs") => Ok(Some(Self::Execs)),
            _ => {
                Err(format!("BENCH_ONLY is {only:?}, and is pulls or execs where it is set").into())
            }
        }
    }
}

impl Plan {
    fn has(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn from_environment() -> Outcome<Self> {
        let only = Part::from_environment()?;
        let plan = if std::env::var_os("BENCH_QUICK").is_some() {
            Self {
                lifecycles: 20,
                sizes: vec![0, 20],
                reads: 200,
                burst: 16,
                only,
                pulls: 2,
            }
        } else {
            Self {
                lifecycles: 60,
                sizes: vec![0, 20, 110],
                reads: 500,
                burst: 64,
                only,
                pulls: if only == Some(Part::Pulls) { 15 } else { 5 },
            }
        };
        Ok(plan)
    }
}

fn measure() -> Outcome {
    let plan = Plan::from_environment()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(async {
        let home = machine::prepare()?;
        let ours = endpoint::podwright(&home).await?;
        let peer = endpoint::plugin(&home).await?;
        let mut report = Report::new(&ours.version, &peer.version, &endpoint::oci_runtime());
        if plan.has(Part::Execs) {
            say("lifecycles");
            lifecycle::measure(&plan, &ours, &peer, &mut report).await?;
            say("the floor of an exec");
            floor::measure(&plan, &ours, &mut report).await?;
        }
        if plan.has(Part::Pulls) {
            say("pulls");
            pull::measure(&plan, &home, &ours, &peer, &mut report).await?;
        }
        if plan.only.is_none() {
            rest(&plan, &ours, &peer, &mut report).await?;
        }
        ours.stop().await?;
        peer.stop().await?;
        Outcome::Ok(report)
    })?;
    report.print()?;
    report.save()
}

/// What is measured where nothing is asked for alone.
async fn rest(plan: &Plan, ours: &Endpoint, peer: &Endpoint, report: &mut Report) -> Outcome {
    say("exits");
    latency::exits(plan, ours, peer, report).await?;
    latency::events(plan, ours, peer, report).await?;
    for &size in &plan.sizes {
        say(&format!("lists and memory at {size} pods"));
        lists::measure(plan, size, ours, peer, report).await?;
    }
    for parallelism in [1, 8, 32] {
        say(&format!("pods a second, {parallelism} at a time"));
        throughput::measure(plan, parallelism, ours, peer, report).await?;
    }
    Ok(())
}

/// One line about what happens now.
fn say(what: &str) {
    drop(writeln!(std::io::stderr(), "bench: {what}"));
}
