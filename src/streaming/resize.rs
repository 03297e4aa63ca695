//! Sizes of a terminal as clients send them: JSON objects one after the other, cut anywhere (contract B8).

use std::collections::HashMap;

use bytes::BytesMut;
use serde_json::Value;

/// Bytes of one object.
const LIMIT: usize = 256;

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: u16,
    pub(super) height: u16,
}

/// What cannot be read ends the resizing, not the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Collects the objects.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    pending: BytesMut,
}

impl Sizes {
    /// The newest size in what came; sizes of 0 mean nothing.
    pub(super) fn newest(&mut self, bytes: &[u8]) -> Result<Option<Size>, Unreadable> {
        self.pending.extend_from_slice(bytes);
        let mut newest = None;
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'}') {
            let object = self.pending.split_to(end.saturating_add(1));
            if object.len() > LIMIT {
                return Err(Unreadable);
            }
            newest = size(&object)?.or(newest);
        }
        match self.pending.len() > LIMIT {
            true => Err(Unreadable),
            false => Ok(newest),
        }
    }
}

fn size(object: &[u8]) -> Result<Option<Size>, Unreadable> {
    let object: HashMap<String, Value> =
        serde_json::from_slice(object).map_err(|_other| Unreadable)?;
    let find = |wanted: &str| -> Result<u16, Unreadable> {
        let (_, value) = object
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(wanted))
            .ok_or(Unreadable)?;
        value
            .as_u64()
            .and_then(|value| u16::try_from(value).ok())
            .ok_or(Unreadable)
    };
    let (width, height) = (find("width")?, find("height")?);
    Ok((width > 0 && height > 0).then_some(Size { width, height }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_counts_however_it_is_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n {\"height\":50,\"width\":132} ";
        let wanted = Size {
            width: 132,
            height: 50,
        };
        assert_eq!(Sizes::default().newest(text), Ok(Some(wanted)));
        let mut sizes = Sizes::default();
        let found: Vec<_> = text
            .iter()
            .filter_map(|byte| sizes.newest(&[*byte]).unwrap())
            .collect();
        assert_eq!(
            found,
            [
                Size {
                    width: 80,
                    height: 24
                },
                wanted
            ]
        );
    }

    #[test]
    fn sizes_of_nothing_mean_nothing() {
        assert_eq!(
            Sizes::default().newest(b"{\"Width\":0,\"Height\":24}"),
            Ok(None)
        );
    }

    #[test]
    fn what_is_no_size_is_unreadable() {
        for text in [
            "{}",
            "}",
            "{\"Width\":65536,\"Height\":1}",
            "{\"Width\":-1,\"Height\":1}",
            "{\"Width\":\"80\",\"Height\":1}",
        ] {
            assert_eq!(
                Sizes::default().newest(text.as_bytes()),
                Err(Unreadable),
                "{text}"
            );
        }
        assert_eq!(Sizes::default().newest(&[b' '; LIMIT + 1]), Err(Unreadable));
    }
}
