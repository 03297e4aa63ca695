//! One connection: a reader that hands bytes to streams, and a writer that takes them from their sessions.
//!
//! The writer owns the sending side. What the reader has to say (replies, pings, refusals) overtakes data, through a
//! queue that never makes the reader wait: a client that does not read its output must still be able to send.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::channel::{Feed, Inlet, Line, Out, Outlet, Pool, WeakLine};
use super::frame::{self, Decoder, Encoder, Event, Fault};
use super::headers::Headers;
use super::shared::{Shared, Stream};

/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Payload of one of our data frames, at most. Go peers allocate each frame whole.
const FRAME: usize = 128 * 1024;
/// Control frames that wait for the writer; beyond that the peer floods us.
const CONTROLS: usize = 1_024;
/// How long the peer may take to close after we did. Closing with unread bytes would make the kernel send RST, and the
/// peer lose the tail of what we sent (kubernetes#124571).
const LINGER: Duration = Duration::from_secs(10);
/// How long the last words to a peer that broke the rules may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A stream that takes nothing for so long gives way to the others of its connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::streaming) struct Rules {
    /// Streams open at once.
    pub(in crate::streaming) streams: usize,
    /// Bytes that may wait for slow readers of all streams together.
    pub(in crate::streaming) backlog: usize,
    /// Silence in both directions after which the connection ends; no limit where `None`.
    pub(in crate::streaming) idle: Option<Duration>,
    /// Whether a stream that does not read may be ended for the sake of the others.
    pub(in crate::streaming) may_cut: bool,
}

/// What becomes of a stream that a client opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::streaming) enum Verdict {
    /// It is replied to and handed to the session.
    Take,
    /// It is reset; the connection goes on.
    Refuse,
}

/// Says what becomes of each stream, by its headers.
pub(in crate::streaming) type Judge = Box<dyn FnMut(&Headers) -> Verdict + Send>;

/// A stream that was opened and taken.
#[derive(Debug)]
pub(in crate::streaming) struct Incoming {
    /// Its number on the connection.
    pub(in crate::streaming) id: u32,
    /// What it is for.
    pub(in crate::streaming) headers: Headers,
    /// What the client sends.
    pub(in crate::streaming) inlet: Inlet,
    /// What the client gets.
    pub(in crate::streaming) outlet: Outlet,
}

/// A connection over `io`: its line, the streams as they come, and the work that must run for it, which ends with the
/// connection.
pub(in crate::streaming) fn open<T>(
    io: T,
    rules: Rules,
    judge: Judge,
) -> (
    Line,
    mpsc::UnboundedReceiver<Incoming>,
    impl Future<Output = ()> + Send,
)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (line, out) = Line::new();
    let (controls, orders) = mpsc::channel(CONTROLS);
    // Bounded by the number of streams that may be open.
    let (arrivals, streams) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let (from, to) = tokio::io::split(io);
    let reader = Reader {
        from,
        decoder: Decoder::default(),
        judge,
        rules,
        pool: Pool::new(rules.backlog),
        controls,
        arrivals: Some(arrivals),
        line: line.downgrade(),
        shared: Arc::clone(&shared),
    };
    let writer = Writer {
        to,
        encoder: Encoder::default(),
        shared,
    };
    (line, streams, drive(reader, writer, out, orders))
}

async fn drive<T: AsyncRead + AsyncWrite + Send>(
    mut reader: Reader<T>,
    mut writer: Writer<T>,
    out: mpsc::Receiver<Out>,
    orders: mpsc::Receiver<Control>,
) {
    let gone = reader.line.gone().clone();
    let shared = Arc::clone(&reader.shared);
    let mut writing = std::pin::pin!(writer.run(out, orders));
    let ended = tokio::select! {
        read = reader.run() => Some(read),
        () = gone.cancelled() => None,
        written = &mut writing => {
            if let Err(error) = written {
                tracing::debug!(%error, "a SPDY connection cannot be written any more");
                gone.cancel();
            } else {
                // Everything is sent; now wait for the peer to have read it.
                drop(tokio::time::timeout(LINGER, reader.run()).await);
            }
            None
        }
    };
    if let Some(Err(fault)) = &ended {
        tracing::info!(%fault, "a SPDY connection is closed");
        reader.controls.try_send(Control::Abort).unwrap_or_default();
        drop(tokio::time::timeout(LAST_WORDS, writing).await);
    }
    gone.cancel();
    shared.end_all();
}

/// What the reader has the writer say.
#[derive(Clone, Copy, Debug)]
enum Control {
    Reply(u32),
    Reset {
        id: u32,
        reason: u32,
    },
    Ping(u32),
    /// The peer broke the rules.
    Abort,
}

struct Reader<T> {
    from: tokio::io::ReadHalf<T>,
    decoder: Decoder,
    judge: Judge,
    rules: Rules,
    pool: Arc<Pool>,
    controls: mpsc::Sender<Control>,
    arrivals: Option<mpsc::UnboundedSender<Incoming>>,
    line: WeakLine,
    shared: Arc<Shared>,
}

impl<T: AsyncRead> Reader<T> {
    /// Reads until the peer closes or breaks the rules.
    async fn run(&mut self) -> Result<(), Fault> {
        let mut bytes = BytesMut::with_capacity(READ);
        loop {
            while let Some(event) = self.decoder.next(&mut bytes)? {
                self.handle(event)?;
            }
            if self.pool.is_full() && !self.room().await {
                return Ok(());
            }
            bytes.reserve(READ);
            match self.read(&mut bytes).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "a SPDY connection cannot be read any more");
                    return Ok(());
                }
            }
        }
    }

    /// The next bytes; none at the end, also where both sides were silent too long.
    async fn read(&mut self, bytes: &mut BytesMut) -> io::Result<usize> {
        let Some(idle) = self.rules.idle else {
            return self.from.read_buf(bytes).await;
        };
        let mut deadline = Instant::now() + idle;
        loop {
            if let Ok(read) = tokio::time::timeout_at(deadline, self.from.read_buf(bytes)).await {
                return read;
            }
            match self.shared.sent_at().map(|at| at + idle) {
                Some(later) if later > Instant::now() => deadline = later,
                _ => {
                    tracing::info!(?idle, "a SPDY connection was silent too long and is closed");
                    return Ok(0);
                }
            }
        }
    }

    /// Waits until what was read has been taken; whether the connection is still there.
    async fn room(&mut self) -> bool {
        let gone = self.line.gone().clone();
        loop {
            tokio::select! {
                () = self.pool.has_room() => return true,
                () = gone.cancelled() => return false,
                () = tokio::time::sleep(PATIENCE), if self.rules.may_cut => self.cut_hog(),
            }
        }
    }

    /// Ends the stream that holds most of the backlog and takes nothing, where others wait behind it.
    fn cut_hog(&self) {
        let streams = self.shared.streams();
        let hog = streams
            .iter()
            .map(|(id, stream)| (stream.feed.backlog(), *id))
            .max_by_key(|((bytes, _), _)| *bytes);
        // A pair of its own is no company.
        let Some(((bytes, since), id)) = hog.filter(|_| streams.len() > 2) else {
            return;
        };
        let feed = streams.get(&id).map(|stream| stream.feed.clone());
        drop(streams);
        if since.elapsed() >= PATIENCE && self.shared.reset(id) {
            feed.inspect(Feed::cut);
            tracing::warn!(
                stream = id,
                bytes,
                "a stream that nobody reads held up its connection and was reset"
            );
            self.say(Control::Reset {
                id,
                reason: frame::CANCEL,
            })
            .unwrap_or_default();
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Open { id, fin, headers } => self.opened(id, fin, headers),
            Event::Data { id, bytes, fin } => {
                self.data(id, &bytes, fin);
                Ok(())
            }
            Event::Reset { id } => {
                self.shared.reset(id);
                Ok(())
            }
            // Pings of our own parity would be answers, and we ask nothing. One that finds the queue full is not
            // answered: its sender reads nothing anyway.
            Event::Ping { id } if !id.is_multiple_of(2) => {
                self.controls
                    .try_send(Control::Ping(id))
                    .unwrap_or_default();
                Ok(())
            }
            Event::GoAway => {
                self.arrivals = None;
                Ok(())
            }
            Event::Ping { .. } | Event::Ignored => Ok(()),
        }
    }

    fn opened(&mut self, id: u32, fin: bool, headers: Headers) -> Result<(), Fault> {
        let last = self.shared.last.load(Ordering::Acquire);
        if id <= last || id.is_multiple_of(2) {
            return self.refuse(id, frame::PROTOCOL_ERROR);
        }
        self.shared.last.store(id, Ordering::Release);
        if self.shared.streams().len() >= self.rules.streams {
            return self.refuse(id, frame::REFUSED);
        }
        let (Some(arrivals), Some(line)) = (&self.arrivals, self.line.upgrade()) else {
            return self.refuse(id, frame::REFUSED);
        };
        if (self.judge)(&headers) == Verdict::Refuse {
            return self.refuse(id, frame::CANCEL);
        }
        let (feed, inlet) = Feed::new(&self.pool);
        let outlet = line.outlet(id);
        if fin {
            feed.end();
        }
        let stream = Stream {
            feed,
            is_dead: outlet.death(),
            peer_done: fin,
            own_done: false,
        };
        self.shared.streams().insert(id, stream);
        self.say(Control::Reply(id))?;
        // A session that has ended leaves its streams to themselves until the connection closes.
        drop(arrivals.send(Incoming {
            id,
            headers,
            inlet,
            outlet,
        }));
        Ok(())
    }

    fn data(&self, id: u32, bytes: &Bytes, fin: bool) {
        let mut streams = self.shared.streams();
        let Some(stream) = streams.get_mut(&id).filter(|stream| !stream.peer_done) else {
            return;
        };
        stream.feed.push(bytes);
        if fin {
            stream.feed.end();
            stream.peer_done = true;
            if stream.own_done {
                streams.remove(&id);
            }
        }
    }

    fn refuse(&self, id: u32, reason: u32) -> Result<(), Fault> {
        self.say(Control::Reset { id, reason })
    }

    fn say(&self, control: Control) -> Result<(), Fault> {
        let flood = |_full| Fault::TooLarge("more control frames than can be answered");
        self.controls.try_send(control).map_err(flood)
    }
}

struct Writer<T> {
    to: tokio::io::WriteHalf<T>,
    encoder: Encoder,
    shared: Arc<Shared>,
}

impl<T: AsyncWrite> Writer<T> {
    /// Writes until the connection is to be closed, and closes its sending side.
    async fn run(
        &mut self,
        mut out: mpsc::Receiver<Out>,
        mut orders: mpsc::Receiver<Control>,
    ) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                Some(control) = orders.recv() => {
                    if !self.control(control, &mut orders).await? {
                        return self.to.shutdown().await;
                    }
                }
                next = out.recv() => match next {
                    Some(Out::Data { channel, bytes, fin }) => self.data(channel, bytes, fin).await?,
                    // This transport's replies have said it already.
                    Some(Out::Mark { .. }) => {}
                    Some(Out::Reset { channel }) => {
                        if self.shared.reset(channel) {
                            let mut frames = BytesMut::new();
                            Encoder::reset(channel, frame::CANCEL, &mut frames);
                            self.write(frames).await?;
                        }
                    }
                    Some(Out::Close) | None => return self.close().await,
                },
            }
        }
    }

    /// Writes a control frame and those that wait behind it; whether the connection goes on.
    async fn control(
        &mut self,
        first: Control,
        orders: &mut mpsc::Receiver<Control>,
    ) -> io::Result<bool> {
        let mut frames = BytesMut::new();
        let mut next = Some(first);
        while let Some(control) = next {
            match control {
                Control::Reply(id) => self.encoder.reply(id, &mut frames),
                Control::Reset { id, reason } => Encoder::reset(id, reason, &mut frames),
                Control::Ping(id) => Encoder::ping(id, &mut frames),
                Control::Abort => {
                    Encoder::go_away(self.last(), frame::PROTOCOL_ERROR, &mut frames);
                    self.write(frames).await?;
                    return Ok(false);
                }
            }
            next = orders.try_recv().ok();
        }
        self.write(frames).await?;
        Ok(true)
    }

    async fn data(&mut self, id: u32, mut bytes: Bytes, fin: bool) -> io::Result<()> {
        if !self.shared.sending(id, fin) {
            return Ok(());
        }
        loop {
            let piece = bytes.split_to(bytes.len().min(FRAME));
            let is_last = bytes.is_empty();
            let head = Encoder::data(id, piece.len(), fin && is_last);
            let mut frame = bytes::Buf::chain(&head[..], piece);
            self.to.write_all_buf(&mut frame).await?;
            if is_last {
                break;
            }
        }
        self.to.flush().await?;
        self.shared.note_sent();
        Ok(())
    }

    /// Resets what is still open, says good-bye, and shuts the sending side.
    async fn close(&mut self) -> io::Result<()> {
        let mut frames = BytesMut::new();
        for (id, stream) in self.shared.streams().iter() {
            if !stream.own_done {
                Encoder::reset(*id, frame::CANCEL, &mut frames);
            }
        }
        Encoder::go_away(self.last(), 0, &mut frames);
        self.write(frames).await?;
        self.shared.end_all();
        self.to.shutdown().await
    }

    fn last(&self) -> u32 {
        self.shared.last.load(Ordering::Acquire)
    }

    async fn write(&mut self, mut frames: BytesMut) -> io::Result<()> {
        self.to.write_all_buf(&mut frames).await?;
        self.to.flush().await?;
        self.shared.note_sent();
        Ok(())
    }
}
