//! `podwright config`: the default file, the reference, and the check of a file.

use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigFile, Server};
use crate::config::{self, Config, Overrides};
use crate::devices;
use crate::image;
use crate::model::Result;
use crate::wire::admin::{ConfigurationChange, ReloadConfigurationRequest};

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
    /// Have the server read its file again, and say what changed; a file that breaks a rule changes nothing.
    Reload(Server),
}

/// Runs the verb.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Verb::Default => super::print(&config::default_file())?,
        Verb::Reference => super::print(&config::reference())?,
        Verb::Check(file) => {
            let config = Config::load(file.config.as_deref(), &Overrides::default())?;
            let broken = devices::broken_class_files_blocking(&config.containers);
            let verifiers = image::broken_verifiers_blocking(&config.images.verifiers)
                .into_iter()
                .map(|(_program, why)| format!("images.verifiers: {why}"));
            for warning in config.warnings().into_iter().chain(broken).chain(verifiers) {
                super::print(&format!("WARN {warning}\n"))?;
            }
            super::print("OK\n")?;
        }
        Verb::Reload(server) => {
            let request = ReloadConfigurationRequest {};
            let reply = server.ask("reload the configuration", async |mut admin| {
                admin.reload_configuration(request).await
            })?;
            super::print(&shown(&reply.changes))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A line a key.
fn shown(changes: &[ConfigurationChange]) -> String {
    if changes.is_empty() {
        return "nothing has changed\n".into();
    }
    let line = |change: &ConfigurationChange| {
        let when = match change.waits_for_restart {
            true => "waits for a restart",
            false => "done",
        };
        format!(
            "{}: {} -> {} ({when})\n",
            change.key, change.before, change.after
        )
    };
    changes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_says_of_each_key_what_it_was_and_whether_it_is_done() {
        let change = |key: &str, waits_for_restart| ConfigurationChange {
            key: key.into(),
            before: "1".into(),
            after: "2".into(),
            waits_for_restart,
        };

        assert_eq!(
            shown(&[change("a.b", false), change("a.c", true)]),
            "a.b: 1 -> 2 (done)\na.c: 1 -> 2 (waits for a restart)\n"
        );
        assert_eq!(shown(&[]), "nothing has changed\n");
    }
}
