//! SPDY/3.1 frames as Kubernetes clients use them: bytes in, events out, and the few frames that a server writes.
//! No I/O. Payloads of data frames are handed on as they come, so that a frame's length costs no memory.

use std::fmt;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::headers::{Headers, Inflater};

/// The longest control frame; a data frame may have 2^24 - 1 bytes, since it is never held whole.
const CONTROL: usize = 1024 * 1024;
/// Bytes before every frame's payload.
const HEAD: usize = 8;
/// The control bit and version 3.
const CONTROL_MARK: u16 = 0x8003;
const FIN: u8 = 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Reasons of RST_STREAM that we send.
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const REFUSED: u32 = 3;
pub(super) const CANCEL: u32 = 5;

/// Why a connection cannot go on: after any of these the two ends no longer agree on the state of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Bytes that mean nothing.
    Malformed(&'static str),
    /// More than our limits allow.
    TooLarge(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "SPDY: malformed: {what}"),
            Self::TooLarge(what) => write!(f, "SPDY: too large: {what}"),
        }
    }
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A stream was opened; `fin` where its opener sends nothing on it.
    Open {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    /// Bytes of a stream. `fin` stands on the last piece of a frame that has it, which may be empty.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// A stream was ended in both directions.
    Reset { id: u32 },
    /// To be echoed.
    Ping { id: u32 },
    /// No more streams will be opened.
    GoAway,
    /// A frame without consequence.
    Ignored,
}

#[derive(Debug)]
enum State {
    Head,
    Data { id: u32, left: usize, fin: bool },
    Control { kind: u16, flags: u8, length: usize },
}

/// Takes a connection's bytes apart.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    inflater: Inflater,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::Head,
            inflater: Inflater::default(),
        }
    }
}

impl Decoder {
    /// The next event in `bytes`, which is consumed that far; `None` where more must come first.
    pub(crate) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Event>, Fault> {
        loop {
            match self.state {
                State::Head => {
                    if bytes.len() < HEAD {
                        return Ok(None);
                    }
                    self.state = head(bytes)?;
                }
                State::Data { id, left, fin } => {
                    if bytes.is_empty() && left > 0 {
                        return Ok(None);
                    }
                    let piece = bytes.split_to(left.min(bytes.len())).freeze();
                    let left = left - piece.len();
                    self.state = match left {
                        0 => State::Head,
                        left => State::Data { id, left, fin },
                    };
                    if piece.is_empty() && !fin {
                        return Ok(Some(Event::Ignored));
                    }
                    return Ok(Some(Event::Data {
                        id,
                        bytes: piece,
                        fin: fin && left == 0,
                    }));
                }
                State::Control {
                    kind,
                    flags,
                    length,
                } => {
                    if bytes.len() < length {
                        return Ok(None);
                    }
                    let body = bytes.split_to(length);
                    self.state = State::Head;
                    return self.control(kind, flags, &body).map(Some);
                }
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Event, Fault> {
        match kind {
            SYN_STREAM => {
                let (mut fixed, block) = split(body, 10, "SYN_STREAM")?;
                let id = stream(fixed.get_u32())?;
                let headers = self.inflater.headers(block)?;
                let fin = flags & FIN != 0;
                Ok(Event::Open { id, fin, headers })
            }
            // The client answers no stream of ours, since we open none; its headers run through the inflater all the same.
            SYN_REPLY | HEADERS => {
                let (mut fixed, block) = split(body, 4, "HEADERS")?;
                stream(fixed.get_u32())?;
                self.inflater.headers(block)?;
                Ok(Event::Ignored)
            }
            RST_STREAM => {
                let mut fixed = exactly(body, 8, "RST_STREAM")?;
                let id = stream(fixed.get_u32())?;
                match fixed.get_u32() {
                    0 => Err(Fault::Malformed("RST_STREAM without a reason")),
                    _ => Ok(Event::Reset { id }),
                }
            }
            SETTINGS => {
                let (mut fixed, entries) = split(body, 4, "SETTINGS")?;
                let count = usize::try_from(fixed.get_u32()).unwrap_or(usize::MAX);
                match count.checked_mul(8) == Some(entries.len()) {
                    true => Ok(Event::Ignored),
                    false => Err(Fault::Malformed("SETTINGS of another length than it says")),
                }
            }
            PING => {
                let id = exactly(body, 4, "PING")?.get_u32();
                match (id, flags) {
                    (0, _) => Err(Fault::Malformed("PING without an id")),
                    (id, 0) => Ok(Event::Ping { id }),
                    _ => Err(Fault::Malformed("PING with flags")),
                }
            }
            GOAWAY => exactly(body, 8, "GOAWAY").map(|_| Event::GoAway),
            WINDOW_UPDATE => exactly(body, 8, "WINDOW_UPDATE").map(|_| Event::Ignored),
            _ => Err(Fault::Malformed("a control frame of unknown type")),
        }
    }
}

/// The eight bytes before a payload, which are there.
fn head(bytes: &mut BytesMut) -> Result<State, Fault> {
    let first = bytes.get_u32();
    let second = bytes.get_u32();
    let [flags, ..] = second.to_be_bytes();
    let length = usize::try_from(second & 0x00FF_FFFF).unwrap_or(usize::MAX);
    if first & 0x8000_0000 == 0 {
        return Ok(State::Data {
            id: stream(first)?,
            left: length,
            fin: flags & FIN != 0,
        });
    }
    // Peers do not judge the version of a control frame either.
    let [.., high, low] = first.to_be_bytes();
    if length > CONTROL {
        return Err(Fault::TooLarge("a control frame of more than 1 MiB"));
    }
    Ok(State::Control {
        kind: u16::from_be_bytes([high, low]),
        flags,
        length,
    })
}

/// An id of a stream, without its reserved bit.
fn stream(id: u32) -> Result<u32, Fault> {
    match id & 0x7FFF_FFFF {
        0 => Err(Fault::Malformed("stream 0")),
        id => Ok(id),
    }
}

fn split<'a>(body: &'a [u8], at: usize, what: &'static str) -> Result<(&'a [u8], &'a [u8]), Fault> {
    body.split_at_checked(at).ok_or(Fault::Malformed(what))
}

fn exactly<'a>(body: &'a [u8], length: usize, what: &'static str) -> Result<&'a [u8], Fault> {
    match body.len() == length {
        true => Ok(body),
        false => Err(Fault::Malformed(what)),
    }
}

/// Writes the server's frames. It sends empty header sets only, so its header blocks are constants: stored blocks, ended
/// by a sync flush, the first one after the head that names the dictionary.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    has_replied: bool,
}

impl Encoder {
    const ZLIB_HEAD: &'static [u8] = &[0x78, 0x20, 0xE3, 0xC6, 0xA7, 0xC2];
    const NO_HEADERS: &'static [u8] = &[0, 4, 0, 0xFB, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF];

    /// Accepts a stream.
    pub(super) fn reply(&mut self, id: u32, out: &mut BytesMut) {
        let head = match std::mem::replace(&mut self.has_replied, true) {
            true => &[],
            false => Self::ZLIB_HEAD,
        };
        let length = 4 + head.len() + Self::NO_HEADERS.len();
        control(SYN_REPLY, length, out);
        out.put_u32(id);
        out.put_slice(head);
        out.put_slice(Self::NO_HEADERS);
    }

    /// Ends a stream in both directions.
    pub(super) fn reset(id: u32, reason: u32, out: &mut BytesMut) {
        control(RST_STREAM, 8, out);
        out.put_u32(id);
        out.put_u32(reason);
    }

    /// Answers a ping.
    pub(super) fn ping(id: u32, out: &mut BytesMut) {
        control(PING, 4, out);
        out.put_u32(id);
    }

    /// Says that this is the end, and which stream was the last that we took.
    pub(super) fn go_away(last: u32, status: u32, out: &mut BytesMut) {
        control(GOAWAY, 8, out);
        out.put_u32(last);
        out.put_u32(status);
    }

    /// The head of a data frame for `length` bytes, of which 2^24 - 1 are the most.
    pub(super) fn data(id: u32, length: usize, fin: bool) -> [u8; HEAD] {
        let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00FF_FFFF;
        let flags = if fin { u32::from(FIN) << 24 } else { 0 };
        let (mut head, [a, b, c, d]) = ([0; HEAD], (length | flags).to_be_bytes());
        head[..4].copy_from_slice(&id.to_be_bytes());
        head[4..].copy_from_slice(&[a, b, c, d]);
        head
    }
}

fn control(kind: u16, length: usize, out: &mut BytesMut) {
    out.put_u16(CONTROL_MARK);
    out.put_u16(kind);
    out.put_u32(u32::try_from(length).unwrap_or_default());
}
