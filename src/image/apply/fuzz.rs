//! What holds for any layer (see [`crate::fuzzing`]).

use super::lay::clean;
use super::tape::{EntryKind, Tape};

/// Bytes of one layer that are looked at: sizes in headers are the archive's word.
const MOST: u64 = 1 << 20;

/// An archive is read to its end or refused; a file has the bytes that its header says, and no cleaned name leads out.
pub(crate) fn layer(data: &[u8]) {
    let mut tape = Tape::new(data);
    while let Ok(Some(entry)) = tape.next() {
        let name = clean(&entry.name);
        assert!(!name.starts_with(b"/"), "{name:?}");
        assert!(
            name.split(|byte| *byte == b'/').all(|part| part != b".."),
            "{name:?}"
        );
        if let EntryKind::File { size, pieces: None } = entry.kind {
            let mut read = 0;
            while let Ok(piece) = tape.data(MOST) {
                let count = piece.len();
                if count == 0 {
                    assert_eq!(read, size);
                    break;
                }
                read += count as u64;
                tape.consume(count);
            }
        }
    }
}
