//! Layers as they are packed, and what they may unpack to.

use std::io::Write as _;

use ::zstd::stream::write::Encoder;
use flate2::write::GzEncoder;

use super::*;

/// A frame without data, as encoders put their own notes into a stream.
const NOTE: &[u8] = b"\x50\x2a\x4d\x18\x05\0\0\0notes";
/// The beginning of a frame that wants a window of 2 GiB.
const HUGE: &[u8] = b"\x28\xb5\x2f\xfd\0\xa8\x01\0\0";

impl Bench {
    /// Unpacks a blob, on one thread and on two.
    fn unpack(&self, blob: &[u8], most: Option<Most>) -> Result<Unpacked> {
        let path = self.dir.path().join("below/blob");
        let mut done = Vec::new();
        for is_small in [true, false] {
            fs::write(&path, blob).unwrap();
            let plan = Plan {
                target: Target {
                    root: self.root(),
                    below: vec![self.below()],
                    whiteouts: Whiteouts::Overlay,
                },
                packing: Packing::AsSeen,
                blob: path.clone(),
                is_small,
                server: Pid(1),
            };
            let tree = LayerTree::open_blocking(&self.root(), &[self.below()]).unwrap();
            let limits = Limits { entries: 1000 };
            let laying = Laying::new(tree, Whiteouts::Overlay, limits, &|| false);
            let file = BufReader::with_capacity(1000, File::open(&plan.blob).unwrap());
            done.push(plan.unpack(file, most.clone(), laying));
        }
        let (two, one) = (done.pop().unwrap(), done.pop().unwrap());
        let kind = |done: &Result<Unpacked>| done.as_ref().map_err(Error::kind).cloned();
        assert_eq!(kind(&one), kind(&two));
        one
    }
}

fn zstd(plain: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn layer() -> Vec<u8> {
    let text: String = (0..200_000_u32)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    Layer::default().file("a", &text).file("b", "short").end()
}

#[test]
fn several_frames_and_those_without_data_are_one_layer() {
    let plain = layer();
    let (first, second) = plain.split_at(70_001);
    let frames = [NOTE, &zstd(first, 20), NOTE, NOTE, &zstd(second, 23), NOTE].concat();

    let bench = Bench::new();
    let unpacked = bench.unpack(&frames, None).unwrap();

    let want = Unpacked {
        diff_id: Digest::sha256(&plain),
        bytes: plain.len() as u64,
    };
    assert_eq!(unpacked, want);
    assert_eq!(bench.read("b"), "short");
    assert_eq!(bench.read("a").len(), 200_000);
}

#[test]
fn a_large_window_is_left_to_containerd() {
    let plain = layer();
    let later = [&zstd(&plain[..512], 20), HUGE].concat();
    for blob in [zstd(&plain, 24), HUGE.to_vec(), later] {
        let error = Bench::new().unpack(&blob, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Unimplemented, "{}", error.chain());
    }
}

#[test]
fn what_is_broken_is_refused() {
    let whole = zstd(&layer(), 20);
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    let reserved = b"\x28\xb5\x2f\xfd\0\x58\x07\0\0".to_vec();
    for (name, blob) in [
        ("cut in the middle", whole[..whole.len() / 2].to_vec()),
        ("cut at the last byte", whole[..whole.len() - 1].to_vec()),
        ("cut in the first header", whole[..5].to_vec()),
        ("cut in a note", [&whole, &NOTE[..10]].concat()),
        (
            "a frame of another format after it",
            [&whole[..], b"garbage!"].concat(),
        ),
        ("other bytes", flipped),
        ("a block of no kind", reserved),
    ] {
        let error = Bench::new().unpack(&blob, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Aborted, "{name}: {}", error.chain());
    }
}

#[test]
fn a_bomb_ends_at_the_limit_wherever_its_bytes_are() {
    const MIB: usize = 1 << 20;
    let zeros = "\0".repeat(8 * MIB);
    let in_a_file = Layer::default().file("zeros", &zeros).end();
    let mut behind = Layer::default().file("a", "").end();
    behind.resize(8 * MIB, 0);
    let most = Most {
        bytes: 2 * MIB as u64,
        why: "as the operator says".into(),
    };
    for plain in [in_a_file, behind] {
        for blob in [gzip(&plain), zstd(&plain, 20), plain.clone()] {
            let bench = Bench::new();
            let error = bench.unpack(&blob, Some(most.clone())).unwrap_err();
            assert_eq!(error.kind(), Kind::ResourceExhausted);
            assert!(error.chain().contains("as the operator says"), "{error}");
            let held = fs::metadata(bench.root().join("zeros")).map_or(0, |file| file.len());
            assert!(held <= most.bytes, "{held}");
        }
    }
    let fits = Layer::default().file("a", "").end();
    let most = Most {
        bytes: fits.len() as u64,
        ..most
    };
    Bench::new().unpack(&zstd(&fits, 20), Some(most)).unwrap();
}
