//! Port-forward over SPDY: each connection of the client's is a pair of streams, one for data and one for an error.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::SandboxId;
use crate::sandbox::Sandboxes;

use super::super::channel::Line;
use super::super::spdy::{self, Headers, Incoming, Verdict};
use super::super::{Limits, Tasks};
use super::{failure, relay::relay};

/// Streams of one connection that may be open at once.
const STREAMS: usize = 256;
/// Bytes that may wait for slow listeners, all streams together.
const BACKLOG: usize = 8 * 1024 * 1024;

/// Which of a pair a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Error,
    Data,
}

/// What a stream's headers say; `None` where they cannot be followed.
fn part(headers: &Headers) -> Option<(Part, u16)> {
    let part = match headers.get("streamtype")? {
        "error" => Part::Error,
        "data" => Part::Data,
        _ => return None,
    };
    let port: u16 = headers.get("port")?.parse().ok()?;
    (port > 0).then_some((part, port))
}

/// What tells which streams belong together. Ancient clients number nothing: their error stream comes just before.
fn pair_of(stream: &Incoming, part: Part) -> String {
    match (stream.headers.get("requestid"), part) {
        (Some(id), _) => format!("request {id}"),
        (None, Part::Error) => format!("stream {}", stream.id),
        (None, Part::Data) => format!("stream {}", stream.id.saturating_sub(2)),
    }
}

/// Half a pair, and until when the other half is waited for.
struct Half {
    part: Part,
    port: u16,
    stream: Incoming,
    until: Instant,
}

/// Serves a client's connections until it leaves, the pod stops, or we do.
pub(in crate::streaming) async fn over_spdy<T>(
    io: T,
    sandboxes: &Sandboxes,
    sandbox: &SandboxId,
    limits: &Limits,
    tasks: &Tasks,
    stopping: &CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let rules = spdy::Rules {
        streams: STREAMS,
        backlog: BACKLOG,
        idle: limits.idle,
        may_cut: true,
    };
    let judge = |headers: &Headers| match part(headers) {
        Some(_) => Verdict::Take,
        None => Verdict::Refuse,
    };
    let (line, arrivals, driver) = spdy::open(io, rules, Box::new(judge));
    tasks.run("SPDY connection", driver);
    let forwards = Forwards {
        sandboxes: sandboxes.clone(),
        sandbox: sandbox.clone(),
        tasks: tasks.clone(),
        over: Arc::new(line.gone().child_token()),
    };
    let line_gone = line.gone().clone();
    tokio::select! {
        () = forwards.pair_up(arrivals, &line, limits) => {}
        () = line_gone.cancelled() => {}
        () = sandboxes.until_not_ready(sandbox) => {}
        () = stopping.cancelled() => {}
    }
    forwards.over.cancel();
    line.close().await;
}

/// What every forward of a connection needs.
struct Forwards {
    sandboxes: Sandboxes,
    sandbox: SandboxId,
    tasks: Tasks,
    over: Arc<CancellationToken>,
}

impl Forwards {
    async fn pair_up(
        &self,
        mut arrivals: mpsc::UnboundedReceiver<Incoming>,
        line: &Line,
        limits: &Limits,
    ) {
        let mut halves: HashMap<String, Half> = HashMap::new();
        loop {
            let next_end = halves.values().map(|half| half.until).min();
            let arrived = tokio::select! {
                arrived = arrivals.recv() => arrived,
                () = until(next_end) => {
                    let now = Instant::now();
                    let late = halves.extract_if(|_, half| half.until <= now).collect();
                    self.give_up(late);
                    continue;
                }
            };
            let Some(stream) = arrived else {
                // The client opens no more; what is open goes on until it leaves.
                return line.gone().cancelled().await;
            };
            let Some((part, port)) = part(&stream.headers) else {
                continue;
            };
            let name = pair_of(&stream, part);
            match halves.remove(&name) {
                None => {
                    let until = Instant::now() + limits.creation;
                    let half = Half {
                        part,
                        port,
                        stream,
                        until,
                    };
                    halves.insert(name, half);
                }
                Some(first) if first.part == part => {
                    self.refuse(stream, format!("{name}: a second {part:?} stream"));
                    halves.insert(name, first);
                }
                Some(first) => match part {
                    Part::Data => self.forward(port, stream, first.stream),
                    Part::Error => self.forward(first.port, first.stream, stream),
                },
            }
        }
    }

    /// Serves one connection.
    fn forward(&self, port: u16, data: Incoming, error: Incoming) {
        let (sandboxes, sandbox) = (self.sandboxes.clone(), self.sandbox.clone());
        let over = Arc::clone(&self.over);
        let work = async move {
            let Incoming {
                inlet, mut outlet, ..
            } = data;
            // What the client says on the error stream means nothing, and its end comes early.
            drop(error.inlet);
            let mut told = error.outlet;
            match sandboxes.dial(&sandbox, port).await {
                Ok(socket) => {
                    relay(socket, inlet, &mut outlet, async || told.finish().await).await;
                }
                Err(cause) => {
                    tracing::debug!(port, error = cause.chain(), "a port was not forwarded");
                    let text = failure(&sandbox, port, &cause);
                    told.send(text.into()).await.unwrap_or_default();
                    told.finish().await;
                    outlet.reset().await;
                    told.reset().await;
                }
            }
        };
        self.tasks.run("port forward", async move {
            over.run_until_cancelled(work).await;
        });
    }

    /// Ends pairs of which only half came.
    fn give_up(&self, halves: HashMap<String, Half>) {
        for (name, half) in halves {
            self.refuse(
                half.stream,
                format!("{name}: its other stream did not come"),
            );
        }
    }

    /// Ends a stream, with a reason where it can carry one.
    fn refuse(&self, stream: Incoming, reason: String) {
        let is_error = part(&stream.headers).is_some_and(|(part, _)| part == Part::Error);
        self.tasks.run("refused stream", async move {
            if is_error {
                stream.outlet.send(reason.into()).await.unwrap_or_default();
            }
            stream.outlet.reset().await;
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
