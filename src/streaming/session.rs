//! A remote command as its client offers it: the streams, whichever transport they travel on.

use std::collections::BTreeSet;
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

/// A stream of a remote command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Stdin,
    Stdout,
    Stderr,
    Error,
    Resize,
}

impl Part {
    const ALL: [Self; 5] = [
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Error,
        Self::Resize,
    ];

    /// What SPDY clients call it.
    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }

    /// Its channel in the WebSocket protocols.
    fn channel(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Error => 3,
            Self::Resize => 4,
        }
    }

    /// The one that a SPDY stream's headers name, if the client opens it for what it asked.
    fn of(headers: &spdy::Headers, asked: Asked, version: Version) -> Option<Self> {
        let named = headers.get("streamtype").unwrap_or_default();
        let part = Self::ALL.into_iter().find(|part| part.name() == named)?;
        part.is_wanted(asked, version).then_some(part)
    }

    /// Whether a SPDY client opens it for what it asked.
    fn is_wanted(self, asked: Asked, version: Version) -> bool {
        match self {
            Self::Stdin => asked.stdin,
            Self::Stdout => asked.stdout,
            Self::Stderr => asked.stderr,
            Self::Error => true,
            Self::Resize => asked.tty && version.has_resize(),
        }
    }
}

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
        let mut opened = BTreeSet::new();
        let judge = move |headers: &spdy::Headers| {
            let Some(part) = Part::of(headers, asked, version) else {
                let kind = headers.get("streamtype").unwrap_or_default();
                tracing::debug!(kind, "a stream of no use was opened");
                return Verdict::Take;
            };
            match opened.insert(part) {
                true => Verdict::Take,
                false => Verdict::Refuse,
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
        let gathering = tokio::time::timeout(limits.creation, remote.gather(arrivals, asked));
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
        asked: Asked,
    ) -> bool {
        let all = Part::ALL.into_iter();
        let wanted = all.filter(|part| part.is_wanted(asked, self.version));
        // None comes twice: the judge refuses a second one.
        let mut left = wanted.count();
        while left > 0 {
            let Some(stream) = arrivals.recv().await else {
                return false;
            };
            let Some(part) = Part::of(&stream.headers, asked, self.version) else {
                continue;
            };
            left = left.saturating_sub(1);
            let Incoming {
                inlet, mut outlet, ..
            } = stream;
            match part {
                Part::Stdin => {
                    if self.version == Version::V1 {
                        outlet.finish().await;
                    }
                    self.stdin = Some(inlet);
                    self._idle.push(outlet);
                }
                Part::Resize => {
                    self.resize = Some(inlet);
                    self._idle.push(outlet);
                }
                Part::Stdout => self.stdout = Some(outlet),
                Part::Stderr => self.stderr = Some(outlet),
                Part::Error => self.error = Some(outlet),
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
        inlets.extend(asked.stdin.then_some(Part::Stdin.channel()));
        inlets.extend(asked.tty.then_some(Part::Resize.channel()));
        let layout = Layout {
            coding,
            has_close: version == Version::V5,
            inlets,
            backlog: BACKLOG,
            idle: limits.idle,
        };
        let (line, mut inlets, driver) = websocket::open(io, layout).await;
        tasks.run("WebSocket connection", driver);
        let outlet = |part: Part| line.outlet(part.channel().into());
        let first = match asked {
            Asked { stdout: true, .. } => Part::Stdout,
            Asked { stderr: true, .. } => Part::Stderr,
            _ => Part::Error,
        };
        line.mark(first.channel().into()).await;
        Self {
            version,
            stdin: inlets.remove(&Part::Stdin.channel()),
            stdout: asked.stdout.then(|| outlet(Part::Stdout)),
            stderr: asked.stderr.then(|| outlet(Part::Stderr)),
            resize: inlets.remove(&Part::Resize.channel()),
            error: Some(outlet(Part::Error)),
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
