//! Argument parsing and dispatch: one file a verb.
//!
//! Exit codes: 0 done, 1 failed (the reason is on standard error), 2 the command line is wrong.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod config;
mod version;

use crate::model::{Classify as _, Kind, Result};

/// A Kubernetes CRI runtime server that has containerd run its pods.
#[derive(Debug, Parser)]
#[command(name = "podwright", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the default configuration, or check a file.
    Config(config::Args),
    /// Print the version.
    Version,
}

/// Where the configuration lies.
#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration; without this flag, /etc/podwright/config.toml where it exists.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the program with `arguments`, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Nothing is left to tell a caller whose standard error is gone.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let outcome = match cli.verb {
        Verb::Config(args) => config::run(&args),
        Verb::Version => version::run(),
    };
    outcome.unwrap_or_else(|error| {
        drop(writeln!(
            std::io::stderr().lock(),
            "podwright: {}",
            error.chain()
        ));
        ExitCode::FAILURE
    })
}

/// Prints `text` to standard output. A reader that went away is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.classify(Kind::Internal, || "write to standard output".into()),
    }
}
