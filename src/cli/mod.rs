//! Argument parsing and dispatch: one file a verb.
//!
//! Exit codes: 0 done, 1 failed (the reason is on standard error), 2 the command line is wrong.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod config;
mod doctor;
mod du;
mod export;
mod image;
mod listing;
mod mirrors;
mod ops;
mod play;
mod prune;
mod pull;
mod pulls;
mod serve;
mod table;
mod timeline;
mod version;

use crate::admin::client;
use crate::config::{Config, Overrides};
use crate::model::{Classify as _, Kind, Result};
use crate::wire::admin::admin_client::AdminClient;

/// A Kubernetes CRI runtime server that has containerd run its pods.
#[derive(Debug, Parser)]
#[command(name = "podwright", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve the CRI until told to stop.
    Serve(serve::Args),
    /// Check this node: what is wrong, and what to do about it.
    Doctor(doctor::Args),
    /// Show what runs now, which step, since when.
    Ops(ops::Args),
    /// Show where the time of a pod's start went.
    Timeline(timeline::Args),
    /// Work with the images of this node.
    Image(image::Args),
    /// Run a Kubernetes Pod manifest on any CRI socket.
    Play(play::Args),
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

/// A client of the admin service.
type Admin = AdminClient<tonic::transport::Channel>;
/// What it answers.
type Answer<T> = std::result::Result<tonic::Response<T>, tonic::Status>;

/// Where the running server is.
#[derive(Debug, clap::Args)]
struct Server {
    #[command(flatten)]
    file: ConfigFile,
    /// The server's socket; without this flag, server.socket of the configuration.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Server {
    /// A client of its admin service.
    async fn admin(&self) -> Result<Admin> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => {
                let path = self.file.config.as_deref();
                Config::load(path, &Overrides::default())?.server.socket
            }
        };
        Ok(AdminClient::new(client::connect(&socket).await?))
    }

    /// What it answers to one question, `what` for errors.
    fn ask<T>(&self, what: &str, question: impl AsyncFnOnce(Admin) -> Answer<T>) -> Result<T> {
        runtime()?.block_on(async {
            let admin = self.admin().await?;
            let answer = question(admin).await;
            answer
                .map(tonic::Response::into_inner)
                .classify(Kind::Unavailable, || what.to_owned())
        })
    }
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
        Verb::Serve(args) => serve::run(args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Ops(args) => ops::run(&args),
        Verb::Timeline(args) => timeline::run(&args),
        Verb::Image(args) => image::run(args),
        Verb::Play(args) => play::run(args),
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

/// The runtime that a verb's asynchronous part runs on.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .classify(Kind::Internal, || "start the asynchronous runtime".into())
}

/// Prints `text` to standard output. A reader that went away is no failure.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.classify(Kind::Internal, || "write to standard output".into()),
    }
}
