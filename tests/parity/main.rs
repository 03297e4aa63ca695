//! What podwright hands to containerd, beside what containerd's own CRI plugin writes for the same request: `make parity`.
//!
//! `generate` makes the requests, `descriptor` proves that no field and no enum value of them is missing, `endpoint`
//! runs both servers in namespaces that end with the run (`machine`), `visit` asks one of them and `observe` reads back,
//! `normalise` takes away what cannot be equal, `compare` finds the differences, and `table` holds them against
//! `accepted.toml`. See README.md.

mod compare;
mod descriptor;
mod endpoint;
mod generate;
mod image;
mod node;
mod normalise;
mod observe;
mod report;
mod requests;
mod run;
mod table;
mod visit;

/// What the integration tests' client expects of its surroundings.
mod case {
    /// What a step ends with.
    pub(crate) type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
}
#[path = "../it/client.rs"]
mod client;
#[path = "../stage/daemon.rs"]
mod daemon;
#[path = "../../src/wire/interface.rs"]
mod interface;
#[path = "../stage/machine.rs"]
mod machine;
#[path = "../stage/pause_image.rs"]
mod pause_image;
#[path = "../stage/pinned.rs"]
mod pinned;

use std::io::Write as _;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use case::Outcome;

fn main() -> ExitCode {
    if machine::is_inside() {
        return match run::all() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                say(&format!("parity: FAILED: {e}"));
                ExitCode::FAILURE
            }
        };
    }
    let arguments = Arguments::from_args();
    let obstacle = node::obstacle();
    let mut trials: Vec<Trial> = [
        (
            "requests.set_every_field_twice",
            descriptor::proof as fn() -> Outcome,
        ),
        (
            "requests.a_missing_field_is_noticed",
            descriptor::counter_proof,
        ),
        ("table.patterns_match_what_they_say", table::proof),
        ("compare.finds_each_difference_once", compare::proof),
        (
            "normalise.takes_away_what_cannot_be_equal",
            normalise::proof,
        ),
    ]
    .into_iter()
    .map(|(name, proof)| trial(name, proof))
    .collect();
    trials.push(trial("parity", node::enter).with_ignored_flag(obstacle.is_some()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Some(reason) = obstacle.filter(|_obstacle| !arguments.list) {
        say(&format!("parity: SKIPPED: {reason}"));
    }
    conclusion.exit_code()
}

fn trial(name: &str, run: fn() -> Outcome) -> Trial {
    Trial::test(name, move || run().map_err(|e| e.to_string().into()))
}

/// One line to whoever watches.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// A line for whoever asked for more.
pub(crate) fn verbose(line: &str) {
    if std::env::var_os("PODWRIGHT_PARITY_VERBOSE").is_some() {
        say(line);
    }
}

/// Fails with `message` unless `fact` holds.
pub(crate) fn ensure(fact: bool, message: impl FnOnce() -> String) -> Outcome {
    if fact { Ok(()) } else { Err(message().into()) }
}
