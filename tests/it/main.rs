//! Integration tests over a real containerd: each case runs on a node of its own (`node/`), made of namespaces.
//!
//! The test program starts itself again in three roles: `enter` makes the namespaces, `init` is the node's process 1,
//! `case` runs the case. Not being root, or lacking a program, makes a case ignored, with the reason in the summary.

mod case;
mod cases;
mod client;
mod images;
mod node;
#[path = "../stage/pause_image.rs"]
mod pause_image;
#[path = "../stage/pinned.rs"]
mod pinned;
mod plugin;
mod pods;
#[path = "../stage/registry.rs"]
mod registry;

use std::io::Write as _;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use case::{Case, Outcome};

fn main() -> ExitCode {
    let outcome = match std::env::var(node::ROLE).as_deref() {
        Ok("enter") => node::enter(),
        Ok("init") => node::init(),
        Ok("case") => node::run_case(&cases::all()),
        Ok("plugin") => plugin::run(),
        _ if node::is_installed() => return run_on_machine(),
        _ => return run_all(),
    };
    match outcome {
        Ok(code) => code,
        Err(e) => {
            drop(writeln!(std::io::stderr(), "{e}"));
            ExitCode::FAILURE
        }
    }
}

fn run_all() -> ExitCode {
    let arguments = Arguments::from_args();
    let archives = if arguments.list || !node::is_root() {
        Ok(())
    } else {
        images::build()
    };
    let mut skipped = Vec::new();
    let trials = cases::all()
        .into_iter()
        .map(|case| {
            let obstacle = archives
                .as_ref()
                .map_or_else(|e| Some(e.to_string()), |()| case.obstacle());
            let ignored = obstacle.is_some();
            if let Some(reason) = obstacle {
                skipped.push((case.name, reason));
            }
            trial(case).with_ignored_flag(ignored)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list && !skipped.is_empty() {
        report(&skipped);
    }
    conclusion.exit_code()
}

/// The cases for the machine itself share it, so they run one after the other.
fn run_on_machine() -> ExitCode {
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let trials = cases::for_the_machine()
        .into_iter()
        .map(|(case, keeps_pods)| {
            Trial::test(case.name, move || {
                node::run_installed(&case, keeps_pods).map_err(|e| e.to_string().into())
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(case: Case) -> Trial {
    Trial::test(case.name, move || {
        node::spawn(&case).map_err(|e| e.to_string().into())
    })
}

fn report(skipped: &[(&str, String)]) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "skipped: {}", skipped.len()));
    for (name, reason) in skipped {
        drop(writeln!(out, "  {name}: {reason}"));
    }
}

/// Fails with `message` unless `fact` holds.
fn ensure(fact: bool, message: impl FnOnce() -> String) -> Outcome {
    if fact { Ok(()) } else { Err(message().into()) }
}
