//! The multiplexer under ttrpc: several connections over one socket, a frame of each at a time.
//!
//! A frame is the connection's id and the payload's length, 32 bits each and big-endian, and then the payload. What
//! arrives for one id is a plain stream of bytes; frames mean nothing to it.

use crate::model::{Error, Result};

/// The connection on which plugins serve and the runtime calls.
pub(super) const PLUGIN: u32 = 1;
/// The connection on which the runtime serves and plugins call.
pub(super) const RUNTIME: u32 = 2;

/// Longest payload: the longest ttrpc message with its header.
const MAX_PAYLOAD: usize = (4 << 20) + 10;
const HEADER: usize = 8;
/// How much the first frame of a message may carry. Plugins in Go hand a frame to one read of this size, and fail where
/// it is longer; the rest of the message is read whole.
const FIRST: usize = 4096;

/// One message as frames of connection `id`.
pub(super) fn framed(id: u32, message: &[u8]) -> Vec<u8> {
    let (first, rest) = message.split_at(message.len().min(FIRST));
    let mut frames = Vec::with_capacity(message.len() + 2 * HEADER);
    for part in [first, rest] {
        if part.is_empty() {
            continue;
        }
        frames.extend(id.to_be_bytes());
        frames.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        frames.extend(part);
    }
    frames
}

/// Takes frames apart as they arrive; holds no payload.
#[derive(Debug, Default)]
pub(super) struct Demux {
    header: [u8; HEADER],
    filled: usize,
    id: u32,
    left: usize,
}

impl Demux {
    /// Hands each piece of payload in `bytes` to `deliver` with its connection's id.
    ///
    /// # Errors
    /// `Internal` where a payload is longer than any may be, and whatever `deliver` answers; the stream is of no more use
    /// then.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut deliver: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (payload, rest) = bytes.split_at(bytes.len().min(self.left));
                self.left -= payload.len();
                bytes = rest;
                deliver(self.id, payload)?;
                continue;
            }
            let wanted = HEADER - self.filled;
            let (part, rest) = bytes.split_at(bytes.len().min(wanted));
            for (slot, byte) in self.header.iter_mut().skip(self.filled).zip(part) {
                *slot = *byte;
            }
            self.filled += part.len();
            bytes = rest;
            if self.filled == HEADER {
                self.filled = 0;
                self.open()?;
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<()> {
        let [a, b, c, d, e, f, g, h] = self.header;
        self.id = u32::from_be_bytes([a, b, c, d]);
        self.left = usize::try_from(u32::from_be_bytes([e, f, g, h])).unwrap_or(usize::MAX);
        if self.left > MAX_PAYLOAD {
            return Err(Error::internal(format!(
                "a frame of {} bytes, more than the {MAX_PAYLOAD} that the protocol allows",
                self.left
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(demux: &mut Demux, bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut got: Vec<(u32, Vec<u8>)> = Vec::new();
        demux
            .feed(bytes, |id, part| {
                match got.last_mut() {
                    Some((last, all)) if *last == id => all.extend(part),
                    _ => got.push((id, part.to_vec())),
                }
                Ok(())
            })
            .unwrap();
        got
    }

    #[test]
    fn a_short_message_is_one_frame_and_a_long_one_two_with_4096_bytes_in_the_first() {
        assert_eq!(framed(1, b"ab"), [0, 0, 0, 1, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(framed(2, &[7; 4096]).len(), 4096 + 8);
        let long = framed(2, &[7; 5000]);
        assert_eq!(long.len(), 5000 + 16);
        assert_eq!(long[..8], [0, 0, 0, 2, 0, 0, 16, 0]);
        assert_eq!(long[8 + 4096..16 + 4096], [0, 0, 0, 2, 0, 0, 3, 136]);
    }

    #[test]
    fn a_payload_beyond_the_limit_is_an_error() {
        let mut demux = Demux::default();

        let wrong = demux.feed(&[0, 0, 0, 1, 0, 64, 0, 11], |_, _| Ok(()));

        assert!(wrong.is_err());
        assert!(
            Demux::default()
                .feed(&[0, 0, 0, 1, 0, 64, 0, 10], |_, _| Ok(()))
                .is_ok()
        );
    }

    proptest! {
        #[test]
        fn what_is_framed_arrives_however_it_is_cut(
            messages in prop::collection::vec((1_u32..4, prop::collection::vec(any::<u8>(), 1..9000)), 1..5),
            cut in 1_usize..5000,
        ) {
            let wire: Vec<u8> = messages.iter().flat_map(|(id, bytes)| framed(*id, bytes)).collect();
            let mut demux = Demux::default();
            let mut streams = std::collections::BTreeMap::<u32, Vec<u8>>::new();
            for piece in wire.chunks(cut) {
                for (id, bytes) in collect(&mut demux, piece) {
                    streams.entry(id).or_default().extend(bytes);
                }
            }

            let mut want = std::collections::BTreeMap::<u32, Vec<u8>>::new();
            for (id, bytes) in messages {
                want.entry(id).or_default().extend(bytes);
            }
            prop_assert_eq!(streams, want);
        }

        #[test]
        fn no_bytes_whatever_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Demux::default().feed(&bytes, |_, _| Ok(())));
        }
    }
}
