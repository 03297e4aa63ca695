//! Content codings (RFC 9110 §8.4). None is asked for, since layers are compressed already; some servers encode all the
//! same, and their answers are decoded before anything is counted or hashed.

use std::io::{self, Write as _};

use bytes::{Bytes, BytesMut};
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// Encoded bytes that are decoded at a time: what they can expand to is bounded by it.
const PIECE: usize = 8 * 1024;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Identity,
    Gzip,
    /// The zlib format, as HTTP means it.
    Deflate,
}

/// The coding that `headers` announce; `None` for one that is not known, and for several on top of each other.
pub(super) fn of(headers: &HeaderMap) -> Option<Coding> {
    let mut found = Coding::Identity;
    for value in headers.get_all(CONTENT_ENCODING) {
        for name in value.to_str().ok()?.split(',') {
            let coding = match name.trim().to_ascii_lowercase().as_str() {
                "" | "identity" => continue,
                "gzip" | "x-gzip" => Coding::Gzip,
                "deflate" => Coding::Deflate,
                _ => return None,
            };
            if found != Coding::Identity {
                return None;
            }
            found = coding;
        }
    }
    Some(found)
}

/// Undoes a coding piece by piece.
pub(super) struct Decoder {
    kind: Kind,
    pending: BytesMut,
}

enum Kind {
    Plain,
    Gzip(MultiGzDecoder<Vec<u8>>),
    Deflate(ZlibDecoder<Vec<u8>>),
}

impl Decoder {
    pub(super) fn new(coding: Coding) -> Self {
        let kind = match coding {
            Coding::Identity => Kind::Plain,
            Coding::Gzip => Kind::Gzip(MultiGzDecoder::new(Vec::new())),
            Coding::Deflate => Kind::Deflate(ZlibDecoder::new(Vec::new())),
        };
        Self {
            kind,
            pending: BytesMut::new(),
        }
    }

    /// Takes encoded bytes in. Unencoded ones come back at once; the others come out of [`Self::next`].
    pub(super) fn feed(&mut self, chunk: Bytes) -> Option<Bytes> {
        if matches!(self.kind, Kind::Plain) {
            return Some(chunk);
        }
        self.pending.extend_from_slice(&chunk);
        None
    }

    /// The next decoded bytes, perhaps none yet; `None` once all that was fed is decoded.
    ///
    /// # Errors
    /// The bytes are not of the announced coding.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let piece = self.pending.split_to(self.pending.len().min(PIECE));
        let decoded = match &mut self.kind {
            Kind::Plain => return Ok(Some(piece.freeze())),
            Kind::Gzip(decoder) => {
                decoder.write_all(&piece)?;
                decoder.flush()?;
                std::mem::take(decoder.get_mut())
            }
            Kind::Deflate(decoder) => {
                decoder.write_all(&piece)?;
                decoder.flush()?;
                std::mem::take(decoder.get_mut())
            }
        };
        Ok(Some(decoded.into()))
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[], Some(Coding::Identity))]
    #[case(&["identity"], Some(Coding::Identity))]
    #[case(&["GZIP"], Some(Coding::Gzip))]
    #[case(&["identity, x-gzip"], Some(Coding::Gzip))]
    #[case(&["deflate"], Some(Coding::Deflate))]
    #[case(&["zstd"], None)]
    #[case(&["gzip", "gzip"], None)]
    #[case(&["gzip, deflate"], None)]
    fn codings_are_read(#[case] values: &[&str], #[case] want: Option<Coding>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, value.parse().unwrap());
        }
        assert_eq!(of(&headers), want);
    }

    fn decode(coding: Coding, encoded: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
        let mut decoder = Decoder::new(coding);
        let mut whole = Vec::new();
        for chunk in encoded.chunks(at_once) {
            whole.extend(
                decoder
                    .feed(Bytes::copy_from_slice(chunk))
                    .unwrap_or_default(),
            );
            while let Some(piece) = decoder.next()? {
                assert!(piece.len() <= PIECE * 1040, "{} bytes at once", piece.len());
                whole.extend(piece);
            }
        }
        Ok(whole)
    }

    #[rstest]
    fn what_was_encoded_comes_back_whatever_the_chunks(#[values(1, 7, 100_000)] at_once: usize) {
        let text: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0] ^ 3).collect();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&text).unwrap();

        assert_eq!(decode(Coding::Identity, &text, at_once).unwrap(), text);
        let gzip = gzip.finish().unwrap();
        assert_eq!(decode(Coding::Gzip, &gzip, at_once).unwrap(), text);
        let zlib = zlib.finish().unwrap();
        assert_eq!(decode(Coding::Deflate, &zlib, at_once).unwrap(), text);
    }

    #[test]
    fn a_bomb_comes_out_in_bounded_pieces_and_garbage_is_an_error() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&vec![0; 32 * 1024 * 1024]).unwrap();
        let whole = decode(Coding::Gzip, &bomb.finish().unwrap(), 1 << 20).unwrap();
        assert_eq!(whole.len(), 32 * 1024 * 1024);

        assert!(decode(Coding::Gzip, &[7; 100], 100).is_err());
    }
}
