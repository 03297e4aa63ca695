//! A command for a client: input and sizes in, outputs out, and the end only after all of the outputs.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::container::{Containers, ExecOrder, ExecProcess, Process};
use crate::logs::{Outflow, When};
use crate::model::ContainerId;

use super::channel::{Inlet, Outlet, Taken};
use super::session::{Remote, SizeStream};
use super::status::Ending;

/// Bytes read at once.
const CHUNK: usize = 32 * 1024;
/// How long the first size of a terminal is waited for.
const FIRST_SIZE: Duration = Duration::from_millis(100);
/// After the process's end, an output that others hold open is left once it was silent for this long.
const QUIET: Duration = Duration::from_millis(300);

/// Runs `command` and answers when it has ended and its output is with the client. A client that leaves meanwhile ends
/// the command's input and gets no more output; the command runs on, as with containerd.
pub(super) async fn run(
    containers: &Containers,
    container: &ContainerId,
    command: Vec<String>,
    tty: bool,
    mut remote: Remote,
    stopping: &CancellationToken,
) {
    let mut sizes = remote.take_sizes();
    let order = ExecOrder {
        command,
        tty,
        size: first_size(sizes.as_mut()).await,
        stdin: remote.stdin.is_some(),
    };
    let started = containers.exec_process(container, &order).await;
    let ending = match started {
        Ok(process) => converse(process, (tty, sizes), &mut remote, stopping).await,
        Err(error) => failed(&error.chain()),
    };
    let ending = match ending {
        Ending::Code { code, .. } => Ending::Code {
            code,
            text: format!(
                "error executing command {:?}, exit code {code}",
                order.command
            ),
        },
        ending => ending,
    };
    remote.finish(&ending).await;
}

/// The size that a client sends together with its streams, so that the command never sees another one.
async fn first_size(sizes: Option<&mut SizeStream>) -> Option<(u16, u16)> {
    let first = tokio::time::timeout(FIRST_SIZE, sizes?.next()).await;
    first.ok().flatten().map(|size| (size.width, size.height))
}

fn failed(cause: &str) -> Ending {
    Ending::Failed(format!("error executing command in container: {cause}"))
}

async fn converse(
    mut exec: ExecProcess,
    (tty, sizes): (bool, Option<SizeStream>),
    remote: &mut Remote,
    stopping: &CancellationToken,
) -> Ending {
    let process = exec.process();
    let drain = exec.drain();
    let (stdout, stderr) = exec.take_outputs();
    let exited = CancellationToken::new();
    let aside = {
        let stdin = remote.stdin.take();
        let process = process.clone();
        async move { futures::join!(feed(&process, stdin, tty), resize(&process, sizes)) }
    };
    let waiting = async {
        let code = exec.wait().await;
        exited.cancel();
        code
    };
    let whole = async {
        futures::join!(
            waiting,
            relay(stdout, remote.stdout.as_ref(), &exited, drain),
            relay(stderr, remote.stderr.as_ref(), &exited, drain),
        )
        .0
    };
    let aside = async {
        aside.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        code = whole => match code {
            Ok(0) => Ending::Success,
            Ok(code) => Ending::Code { code, text: String::new() },
            Err(error) => failed(&error.chain()),
        },
        () = aside => Ending::Success,
        () = stopping.cancelled() => failed("podwright is stopping; open streams end"),
    }
}

/// Hands the client's input to the process. Its end is the end of the process's input too, unless that is a terminal.
async fn feed(process: &Process, stdin: Option<Inlet>, tty: bool) {
    let Some(mut stdin) = stdin else { return };
    let mut input = match process.input().await {
        Ok(input) => input,
        Err(error) => {
            tracing::debug!(error = error.chain(), "a command's input cannot be written");
            return;
        }
    };
    while let Taken::Bytes(bytes) = stdin.next().await {
        if let Err(error) = input.write(&bytes).await {
            tracing::debug!(error = error.chain(), "a command reads no more input");
            return;
        }
    }
    if tty {
        // A terminal that is closed would end its output as well.
        return;
    }
    drop(input);
    if let Err(error) = process.end_input().await {
        tracing::warn!(
            error = error.chain(),
            "a command was not told of the end of its input"
        );
    }
}

/// Sets the terminal's sizes as they come.
pub(super) async fn resize(process: &Process, sizes: Option<SizeStream>) {
    let Some(mut sizes) = sizes else { return };
    while let Some(size) = sizes.next().await {
        if let Err(error) = process.resize(size.width, size.height).await {
            tracing::info!(error = error.chain(), "a terminal was not resized");
        }
    }
}

/// Copies one output to the client until it has ended. Once the process has, what others still hold open is read on
/// until it is silent for [`QUIET`], and for `drain` at most, in which the time that the client takes does not count.
async fn relay(
    mut flow: Outflow,
    outlet: Option<&Outlet>,
    exited: &CancellationToken,
    drain: Duration,
) {
    let mut copy = Copy {
        buffer: vec![0; CHUNK],
        outlet,
        spent: Duration::ZERO,
    };
    while flow.is_open() && !exited.is_cancelled() {
        tokio::select! {
            () = flow.readable() => {}
            () = exited.cancelled() => break,
        }
        copy.available(&mut flow, When::Announced).await;
    }
    let began = Instant::now();
    copy.spent = Duration::ZERO;
    let mut is_new = copy.available(&mut flow, When::Exited).await;
    while flow.is_open() {
        let left = drain.saturating_sub(began.elapsed().saturating_sub(copy.spent));
        if left.is_zero() {
            return;
        }
        let waited = tokio::time::timeout(left.min(QUIET), flow.readable()).await;
        let more = copy.available(&mut flow, When::Announced).await
            // We may have been late ourselves.
            || (waited.is_err() && copy.available(&mut flow, When::Exited).await);
        if !more && waited.is_err() && !is_new {
            return;
        }
        is_new = more;
    }
}

struct Copy<'a> {
    buffer: Vec<u8>,
    /// `None` where the client wants nothing, or has left: then it is thrown away, never left to block the process.
    outlet: Option<&'a Outlet>,
    /// Time spent in waiting for the client.
    spent: Duration,
}

impl Copy<'_> {
    /// Copies one piece; whether there was any.
    async fn available(&mut self, flow: &mut Outflow, when: When) -> bool {
        let Some(piece) = flow.read(when, &mut self.buffer) else {
            return false;
        };
        if let Some(outlet) = self.outlet {
            let began = Instant::now();
            if outlet.send(Bytes::copy_from_slice(piece)).await.is_err() {
                self.outlet = None;
            }
            self.spent = self.spent.saturating_add(began.elapsed());
        }
        true
    }
}
