//! `podwright play`: a Pod manifest on any CRI socket.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::model::clock::SystemClock;
use crate::model::{Classify as _, Kind, Result};
use crate::ops::Supervisor;
use crate::play::{self, CallOff, Dirs, Options, Show, UpOptions};

#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct Args {
    /// The manifest: YAML documents, Pods and the ConfigMaps that they use.
    file: PathBuf,
    /// The socket of the container runtime.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/podwright/podwright.sock"
    )]
    endpoint: PathBuf,
    /// Return once all ordinary containers run; nobody restarts them then.
    #[arg(long, short, conflicts_with_all = ["down", "logs"])]
    detach: bool,
    /// Delete the pod when it has ended.
    #[arg(long, conflicts_with_all = ["down", "logs", "detach"])]
    rm: bool,
    /// Delete the pod gracefully.
    #[arg(long, conflicts_with = "logs")]
    down: bool,
    /// Seconds between stop signal and kill, in place of the manifest's.
    #[arg(long, value_name = "SECONDS", requires = "down")]
    grace_period: Option<u32>,
    /// Print the containers' logs.
    #[arg(long)]
    logs: bool,
    /// Go on printing what is logged, while the pod is there.
    #[arg(long, short, requires = "logs")]
    follow: bool,
    /// Print only this container's logs.
    #[arg(long, short, value_name = "NAME", requires = "logs")]
    container: Option<String>,
    /// Run a command, given behind `--`, in this container, and end with its exit code.
    #[arg(long, value_name = "NAME", requires = "command", conflicts_with_all = ["down", "logs", "detach", "rm"])]
    exec: Option<String>,
    /// The command for --exec.
    #[arg(last = true, requires = "exec")]
    command: Vec<String>,
    /// Where volumes and other files of pods lie.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podwright-play")]
    state_dir: PathBuf,
    /// Where logs of pods lie.
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    log_dir: PathBuf,
    /// Where Localhost seccomp profiles lie.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/seccomp")]
    seccomp_dir: PathBuf,
    /// The cgroup to put pods below, in the form of the runtime's cgroup driver; empty leaves it to the runtime.
    #[arg(long, value_name = "CGROUP", default_value = "")]
    cgroup_parent: String,
}

/// Runs the verb.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    let options = Options {
        file: args.file,
        endpoint: args.endpoint,
        dirs: Dirs {
            state: args.state_dir,
            logs: args.log_dir,
            seccomp: args.seccomp_dir,
        },
        clock: Arc::new(SystemClock),
    };
    let up = UpOptions {
        detach: args.detach,
        remove: args.rm,
        cgroup_parent: args.cgroup_parent,
        show: if std::io::stdout().is_terminal() {
            Show::Redraw
        } else {
            Show::Lines
        },
    };
    super::runtime()?.block_on(async {
        if args.down {
            let grace_s = args.grace_period.map(i64::from);
            let mut out = std::io::stdout();
            play::down(&options, grace_s, &mut out).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let out: Box<dyn Write + Send> = Box::new(std::io::stdout());
        if args.logs {
            let wanted = args.container.as_deref();
            return match play::logs(&options, wanted, args.follow, out).await {
                // Nobody reads any more.
                Err(error) if error.kind() == Kind::Cancelled => Ok(ExitCode::SUCCESS),
                outcome => outcome.map(|()| ExitCode::SUCCESS),
            };
        }
        if let Some(container) = args.exec {
            let (code, output) = play::exec(&options, &container, &args.command).await?;
            super::print(&output)?;
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
        }
        let call_off = on_signal()?;
        let well = play::up(&options, &up, out, call_off).await?;
        Ok(if well {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

/// The first SIGINT or SIGTERM calls off, the second one hurries.
fn on_signal() -> Result<CallOff> {
    let call_off = CallOff::default();
    let what = || "listen for signals".into();
    let mut interrupt = signal(SignalKind::interrupt()).classify(Kind::Internal, what)?;
    let mut terminate = signal(SignalKind::terminate()).classify(Kind::Internal, what)?;
    let heard = call_off.clone();
    Supervisor::new().watch("signals", async move {
        for token in [heard.stop, heard.hurry] {
            tokio::select! {
                _signal = interrupt.recv() => {}
                _signal = terminate.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(call_off)
}
