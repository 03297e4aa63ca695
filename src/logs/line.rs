//! The lines of a CRI log file: where a stream is cut into records, and how a record is written. Pure.
//!
//! ```text
//! <RFC3339Nano, UTC, nine digits> <stdout|stderr> <F|P> <content>\n
//! ```
//!
//! Cutting has no memory: what a record holds depends only on the bytes from its first one on. So a pump that
//! consumes exactly what it has written may die anywhere, and its successor goes on without being told anything.

use std::io::BufRead;
use std::num::NonZeroUsize;

use crate::model::Timestamp;

/// Which of a process's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output; a terminal's only one.
    Stdout,
    /// Its standard error.
    Stderr,
}

impl Stream {
    /// As it stands in a record, between the time and the tag.
    pub(super) fn word(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// The content bytes that one record holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineLimit(Option<NonZeroUsize>);

impl LineLimit {
    /// From the configuration's number: zero and below mean unlimited (then the pump's buffer is the limit).
    pub fn new(bytes: i64) -> Self {
        Self(usize::try_from(bytes).ok().and_then(NonZeroUsize::new))
    }

    /// The limit in bytes, unless unlimited.
    pub fn bytes(self) -> Option<usize> {
        self.0.map(NonZeroUsize::get)
    }
}

impl From<NonZeroUsize> for LineLimit {
    fn from(bytes: NonZeroUsize) -> Self {
        Self(Some(bytes))
    }
}

impl Default for LineLimit {
    fn default() -> Self {
        Self::new(16_384)
    }
}

/// Whether a record ends its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// The line ends with this record.
    Full,
    /// The line goes on in the next record, or the stream ended within it.
    Partial,
}

/// What comes after the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Perhaps more: an undecided rest waits.
    More,
    /// More, for which there is no room before something is taken: a record is cut where it must be.
    NoRoom,
    /// Nothing: the stream has ended.
    Nothing,
}

/// One record's worth of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) content: &'a [u8],
    pub(super) tag: Tag,
    /// The bytes of the stream that it accounts for, line ending included.
    pub(super) consumed: usize,
}

/// The first record of `data`, or `None` while more bytes must come to decide it.
///
/// A line's content is what stands before `\n`, without a `\r` directly before that. Only content longer than the
/// limit is cut.
pub(super) fn next_piece(data: &[u8], limit: LineLimit, after: After) -> Option<Piece<'_>> {
    let max = limit.bytes().unwrap_or(usize::MAX);
    let window = head(data, max.saturating_add(2)); // content, \r, \n
    if window.is_empty() {
        return None;
    }
    if let Some(line) = first_line(window) {
        let content = line.strip_suffix(b"\r").unwrap_or(line);
        return Some(if content.len() > max {
            cut(data, max)
        } else {
            Piece {
                content,
                tag: Tag::Full,
                consumed: line.len().saturating_add(1),
            }
        });
    }
    let without_cr = window.strip_suffix(b"\r").unwrap_or(window);
    if without_cr.len() > max {
        return Some(cut(data, max));
    }
    match after {
        After::More => None,
        // The \r stays behind, its \n may come; alone it goes, so that something does.
        After::NoRoom if !without_cr.is_empty() => Some(cut(data, without_cr.len())),
        After::NoRoom | After::Nothing => Some(cut(data, window.len().min(max))),
    }
}

/// The bytes before the first newline, if there is one.
fn first_line(mut data: &[u8]) -> Option<&[u8]> {
    let whole = data;
    let count = data.skip_until(b'\n').ok()?; // reading from memory does not fail
    whole.get(..count)?.strip_suffix(b"\n")
}

fn cut(data: &[u8], at: usize) -> Piece<'_> {
    let content = head(data, at);
    Piece {
        content,
        tag: Tag::Partial,
        consumed: content.len(),
    }
}

fn head(data: &[u8], count: usize) -> &[u8] {
    data.get(..count).unwrap_or(data)
}

/// What stands before the stream of a record: the time.
pub(super) const TIME_LENGTH: usize = "2024-01-31T12:00:00.123456789Z".len();

/// What a record has beside its content; the streams' names are equally long.
pub(super) const FRAME: usize = TIME_LENGTH + " stdout F \n".len();

/// Writes records, remembering the second it wrote last.
#[derive(Debug, Default)]
pub(super) struct RecordWriter {
    second: Option<i64>,
    /// `2024-01-31T12:00:00.` of that second.
    prefix: String,
}

impl RecordWriter {
    /// Appends one record to `out`.
    pub(super) fn write(
        &mut self,
        out: &mut Vec<u8>,
        at: Timestamp,
        stream: Stream,
        piece: &Piece<'_>,
    ) {
        let (second, nanos) = at.parts();
        if self.second != Some(second) {
            self.second = Some(second);
            let whole = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.prefix = whole.to_string();
            self.prefix.truncate("2024-01-31T12:00:00".len());
            self.prefix.push('.');
        }
        out.extend_from_slice(self.prefix.as_bytes());
        out.extend_from_slice(&nine_digits(nanos));
        out.push(b'Z');
        out.extend_from_slice(stream.word());
        out.extend_from_slice(match piece.tag {
            Tag::Full => b"F ",
            Tag::Partial => b"P ",
        });
        out.extend_from_slice(piece.content);
        out.push(b'\n');
    }
}

fn nine_digits(nanos: i32) -> [u8; 9] {
    let mut left = nanos.unsigned_abs();
    let mut digits = [b'0'; 9];
    for digit in digits.iter_mut().rev() {
        *digit = b'0'.saturating_add(u8::try_from(left % 10).unwrap_or(0));
        left /= 10;
    }
    digits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    type Record = (Vec<u8>, Tag);

    /// Plays the FIFO: bytes arrive, what is decided is taken, the rest stays at the front.
    struct Player {
        limit: LineLimit,
        held: Vec<u8>,
        records: Vec<Record>,
    }

    impl Player {
        fn new(limit: i64) -> Self {
            Self {
                limit: LineLimit::new(limit),
                held: Vec::new(),
                records: Vec::new(),
            }
        }

        fn take_one(&mut self, after: After) -> bool {
            let Some(piece) = next_piece(&self.held, self.limit, after) else {
                return false;
            };
            self.records.push((piece.content.to_vec(), piece.tag));
            let count = piece.consumed;
            assert!(count > 0);
            self.held.drain(..count);
            true
        }

        fn arrive(&mut self, bytes: &[u8]) {
            self.held.extend_from_slice(bytes);
            while self.take_one(After::More) {}
        }

        fn end(mut self) -> Vec<Record> {
            while self.take_one(After::Nothing) {}
            assert!(self.held.is_empty());
            self.records
        }
    }

    fn frame(bytes: &[u8], limit: i64) -> Vec<(String, Tag)> {
        let mut player = Player::new(limit);
        player.arrive(bytes);
        let text = |(content, tag)| (String::from_utf8(content).unwrap(), tag);
        player.end().into_iter().map(text).collect()
    }

    #[rstest]
    #[case::lines("a\nb\n", &["F a", "F b"])]
    #[case::empty_line("\n\n", &["F ", "F "])]
    #[case::nothing("", &[])]
    #[case::no_newline_at_the_end("a\nbc", &["F a", "P bc"])]
    #[case::carriage_return_before_newline("ab\r\nc\rd\n", &["F ab", "F c\rd"])]
    #[case::exactly_the_limit("abcd\n", &["F abcd"])]
    #[case::the_limit_and_a_carriage_return("abcd\r\n", &["F abcd"])]
    #[case::one_more("abcde\n", &["P abcd", "F e"])]
    #[case::twice_the_limit("abcdefgh\n", &["P abcd", "F efgh"])]
    #[case::a_carriage_return_within("abcd\re\n", &["P abcd", "F \re"])]
    #[case::two_carriage_returns("abcd\r\r\n", &["P abcd", "F \r"])]
    #[case::the_limit_at_the_end("abcd", &["P abcd"])]
    #[case::carriage_return_at_the_end("abcd\r", &["P abcd", "P \r"])]
    fn lines_are_cut_as_the_contract_says(#[case] bytes: &str, #[case] wanted: &[&str]) {
        let shown: Vec<String> = frame(bytes.as_bytes(), 4)
            .into_iter()
            .map(|(content, tag)| match tag {
                Tag::Full => format!("F {content}"),
                Tag::Partial => format!("P {content}"),
            })
            .collect();
        assert_eq!(shown, wanted);
    }

    #[rstest]
    #[case(16_384, 1)]
    #[case(16_385, 2)]
    fn the_default_limit_is_16_kib(#[case] length: usize, #[case] records: usize) {
        let mut line = vec![b'x'; length];
        line.push(b'\n');
        let mut player = Player::new(16_384);
        player.arrive(&line);
        assert_eq!(player.end().len(), records);
    }

    #[test]
    fn unlimited_lines_are_whole() {
        let mut line = vec![b'x'; 1 << 20];
        line.push(b'\n');
        let mut player = Player::new(0);
        player.arrive(&line);
        assert_eq!(player.end().len(), 1);
    }

    #[test]
    fn a_record_is_one_line_with_a_time_of_nine_digits() {
        let mut out = Vec::new();
        let mut records = RecordWriter::default();
        let piece = |content, tag| Piece {
            content,
            tag,
            consumed: 0,
        };

        let at = Timestamp(1_706_702_400_000_000_042);
        records.write(&mut out, at, Stream::Stdout, &piece(b"hi \xff", Tag::Full));
        let at = Timestamp(-1);
        records.write(&mut out, at, Stream::Stderr, &piece(b"", Tag::Partial));

        let wanted: &[u8] = b"2024-01-31T12:00:00.000000042Z stdout F hi \xff\n\
            1969-12-31T23:59:59.999999999Z stderr P \n";
        assert_eq!(out, wanted);
    }

    /// Bytes in which line endings are frequent.
    fn output() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let byte = prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), any::<u8>()];
        proptest::collection::vec(proptest::collection::vec(byte, 0..20), 0..12)
    }

    /// What a reader of the log gets back: partial records joined with the next.
    fn joined(records: &[Record]) -> Vec<Record> {
        let mut lines = Vec::new();
        let mut line = Vec::new();
        let mut is_open = false;
        for (content, tag) in records {
            line.extend_from_slice(content);
            is_open = *tag == Tag::Partial;
            if !is_open {
                lines.push((std::mem::take(&mut line), Tag::Full));
            }
        }
        if is_open {
            lines.push((line, Tag::Partial));
        }
        lines
    }

    fn lines_of(bytes: &[u8]) -> Vec<Record> {
        let mut lines: Vec<Record> = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| (line.strip_suffix(b"\r").unwrap_or(line).to_vec(), Tag::Full))
            .collect();
        lines.pop();
        let rest = bytes.rsplit(|byte| *byte == b'\n').next().unwrap();
        if !rest.is_empty() {
            lines.push((rest.to_vec(), Tag::Partial));
        }
        lines
    }

    proptest! {
        #[test]
        fn records_do_not_depend_on_how_the_bytes_arrive(chunks in output(), limit in 0..9_i64) {
            let mut at_once = Player::new(limit);
            at_once.arrive(&chunks.concat());
            let mut in_parts = Player::new(limit);
            for chunk in &chunks {
                in_parts.arrive(chunk);
            }
            prop_assert_eq!(at_once.end(), in_parts.end());
        }

        #[test]
        fn joined_records_are_the_lines_wherever_they_were_cut(
            chunks in output(),
            no_room in proptest::collection::vec(any::<bool>(), 12),
            limit in 0..9_i64,
        ) {
            let mut player = Player::new(limit);
            for (chunk, no_room) in chunks.iter().zip(no_room) {
                player.arrive(chunk);
                // A FIFO without room holds more than one byte.
                if no_room && player.held.len() > 1 {
                    prop_assert!(player.take_one(After::NoRoom));
                }
            }
            let records = player.end();

            if limit > 0 {
                let limit = usize::try_from(limit).unwrap();
                prop_assert!(records.iter().all(|(content, _)| content.len() <= limit));
            }
            prop_assert_eq!(joined(&records), lines_of(&chunks.concat()));
        }
    }
}
