//! What the verbs have in common that show something which the server knows.

use std::process::ExitCode;

use serde_json::Value;

use super::{Admin, Answer, Server};
use crate::model::Result;

/// The flags of such a verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON: times in RFC 3339, sizes in bytes.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

/// One such verb.
pub(super) struct Listing<T> {
    /// What is asked for, for errors.
    pub(super) what: &'static str,
    /// The answer for programs.
    pub(super) object: fn(&T) -> Value,
    /// The answer for people.
    pub(super) shown: fn(&T) -> String,
}

impl<T> Listing<T> {
    /// Asks, and prints the answer.
    pub(super) fn print(
        &self,
        args: &Args,
        question: impl AsyncFnOnce(Admin) -> Answer<T>,
    ) -> Result<ExitCode> {
        let answer = args.server.ask(self.what, question)?;
        let text = if args.json {
            format!("{:#}\n", (self.object)(&answer))
        } else {
            (self.shown)(&answer)
        };
        super::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A list of objects.
pub(super) fn objects<T>(rows: &[T], object: fn(&T) -> Value) -> Value {
    rows.iter().map(object).collect()
}
