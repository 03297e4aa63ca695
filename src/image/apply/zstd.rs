//! Undoing zstd, frame by frame, within a window that takes little memory.

use std::io::{self, BufRead, Read};

use zstd::stream::read::Decoder;

use crate::model::Error;

/// Windows up to 8 MiB: what the format asks of every decoder, and what encoders take unless they are told otherwise.
const WINDOW_LOG: u32 = 23;
/// How the library says that a window is larger.
const TOO_LARGE: &str = "Frame requires too much memory for decoding";

/// The bytes of all frames, one after the other; frames that carry no data are passed over.
pub(in crate::image) struct Unzstd<R: BufRead>(Decoder<'static, R>);

impl<R: BufRead> Unzstd<R> {
    pub(in crate::image) fn new(packed: R) -> io::Result<Self> {
        let mut decoder = Decoder::with_buffer(packed)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self(decoder))
    }
}

impl<R: BufRead> Read for Unzstd<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to).map_err(|error| {
            if error.to_string() == TOO_LARGE {
                let why = "a layer packed by zstd with a window larger than 8 MiB";
                return io::Error::other(Error::unimplemented(why));
            }
            error
        })
    }
}
