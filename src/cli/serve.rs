//! `podwright serve`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::ConfigFile;
use crate::config::{Config, LogFormat, Overrides};
use crate::model::Result;
use crate::server::{self, Origin};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The unix socket to serve on, in place of server.socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Run a private containerd, or find the one that an earlier start left running.
    #[arg(long)]
    managed_containerd: bool,
    /// Stop the private containerd when the server stops; containers run on.
    #[arg(long, requires = "managed_containerd")]
    managed_stop: bool,
    /// In place of diagnostics.level.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log lines as JSON objects, in place of diagnostics.format.
    #[arg(long)]
    log_json: bool,
}

/// Serves until a signal says stop.
pub(super) fn run(args: Args) -> Result<ExitCode> {
    let origin = Origin {
        path: args.file.config,
        overrides: Overrides {
            managed_containerd: args.managed_containerd,
            managed_stop: args.managed_stop,
            socket: args.socket,
            log_level: args.log_level,
            log_format: args.log_json.then_some(LogFormat::Json),
        },
    };
    let config = Config::load(origin.path.as_deref(), &origin.overrides)?;
    super::runtime()?.block_on(server::run(config, origin))?;
    Ok(ExitCode::SUCCESS)
}
