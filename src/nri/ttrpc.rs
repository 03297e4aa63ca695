//! ttrpc's frames: ten bytes of header (length, stream, type, flags) and a message of at most 4 MiB.

use crate::model::{Error, Result};

/// Longest message.
pub(super) const MAX_DATA: usize = 4 << 20;
const HEADER: usize = 10;

/// Type of a call's frame.
pub(super) const REQUEST: u8 = 1;
/// Type of an answer's frame.
pub(super) const RESPONSE: u8 = 2;

/// Codes of gRPC that are used here.
pub(super) mod code {
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const INVALID_ARGUMENT: i32 = 3;
    pub(crate) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(crate) const UNIMPLEMENTED: i32 = 12;
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Which call it belongs to.
    pub(super) stream: u32,
    /// What it is.
    pub(super) kind: u8,
    /// Its message; `None` where that was longer than any may be and was thrown away.
    pub(super) data: Option<Vec<u8>>,
}

/// The bytes of a frame around `data`.
///
/// # Errors
/// `ResourceExhausted` where `data` is longer than a frame may carry.
pub(super) fn encode(stream: u32, kind: u8, data: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(data.len())
        .ok()
        .filter(|_| data.len() <= MAX_DATA)
        .ok_or_else(|| {
            Error::exhausted(format!(
                "a message of {} bytes, more than the {MAX_DATA} that the protocol allows",
                data.len()
            ))
        })?;
    let mut bytes = Vec::with_capacity(HEADER + data.len());
    bytes.extend(length.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(data);
    Ok(bytes)
}

/// Puts frames together from a stream of bytes; holds at most one message.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER],
    filled: usize,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    stream: u32,
    kind: u8,
    left: usize,
    data: Option<Vec<u8>>,
}

impl Frames {
    /// Hands each frame that `bytes` complete to `deliver`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut deliver: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if let Some(body) = &mut self.body {
                let (part, rest) = bytes.split_at(bytes.len().min(body.left));
                body.left -= part.len();
                // Grows with what has come, not with what is announced.
                if let Some(data) = &mut body.data {
                    data.extend(part);
                }
                bytes = rest;
            } else {
                let (part, rest) = bytes.split_at(bytes.len().min(HEADER - self.filled));
                for (slot, byte) in self.header.iter_mut().skip(self.filled).zip(part) {
                    *slot = *byte;
                }
                self.filled += part.len();
                bytes = rest;
                if self.filled < HEADER {
                    continue;
                }
                self.filled = 0;
                self.body = Some(self.announced());
            }
            if let Some(body) = self.body.take_if(|body| body.left == 0) {
                deliver(Frame {
                    stream: body.stream,
                    kind: body.kind,
                    data: body.data,
                });
            }
        }
    }

    fn announced(&self) -> Body {
        let [a, b, c, d, e, f, g, h, kind, _flags] = self.header;
        let left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        Body {
            stream: u32::from_be_bytes([e, f, g, h]),
            kind,
            left,
            data: (left <= MAX_DATA).then(Vec::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(frames: &mut Frames, bytes: &[u8]) -> Vec<Frame> {
        let mut all = Vec::new();
        frames.feed(bytes, |frame| all.push(frame));
        all
    }

    #[test]
    fn a_frame_is_ten_bytes_and_the_message() {
        let bytes = encode(3, REQUEST, b"hey").unwrap();

        assert_eq!(bytes, [0, 0, 0, 3, 0, 0, 0, 3, 1, 0, b'h', b'e', b'y']);
        let empty = encode(5, RESPONSE, b"").unwrap();
        let frames = read(&mut Frames::default(), &empty);
        assert_eq!(
            frames,
            [Frame {
                stream: 5,
                kind: RESPONSE,
                data: Some(Vec::new())
            }]
        );
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_here_and_thrown_away_there() {
        assert!(encode(1, REQUEST, &vec![0; MAX_DATA]).is_ok());
        assert!(encode(1, REQUEST, &vec![0; MAX_DATA + 1]).is_err());

        let mut wire = vec![0, 64, 0, 1, 0, 0, 0, 9, REQUEST, 0];
        wire.extend(vec![1; MAX_DATA + 1]);
        wire.extend(encode(11, REQUEST, b"x").unwrap());
        let mut frames = Frames::default();
        let got: Vec<Frame> = wire
            .chunks(100_000)
            .flat_map(|piece| read(&mut frames, piece))
            .collect();

        assert_eq!(got.len(), 2);
        assert_eq!((got[0].stream, &got[0].data), (9, &None));
        assert_eq!(
            (got[1].stream, got[1].data.as_deref()),
            (11, Some(&b"x"[..]))
        );
    }

    proptest! {
        #[test]
        fn frames_arrive_however_they_are_cut(
            messages in prop::collection::vec((any::<u32>(), 1_u8..4, prop::collection::vec(any::<u8>(), 0..300)), 0..6),
            cut in 1_usize..400,
        ) {
            let wire: Vec<u8> = messages
                .iter()
                .flat_map(|(stream, kind, data)| encode(*stream, *kind, data).unwrap())
                .collect();
            let mut frames = Frames::default();
            let got: Vec<Frame> = wire.chunks(cut).flat_map(|piece| read(&mut frames, piece)).collect();

            let want: Vec<Frame> = messages
                .into_iter()
                .map(|(stream, kind, data)| Frame { stream, kind, data: Some(data) })
                .collect();
            prop_assert_eq!(got, want);
        }
    }
}
