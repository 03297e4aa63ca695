//! Header blocks: one zlib stream for all blocks of a connection, and a list of names and values in it. Every length is
//! the peer's word, so none is used before it was compared with what is there (threats row 43).

use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;
use super::frame::Fault;

/// Bytes that one block may inflate to.
const BLOCK: usize = 64 * 1024;
/// Headers of a block.
const COUNT: usize = 100;
/// Bytes of a name, and of a value.
const FIELD: usize = 8 * 1024;
/// What a sync flush ends with. A block that ends otherwise leaves the two ends apart.
const FLUSHED: [u8; 4] = [0, 0, 0xFF, 0xFF];
/// Names that no block may have: they belong to HTTP/1.1 connections.
const FORBIDDEN: [&str; 5] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
];

/// The headers of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of `name`; the first of several.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        value.split('\0').next()
    }

    /// Reads a block that was inflated.
    fn parse(mut block: &[u8]) -> Result<Self, Fault> {
        let count = length(&mut block)?;
        if count > COUNT {
            return Err(Fault::TooLarge("more than 100 headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?;
            let value = text(&mut block)?;
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(Fault::Malformed("a header name"));
            }
            if FORBIDDEN.contains(&name.as_str()) {
                return Err(Fault::Malformed("a header that belongs to HTTP"));
            }
            headers.push((name, value));
        }
        match block.is_empty() {
            true => Ok(Self(headers)),
            false => Err(Fault::Malformed("bytes after the headers")),
        }
    }
}

fn length(block: &mut &[u8]) -> Result<usize, Fault> {
    let (head, rest) = block
        .split_first_chunk::<4>()
        .ok_or(Fault::Malformed("a header block that ends early"))?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*head)).map_err(|_wide| Fault::TooLarge("a header"))
}

fn text(block: &mut &[u8]) -> Result<String, Fault> {
    let wanted = length(block)?;
    if wanted > FIELD {
        return Err(Fault::TooLarge("a header of more than 8 KiB"));
    }
    let (bytes, rest) = block
        .split_at_checked(wanted)
        .ok_or(Fault::Malformed("a header block that ends early"))?;
    *block = rest;
    String::from_utf8(bytes.to_vec()).map_err(|_other| Fault::Malformed("a header that is no text"))
}

/// Inflates the blocks of one direction of a connection, in their order. Each must be fed, also of streams that are
/// refused: the state runs through all of them.
#[derive(Debug)]
pub(crate) struct Inflater {
    zlib: Decompress,
}

impl Default for Inflater {
    fn default() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }
}

impl Inflater {
    /// The headers in `compressed`.
    pub(super) fn headers(&mut self, compressed: &[u8]) -> Result<Headers, Fault> {
        Headers::parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Fault> {
        if !input.ends_with(&FLUSHED) {
            return Err(Fault::Malformed("a header block that ends without a flush"));
        }
        let mut block = Vec::new();
        let mut piece = [0; 4_096];
        loop {
            let (before_in, before_out) = (self.zlib.total_in(), self.zlib.total_out());
            let status = match self
                .zlib
                .decompress(input, &mut piece, FlushDecompress::Sync)
            {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    input = rest(input, self.zlib.total_in() - before_in)?;
                    self.zlib.set_dictionary(&DICTIONARY).map_err(|_other| {
                        Fault::Malformed("a header block with another dictionary")
                    })?;
                    continue;
                }
                Err(_damaged) => {
                    return Err(Fault::Malformed("a header block that is no zlib data"));
                }
            };
            input = rest(input, self.zlib.total_in() - before_in)?;
            let made = usize::try_from(self.zlib.total_out() - before_out).unwrap_or(usize::MAX);
            block.extend_from_slice(piece.get(..made).unwrap_or_default());
            if block.len() > BLOCK {
                return Err(Fault::TooLarge("a header block of more than 64 KiB"));
            }
            if status == Status::StreamEnd {
                return Err(Fault::Malformed("a header block that ends the zlib stream"));
            }
            // Whatever fills the whole piece may have left more inside the decompressor.
            if input.is_empty() && made < piece.len() {
                return Ok(block);
            }
            if made == 0 && self.zlib.total_in() == before_in {
                return Err(Fault::Malformed("a header block that does not inflate"));
            }
        }
    }
}

fn rest(input: &[u8], used: u64) -> Result<&[u8], Fault> {
    usize::try_from(used)
        .ok()
        .and_then(|used| input.get(used..))
        .ok_or(Fault::Malformed("a header block"))
}
