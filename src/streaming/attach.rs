//! A client at a container's own process: output from now on, and input that several clients may share.

use std::future::pending;

use tokio_util::sync::CancellationToken;

use crate::container::{Attachment, Containers, Process};
use crate::logs::{End, News, Stream, Subscription};
use crate::model::ContainerId;

use super::channel::{Inlet, Outlet, Taken};
use super::exec::resize;
use super::session::Remote;
use super::status::Ending;

/// Attaches until the container ends, the client leaves or ends its input, or the client is too slow.
pub(super) async fn run(
    containers: &Containers,
    container: &ContainerId,
    mut remote: Remote,
    stopping: &CancellationToken,
) {
    let ending = match containers.attach(container) {
        Ok(attachment) => converse(attachment, &mut remote, stopping).await,
        Err(error) => failed(&error.chain()),
    };
    remote.finish(&ending).await;
}

fn failed(cause: &str) -> Ending {
    Ending::Failed(format!("error attaching to container: {cause}"))
}

async fn converse(
    attachment: Attachment,
    remote: &mut Remote,
    stopping: &CancellationToken,
) -> Ending {
    let (stdin, sizes) = (remote.stdin.take(), remote.take_sizes());
    let gone = remote.line().gone().clone();
    let (stdout, stderr) = (remote.stdout.as_ref(), remote.stderr.as_ref());
    let process = attachment.process.clone();
    let resizing = async {
        resize(&process, sizes).await;
        pending::<()>().await;
    };
    let closes = attachment.stdin_once && !attachment.tty;
    let reading = feed(&process, stdin, closes);
    let output = attachment.output;
    tokio::select! {
        ending = show(output, stdout, stderr) => ending,
        () = reading => Ending::Success,
        () = resizing => Ending::Success,
        () = gone.cancelled() => Ending::Success,
        () = stopping.cancelled() => failed("podwright is stopping; open streams end, the container runs on"),
    }
}

/// Hands the client's input to the container, and answers when the client is to be let go for it. What a client sends to
/// a container without input is thrown away.
async fn feed(process: &Process, stdin: Option<Inlet>, closes: bool) {
    let Some(mut stdin) = stdin.filter(|_| process.has_input()) else {
        return pending().await;
    };
    match process.input().await {
        Ok(mut input) => {
            while let Taken::Bytes(bytes) = stdin.next().await {
                if let Err(error) = input.write(&bytes).await {
                    tracing::debug!(error = error.chain(), "a container reads no more input");
                    return pending().await;
                }
            }
        }
        Err(error) => {
            tracing::warn!(
                error = error.chain(),
                "a container's input cannot be written"
            );
            return pending().await;
        }
    }
    // With `stdin_once` the first client's end is the container's, and its output goes on until it ends; else the
    // input stays open for the next client and this one has detached.
    if closes {
        if let Err(error) = process.end_input().await {
            tracing::warn!(
                error = error.chain(),
                "a container was not told of the end of its input"
            );
        }
        pending::<()>().await;
    }
}

/// Shows the output as it comes.
async fn show(
    mut output: Subscription,
    stdout: Option<&Outlet>,
    stderr: Option<&Outlet>,
) -> Ending {
    loop {
        match output.next().await {
            News::Output(stream, bytes) => {
                let outlet = match stream {
                    Stream::Stdout => stdout,
                    Stream::Stderr => stderr,
                };
                if let Some(outlet) = outlet
                    && outlet.send(bytes).await.is_err()
                {
                    return Ending::Success;
                }
            }
            News::End(End::Finished) => return Ending::Success,
            News::End(End::TooSlow) => {
                return failed("the client reads too slowly and missed output; attach again");
            }
        }
    }
}
