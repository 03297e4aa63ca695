//! A remote command as its client offers it: the streams, whichever transport they travel on.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::channel::{Inlet, Line, Outlet, Taken};
use super::protocol::Version;
use super::resize::{Size, Sizes};
use super::spdy::{self, Incoming, Verdict};
use super::status::Ending;
use super::tokens::Asked;
use super::websocket::{self, Coding, Layout};
use super::{Limits, Tasks};

/// Streams that a remote command may open: its five, and some that we do not know.
const STREAMS: usize = 10;
/// Input that may wait for a process that does not read it.
const BACKLOG: usize = 1024 * 1024;
/// How long the last words may take to a client that does not read.
const FINISH: Duration = Duration::from_secs(30);

/// The channels of the WebSocket protocols.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// The streams of one remote command.
pub(super) struct Remote {
    line: Line,
    version: Version,
    pub(super) stdin: Option<Inlet>,
    pub(super) stdout: Option<Outlet>,
    pub(super) stderr: Option<Outlet>,
    resize: Option<Inlet>,
    error: Option<Outlet>,
    /// Of no use, and yet not to be reset before the end.
    _idle: Vec<Outlet>,
}

impl Remote {
    /// Over SPDY: waits until the client has opened every stream that its request announced; `None` where it did not
    /// within the limit.
    pub(super) async fn over_spdy<T>(
        io: T,
        version: Version,
        asked: Asked,
        limits: &Limits,
        tasks: &Tasks,
    ) -> Option<Self>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let rules = spdy::Rules {
            streams: STREAMS,
            backlog: BACKLOG,
            idle: limits.idle,
            may_cut: false,
        };
        let wanted = wanted(asked, version);
        let mut seen = Vec::new();
        let expected = wanted.clone();
        let judge = move |headers: &spdy::Headers| {
            let kind = headers.get("streamtype").unwrap_or_default();
            let Some(known) = expected.iter().find(|name| **name == kind) else {
                tracing::debug!(kind, "a stream of no use was opened");
                return Verdict::Take;
            };
            match seen.contains(known) {
                true => Verdict::Refuse,
                false => {
                    seen.push(*known);
                    Verdict::Take
                }
            }
        };
        let (line, arrivals, driver) = spdy::open(io, rules, Box::new(judge));
        tasks.run("SPDY connection", driver);
        let mut remote = Self {
            line: line.clone(),
            version,
            stdin: None,
            stdout: None,
            stderr: None,
            resize: None,
            error: None,
            _idle: Vec::new(),
        };
        let gathering = tokio::time::timeout(limits.creation, remote.gather(arrivals, wanted));
        if gathering.await != Ok(true) {
            tracing::info!("a client did not open the streams that it asked for");
            line.close().await;
            return None;
        }
        if version == Version::V1
            && let Some(error) = remote.error.take()
        {
            error.reset().await;
        }
        Some(remote)
    }

    /// Whether all streams came.
    async fn gather(
        &mut self,
        mut arrivals: mpsc::UnboundedReceiver<Incoming>,
        mut wanted: Vec<&'static str>,
    ) -> bool {
        while !wanted.is_empty() {
            let Some(stream) = arrivals.recv().await else {
                return false;
            };
            let kind = stream.headers.get("streamtype").unwrap_or_default();
            let Some(at) = wanted.iter().position(|name| *name == kind) else {
                continue;
            };
            let Incoming {
                inlet, mut outlet, ..
            } = stream;
            match wanted.swap_remove(at) {
                "stdin" => {
                    if self.version == Version::V1 {
                        outlet.finish().await;
                    }
                    self.stdin = Some(inlet);
                    self._idle.push(outlet);
                }
                "resize" => {
                    self.resize = Some(inlet);
                    self._idle.push(outlet);
                }
                "stdout" => self.stdout = Some(outlet),
                "stderr" => self.stderr = Some(outlet),
                _ => self.error = Some(outlet),
            }
        }
        true
    }

    /// Over WebSocket channels, which are there from the start.
    pub(super) async fn over_websocket<T>(
        io: T,
        (version, coding): (Version, Coding),
        asked: Asked,
        limits: &Limits,
        tasks: &Tasks,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut inlets = Vec::new();
        inlets.extend(asked.stdin.then_some(STDIN));
        inlets.extend(asked.tty.then_some(RESIZE));
        let layout = Layout {
            coding,
            has_close: version == Version::V5,
            inlets,
            backlog: BACKLOG,
            idle: limits.idle,
        };
        let (line, mut inlets, driver) = websocket::open(io, layout).await;
        tasks.run("WebSocket connection", driver);
        let outlet = |channel: u8| line.outlet(channel.into());
        let first = match asked {
            Asked { stdout: true, .. } => STDOUT,
            Asked { stderr: true, .. } => STDERR,
            _ => ERROR,
        };
        line.mark(first.into()).await;
        Self {
            version,
            stdin: inlets.remove(&STDIN),
            stdout: asked.stdout.then(|| outlet(STDOUT)),
            stderr: asked.stderr.then(|| outlet(STDERR)),
            resize: inlets.remove(&RESIZE),
            error: Some(outlet(ERROR)),
            _idle: Vec::new(),
            line,
        }
    }

    /// The connection.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// The terminal's sizes as they come.
    pub(super) fn take_sizes(&mut self) -> Option<SizeStream> {
        let inlet = self.resize.take()?;
        let sizes = Sizes::default();
        Some(SizeStream { inlet, sizes })
    }

    /// Ends the outputs, then tells how it went, then ends the connection. A client that does not read in time gets no
    /// more than the end of the connection.
    pub(super) async fn finish(mut self, ending: &Ending) {
        let line = self.line.clone();
        let words = async {
            for outlet in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
                outlet.finish().await;
            }
            if let Some(error) = &mut self.error {
                let status: Bytes = ending.encode(self.version);
                // Whoever has left does not want to know.
                error.send(status).await.unwrap_or_default();
                error.finish().await;
            }
            line.close().await;
        };
        if tokio::time::timeout(FINISH, words).await.is_err() {
            line.abort();
        }
    }
}

/// The streams that a client opens for what it asked.
fn wanted(asked: Asked, version: Version) -> Vec<&'static str> {
    let mut wanted = vec!["error"];
    wanted.extend(asked.stdin.then_some("stdin"));
    wanted.extend(asked.stdout.then_some("stdout"));
    wanted.extend(asked.stderr.then_some("stderr"));
    wanted.extend((asked.tty && version.has_resize()).then_some("resize"));
    wanted
}

/// Sizes of the client's terminal.
pub(super) struct SizeStream {
    inlet: Inlet,
    sizes: Sizes,
}

impl SizeStream {
    /// The newest size; `None` once there will be no other.
    pub(super) async fn next(&mut self) -> Option<Size> {
        loop {
            let Taken::Bytes(bytes) = self.inlet.next().await else {
                return None;
            };
            match self.sizes.newest(&bytes) {
                Ok(Some(size)) => return Some(size),
                Ok(None) => {}
                Err(_unreadable) => {
                    tracing::info!("a terminal's size could not be read; no more are taken");
                    return None;
                }
            }
        }
    }
}
