//! `podwright doctor`: what is wrong with this node, and what to do about it.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::ConfigFile;
use crate::config::{Config, Overrides};
use crate::containerd::grpc::{self, ChannelSettings};
use crate::model::Result;
use crate::model::clock::{Clock as _, SystemClock};
use crate::node::checks::{self, Check, Outcome, facts};
use crate::server::network_settings;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Look at the private containerd of `serve --managed-containerd`.
    #[arg(long)]
    managed_containerd: bool,
}

/// Prints every finding. Fails where pods will not run.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let overrides = Overrides {
        managed_containerd: args.managed_containerd,
        ..Overrides::default()
    };
    let config = Config::load(args.file.config.as_deref(), &overrides)?;
    let facts = super::runtime()?.block_on(async {
        let client = grpc::connect(&ChannelSettings {
            address: config.containerd.address.clone(),
            namespace: config.containerd.namespace.clone(),
        })?;
        facts::gather(
            &config,
            &client.containerd,
            network_settings(&config),
            SystemClock.now(),
        )
        .await
    })?;
    let checks = checks::judge(&facts);
    super::print(&report(&checks))?;
    let failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A line a finding, its remedy below it.
fn report(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let finding = check.finding.escape_debug();
        // Writing to a String cannot fail.
        let mut line = || {
            writeln!(
                out,
                "{:<4}  {:<width$}  {finding}",
                check.outcome.word(),
                check.name
            )?;
            if !check.remedy.is_empty() {
                writeln!(out, "      {:<width$}  -> {}", "", check.remedy)?;
            }
            Ok::<(), std::fmt::Error>(())
        };
        if line().is_err() {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_stands_on_a_line_and_its_remedy_below_it() {
        let check = |name: &str, outcome, finding: &str, remedy: &str| Check {
            name: name.into(),
            outcome,
            finding: finding.into(),
            remedy: remedy.into(),
        };
        let text = report(&[
            check("user", Outcome::Ok, "root", ""),
            check("containerd", Outcome::Fail, "refused\nforged", "start it"),
        ]);

        assert_eq!(
            text,
            "OK    user        root\n\
             FAIL  containerd  refused\\nforged\n\
             \x20                 -> start it\n"
        );
    }
}
