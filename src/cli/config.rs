//! `podwright config`: the default file, the reference, and the check of a file.

use std::process::ExitCode;

use clap::Subcommand;

use super::ConfigFile;
use crate::config::{self, Config, Overrides};
use crate::devices;
use crate::model::Result;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a file with every key documented and at its default.
    Default,
    /// Print the reference of all keys as Markdown.
    Reference,
    /// Check a file; every problem is named with line, key and rule.
    Check(ConfigFile),
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Default => super::print(&config::default_file())?,
        Verb::Reference => super::print(&config::reference())?,
        Verb::Check(file) => {
            let config = Config::load(file.config.as_deref(), &Overrides::default())?;
            let broken = devices::broken_class_files_blocking(&config.containers);
            for warning in config.warnings().into_iter().chain(broken) {
                super::print(&format!("WARN {warning}\n"))?;
            }
            super::print("OK\n")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
