//! The server side of Kubernetes' WebSocket protocols: channels told apart by the first byte of each message, in binary
//! or base64, and the tunnel that carries SPDY.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

use super::channel::{Feed, Inlet, Line, Out, Pool};

/// The longest message, whole or in fragments.
const MESSAGE: usize = 1024 * 1024;
/// Payload of our messages, at most.
const PIECE: usize = 32 * 1024;
/// The channel on which a v5 client says that it sends no more on another one.
const CLOSE_CHANNEL: u8 = 255;
/// The highest channel that may be closed so.
const LAST_CLOSABLE: u8 = 4;
/// How long the peer may take to answer our Close frame.
const LINGER: Duration = Duration::from_secs(10);
/// How long a close that answers a broken rule may take.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Bytes that wait between a tunnel and the SPDY connection in it.
const TUNNEL: usize = 64 * 1024;

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Binary messages: the channel's number, then the bytes.
    Binary,
    /// Text messages: the channel as a digit, then base64.
    Base64,
}

/// What a connection carries.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// How messages are written.
    pub(super) coding: Coding,
    /// Whether the client may end one channel (v5).
    pub(super) has_close: bool,
    /// Channels that the client may send on; what comes on others is dropped.
    pub(super) inlets: Vec<u8>,
    /// Bytes that may wait for their sessions.
    pub(super) backlog: usize,
    /// Silence after which the connection ends; no limit where `None`.
    pub(super) idle: Option<Duration>,
}

/// A connection over `io`: its line, the inlets that the layout names, and the work that must run for it, which ends
/// with the connection.
pub(super) async fn open<T>(
    io: T,
    layout: Layout,
) -> (Line, BTreeMap<u8, Inlet>, impl Future<Output = ()> + Send)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (line, out) = Line::new();
    let pool = Pool::new(layout.backlog);
    let mut inlets = BTreeMap::new();
    let mut feeds = BTreeMap::new();
    for channel in &layout.inlets {
        let (feed, inlet) = Feed::new(&pool);
        feeds.insert(*channel, feed);
        inlets.insert(*channel, inlet);
    }
    let (to, from) = accept(io).await.split();
    let reader = Reader {
        from,
        feeds,
        pool,
        layout: layout.clone(),
    };
    let gone = line.gone().clone();
    let driver = async move {
        drive(reader, to, layout.coding, out, &gone).await;
        gone.cancel();
    };
    (line, inlets, driver)
}

async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

async fn drive<T: AsyncRead + AsyncWrite + Unpin + Send>(
    mut reader: Reader<T>,
    mut to: SplitSink<WebSocketStream<T>, Message>,
    coding: Coding,
    mut out: mpsc::Receiver<Out>,
    gone: &tokio_util::sync::CancellationToken,
) {
    let verdict = {
        let mut writing = std::pin::pin!(write(&mut to, coding, &mut out));
        tokio::select! {
            verdict = reader.run(gone) => Some(verdict),
            () = gone.cancelled() => Some(None),
            written = &mut writing => {
                if let Err(error) = written {
                    tracing::debug!(%error, "a WebSocket connection cannot be written any more");
                    gone.cancel();
                }
                None
            }
        }
    };
    reader.leave();
    match verdict {
        // Ours was sent; the peer's says that it has read everything.
        None if !gone.is_cancelled() => {
            drop(tokio::time::timeout(LINGER, reader.until_closed()).await);
        }
        None | Some(None) => {}
        Some(Some(code)) => {
            let close = close(code);
            drop(tokio::time::timeout(LAST_WORDS, to.send(close)).await);
        }
    }
}

async fn write<T: AsyncRead + AsyncWrite + Unpin>(
    to: &mut SplitSink<WebSocketStream<T>, Message>,
    coding: Coding,
    out: &mut mpsc::Receiver<Out>,
) -> Result<(), WsError> {
    while let Some(next) = out.recv().await {
        match next {
            Out::Data {
                channel, mut bytes, ..
            } => {
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(PIECE));
                    to.send(message(coding, channel, &piece)).await?;
                }
            }
            Out::Mark { channel } => to.send(message(coding, channel, &[])).await?,
            // A channel of this transport ends with its connection only.
            Out::Reset { .. } => {}
            Out::Close => break,
        }
    }
    to.send(close(CloseCode::Normal)).await
}

/// One message of a channel; an empty one says that the session is ready.
fn message(coding: Coding, channel: u32, piece: &[u8]) -> Message {
    let channel = u8::try_from(channel).unwrap_or_default();
    match coding {
        Coding::Binary => {
            let mut bytes = BytesMut::with_capacity(piece.len() + 1);
            bytes.put_u8(channel);
            bytes.put_slice(piece);
            Message::Binary(bytes.freeze())
        }
        Coding::Base64 => {
            let mut text = String::with_capacity(piece.len() / 3 * 4 + 8);
            text.push(char::from(b'0'.saturating_add(channel)));
            STANDARD.encode_string(piece, &mut text);
            Message::text(text)
        }
    }
}

fn close(code: CloseCode) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: "".into(),
    }))
}

struct Reader<T> {
    from: SplitStream<WebSocketStream<T>>,
    feeds: BTreeMap<u8, Feed>,
    pool: Arc<Pool>,
    layout: Layout,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    /// Reads until the peer closes; a code where it broke a rule.
    async fn run(&mut self, gone: &tokio_util::sync::CancellationToken) -> Option<CloseCode> {
        loop {
            if self.pool.is_full() {
                tokio::select! {
                    () = self.pool.has_room() => {}
                    () = gone.cancelled() => return None,
                }
            }
            let next = self.from.next();
            let next = match self.layout.idle {
                Some(idle) => match tokio::time::timeout(idle, next).await {
                    Ok(next) => next,
                    Err(_elapsed) => return Some(CloseCode::Away),
                },
                None => next.await,
            };
            match next {
                Some(Ok(Message::Binary(bytes))) => {
                    if !self.take(&bytes) {
                        return Some(CloseCode::Protocol);
                    }
                }
                Some(Ok(Message::Text(text))) => {
                    if !self.take(text.as_bytes()) {
                        return Some(CloseCode::Protocol);
                    }
                }
                // Pongs are queued as the ping is read, and go out with the next read. What the peer's Close frame is
                // answered with goes out likewise, so reading goes on until the end.
                Some(Ok(_control)) => {}
                Some(Err(error)) => return verdict(&error),
                None => return None,
            }
        }
    }

    /// Hands a message to its channel; `false` where it ends the session.
    fn take(&self, message: &[u8]) -> bool {
        let Some((channel, payload)) = message.split_first() else {
            return true;
        };
        let (channel, payload) = match self.layout.coding {
            Coding::Binary => (*channel, Bytes::copy_from_slice(payload)),
            Coding::Base64 => match STANDARD.decode(payload) {
                Ok(payload) => (channel.wrapping_sub(b'0'), Bytes::from(payload)),
                Err(_undecodable) => return true,
            },
        };
        if channel == CLOSE_CHANNEL && self.layout.has_close {
            return self.closed(&payload);
        }
        if let Some(feed) = self.feeds.get(&channel) {
            feed.push(&payload);
        }
        true
    }

    fn closed(&self, payload: &[u8]) -> bool {
        match payload {
            [channel] if *channel <= LAST_CLOSABLE => {
                if let Some(feed) = self.feeds.get(channel) {
                    feed.end();
                }
                true
            }
            _ => false,
        }
    }

    /// Tells every channel that the peer has left.
    fn leave(&self) {
        for feed in self.feeds.values() {
            feed.gone();
        }
    }

    async fn until_closed(&mut self) {
        while let Some(Ok(_late)) = self.from.next().await {}
    }
}

/// The code with which an error is answered, if it is the peer's fault.
fn verdict(error: &WsError) -> Option<CloseCode> {
    match error {
        WsError::ConnectionClosed
        | WsError::AlreadyClosed
        | WsError::Io(_)
        | WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(CloseCode::Size),
        error => {
            tracing::info!(%error, "a WebSocket connection is closed");
            Some(CloseCode::Protocol)
        }
    }
}

/// The byte stream that a tunnel carries, and the work that must run for it.
pub(super) async fn tunnel<T>(io: T) -> (DuplexStream, impl Future<Output = ()> + Send)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (inside, outside) = tokio::io::duplex(TUNNEL);
    let (mut to, mut from) = accept(io).await.split();
    let (mut read, mut write) = tokio::io::split(outside);
    let driver = async move {
        let outward = async {
            let mut buffer = BytesMut::with_capacity(PIECE);
            while let Ok(1..) = read.read_buf(&mut buffer).await {
                to.send(Message::Binary(buffer.split().freeze())).await?;
                buffer.reserve(PIECE);
            }
            to.send(close(CloseCode::Normal)).await
        };
        let inward = async {
            while let Some(Ok(message)) = from.next().await {
                // Go's framer writes field by field, and empty payloads as empty messages.
                let sent = match message {
                    Message::Binary(bytes) => write.write_all(&bytes).await.is_ok(),
                    Message::Text(_) => false,
                    _control => true,
                };
                if !sent {
                    break;
                }
            }
            // The connection inside sees its end.
            drop(write.shutdown().await);
        };
        let mut inward = std::pin::pin!(inward);
        let mut outward = std::pin::pin!(outward);
        tokio::select! {
            sent = &mut outward => {
                if sent.is_ok() {
                    drop(tokio::time::timeout(LINGER, inward).await);
                }
            }
            () = &mut inward => {
                drop(tokio::time::timeout(LAST_WORDS, outward).await);
            }
        }
    };
    (inside, driver)
}
