//! Frames and connections against a client of our own, and against bytes that the Go client was seen to send.

mod connections;
mod frames;

use bytes::{Buf as _, BufMut as _, BytesMut};
use flate2::{Compress, Compression, FlushCompress};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::super::channel::Line;
use super::connection::{Incoming, Judge, Rules, open};
use super::dictionary::DICTIONARY;
use super::frame::{Decoder, Event, Fault};

/// Hexadecimal digits as bytes.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

/// Every event in `bytes`, fed in pieces of `step`.
fn events(bytes: &[u8], step: usize) -> Result<Vec<Event>, Fault> {
    let (mut decoder, mut buffer, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(event) = decoder.next(&mut buffer)? {
            found.push(event);
        }
    }
    Ok(found)
}

/// The frames of a client: what it sends is what it can write.
struct Client {
    zlib: Compress,
    wire: BytesMut,
}

impl Client {
    fn new() -> Self {
        let mut zlib = Compress::new(Compression::new(9), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        let wire = BytesMut::new();
        Self { zlib, wire }
    }

    fn block(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 256);
        self.zlib
            .compress_vec(plain, &mut out, FlushCompress::Sync)
            .unwrap();
        out
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) {
        self.wire.put_u16(0x8003);
        self.wire.put_u16(kind);
        self.wire
            .put_u32((u32::from(flags) << 24) | u32::try_from(body.len()).unwrap());
        self.wire.put_slice(body);
    }

    fn open_raw(&mut self, id: u32, plain: &[u8]) {
        let block = self.block(plain);
        let mut body = BytesMut::new();
        body.put_u32(id);
        body.put_u32(0);
        body.put_u16(0);
        body.put_slice(&block);
        self.control(1, 0, &body);
    }

    fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let mut plain = BytesMut::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap());
            plain.put_slice(text.as_bytes());
        }
        self.open_raw(id, &plain);
    }

    fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.wire.put_u32(id);
        self.wire
            .put_u32((u32::from(fin) << 24) | u32::try_from(bytes.len()).unwrap());
        self.wire.put_slice(bytes);
    }
}

fn rules() -> Rules {
    Rules {
        streams: 10,
        backlog: 1 << 20,
        idle: None,
        may_cut: false,
    }
}

/// A connection of ours and the client's end of it.
struct Bed {
    io: DuplexStream,
    line: Line,
    arrivals: mpsc::UnboundedReceiver<Incoming>,
    driver: tokio::task::JoinHandle<()>,
    zlib: flate2::Decompress,
}

impl Bed {
    #[expect(clippy::disallowed_methods, reason = "there is no supervisor here")]
    fn new(rules: Rules, judge: Judge) -> Self {
        let (io, ours) = tokio::io::duplex(64 * 1024);
        let (line, arrivals, driver) = open(ours, rules, judge);
        Self {
            io,
            line,
            arrivals,
            driver: tokio::spawn(driver),
            zlib: flate2::Decompress::new(true),
        }
    }

    async fn send(&mut self, client: &mut Client) {
        self.io.write_all(&client.wire.split()).await.unwrap();
    }

    /// The next frame: its first word, flags and body.
    async fn frame(&mut self) -> (u32, u8, Vec<u8>) {
        let first = self.io.read_u32().await.unwrap();
        let second = self.io.read_u32().await.unwrap();
        let mut body = vec![0; usize::try_from(second & 0x00FF_FFFF).unwrap()];
        self.io.read_exact(&mut body).await.unwrap();
        (first, u8::try_from(second >> 24).unwrap(), body)
    }

    /// The id of a reply, whose block must inflate in its turn.
    async fn reply(&mut self) -> u32 {
        let (first, flags, body) = self.frame().await;
        assert_eq!((first, flags), (0x8003_0002, 0));
        let (id, block) = body.split_at(4);
        let mut plain = Vec::with_capacity(64);
        let mut fed = usize::try_from(self.zlib.total_in()).unwrap();
        let before = fed;
        let flush = flate2::FlushDecompress::Sync;
        if let Err(error) = self.zlib.decompress_vec(block, &mut plain, flush) {
            assert_eq!(error.needs_dictionary(), Some(0xE3C6_A7C2));
            self.zlib.set_dictionary(&DICTIONARY).unwrap();
            fed = usize::try_from(self.zlib.total_in()).unwrap() - before;
            self.zlib
                .decompress_vec(&block[fed..], &mut plain, flush)
                .unwrap();
        }
        assert_eq!(plain, [0; 4]);
        (&id[..]).get_u32()
    }
}
