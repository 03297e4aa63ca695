//! What holds for any output of a container (see [`crate::fuzzing`]).

use super::line::{After, LineLimit, Tag, next_piece};

/// The first byte is the limit, the second how many bytes come at once. However output arrives, its records are the
/// same, nothing of it is lost but line endings, and none holds more than the limit.
pub(crate) fn lines(data: &[u8]) {
    let [limit, step, output @ ..] = data else {
        return;
    };
    let limit = LineLimit::new(i64::from(*limit));
    let whole = cut(output, limit, output.len());
    assert_eq!(whole, cut(output, limit, usize::from(*step)));
    let mut rest = output;
    for (content, tag) in &whole {
        assert!(limit.bytes().is_none_or(|max| content.len() <= max));
        let (came, after) = rest.split_at(content.len().min(rest.len()));
        assert_eq!(came, content);
        rest = after;
        if *tag == Tag::Full {
            rest = rest.strip_prefix(b"\r").unwrap_or(rest);
            assert!(rest.starts_with(b"\n"));
            rest = rest.strip_prefix(b"\n").unwrap_or_default();
        }
    }
    assert!(rest.is_empty());
}

fn cut(output: &[u8], limit: LineLimit, step: usize) -> Vec<(Vec<u8>, Tag)> {
    let mut records = Vec::new();
    let (mut done, mut arrived) = (0, 0);
    while arrived < output.len() {
        arrived = arrived.saturating_add(step.max(1)).min(output.len());
        let after = if arrived == output.len() {
            After::Nothing
        } else {
            After::More
        };
        while let Some(piece) =
            next_piece(output.get(done..arrived).unwrap_or_default(), limit, after)
        {
            done = done.saturating_add(piece.consumed);
            records.push((piece.content.to_vec(), piece.tag));
        }
    }
    assert_eq!(done, output.len());
    records
}
