//! What holds for any bytes of a client (see [`crate::fuzzing`]).

use bytes::BytesMut;

use super::resize::Sizes;
use super::spdy::{Decoder, Event};

/// The bytes of a SPDY connection: the same events, or the same end, however they are cut.
pub(crate) fn spdy(data: &[u8]) {
    let Some((step, data)) = data.split_first() else {
        return;
    };
    let whole = events(data, data.len().max(1));
    let cut = events(data, usize::from(*step).saturating_add(1));
    assert_eq!(whole, cut);
}

/// What was understood: pieces of a stream joined, and whether the rules were kept.
fn events(data: &[u8], step: usize) -> (Vec<String>, bool) {
    let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::new());
    let mut found: Vec<(u32, usize, String)> = Vec::new();
    for piece in data.chunks(step) {
        bytes.extend_from_slice(piece);
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(Event::Data {
                    id,
                    bytes,
                    fin: false,
                })) => match found.last_mut() {
                    Some((last, count, text)) if *last == id && text.is_empty() => {
                        *count = count.saturating_add(bytes.len());
                    }
                    _ => found.push((id, bytes.len(), String::new())),
                },
                Ok(Some(Event::Data {
                    id,
                    bytes,
                    fin: true,
                })) => match found.last_mut() {
                    Some((last, count, text)) if *last == id && text.is_empty() => {
                        *count = count.saturating_add(bytes.len());
                        "fin".clone_into(text);
                    }
                    _ => found.push((id, bytes.len(), "fin".to_owned())),
                },
                Ok(Some(Event::Ignored)) => {}
                Ok(Some(event)) => found.push((0, 0, format!("{event:?}"))),
                Ok(None) => break,
                Err(_fault) => return (told(found), false),
            }
        }
    }
    (told(found), true)
}

/// Without what a cut may add or leave out: data of no bytes, and the last frame, which may be there in part only.
fn told(found: Vec<(u32, usize, String)>) -> Vec<String> {
    found
        .into_iter()
        .filter(|(_, count, text)| *count > 0 || !text.is_empty())
        .map(|(id, count, text)| format!("{id} {count} {text}"))
        .collect()
}

/// A terminal's sizes: read or refused, never of nothing.
pub(crate) fn sizes(data: &[u8]) {
    if let Ok(Some(size)) = Sizes::default().newest(data) {
        assert!(size.width > 0 && size.height > 0);
    }
}
