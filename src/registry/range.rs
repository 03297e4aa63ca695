//! Which bytes of a blob are asked for, and whether an answer holds them.

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::coding::Coding;
use super::failure::{Failure, shown};
use crate::model::{Descriptor, Error, Kind};

/// The bytes that are wanted next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) start: u64,
    /// After the last one.
    pub(super) end: u64,
    /// Nobody waits for them yet: an answer that brings more is of no use, and no patience is due.
    pub(super) is_ahead: bool,
    /// The host has not understood what part of the blob was asked for: all of it is, and what is there is dropped.
    pub(super) is_all: bool,
}

/// What an answer brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brought {
    /// Bytes to drop first.
    pub(super) skip: u64,
    /// After its last byte.
    pub(super) end: u64,
    /// It is a part of the blob.
    pub(super) is_part: bool,
    /// It ends where it was asked to, or before.
    pub(super) is_as_asked: bool,
}

/// A `Content-Range`: `bytes FIRST-LAST/TOTAL`, where the total may be `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let total = match total.trim() {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        (first <= last).then_some(Self { first, last, total })
    }
}

impl Want {
    /// The value of the header that asks for it, of a blob of `size` bytes; `None` where all of it is wanted.
    pub(super) fn header(&self, size: u64) -> Option<String> {
        let start = self.start;
        match self.end {
            _ if self.is_all => None,
            end if end < size => Some(format!("bytes={start}-{}", end.saturating_sub(1))),
            _ if start > 0 => Some(format!("bytes={start}-")),
            _ => None,
        }
    }

    /// Whether `response` can be read as what was asked for.
    ///
    /// # Errors
    /// It holds other bytes than it should, or not as many.
    pub(super) fn check(
        &self,
        descriptor: &Descriptor,
        response: &Response,
        coding: Coding,
    ) -> Result<Brought, Failure> {
        let wrong = |why: String| {
            let url = shown(response.url());
            Failure::wrong_part(Error::new(Kind::Unknown, format!("{url}: {why}")))
        };
        let is_encoded = coding != Coding::Identity;
        let header = response.headers().get(CONTENT_RANGE);
        let range = match response.status() {
            StatusCode::PARTIAL_CONTENT if is_encoded => {
                return Err(wrong("a part of an encoded body".to_owned()));
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = header.and_then(|range| ContentRange::parse(range.to_str().ok()?));
                Some(range.ok_or_else(|| wrong("a part without a range".to_owned()))?)
            }
            _ => None,
        };
        let brought = self.brought(range, descriptor.size).map_err(wrong)?;
        let first = range.map_or(0, |range| range.first);
        let want = brought.end.saturating_sub(first);
        match response.content_length() {
            Some(length) if !is_encoded && length != want => {
                let digest = &descriptor.digest;
                let why = format!("sends {length} bytes where {digest} says {want}");
                let error = Error::new(Kind::Unknown, format!("{}: {why}", shown(response.url())));
                Err(Failure::transport(error))
            }
            _ => Ok(brought),
        }
    }

    /// What an answer with this range brings of a blob of `size` bytes; without one it is the whole.
    fn brought(&self, range: Option<ContentRange>, size: u64) -> Result<Brought, String> {
        let Some(range) = range else {
            if self.is_ahead {
                return Err("sent the whole where a part was asked for".to_owned());
            }
            return Ok(Brought {
                skip: self.start,
                end: size,
                is_part: false,
                is_as_asked: self.end >= size,
            });
        };
        let end = range.last.saturating_add(1);
        if range.total.is_some_and(|total| total != size) {
            return Err(format!(
                "sent a part of {} bytes where the blob has {size}",
                range.total.unwrap_or_default()
            ));
        }
        let is_whole = range.first == 0 && end == size && !self.is_ahead;
        if range.first != self.start && !is_whole {
            return Err(format!(
                "sent bytes from {} where {} was asked for",
                range.first, self.start
            ));
        }
        if !is_whole && end > self.end {
            return Err(format!(
                "sent bytes up to {end} where those up to {} were asked for",
                self.end
            ));
        }
        if self.end >= size && end < size {
            return Err(format!("sent bytes up to {end} where all were asked for"));
        }
        Ok(Brought {
            skip: self.start.saturating_sub(range.first),
            end,
            is_part: true,
            is_as_asked: end <= self.end,
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("bytes 0-9/10", Some((0, 9, Some(10))))]
    #[case("bytes 4-9/*", Some((4, 9, None)))]
    #[case("bytes 9-4/10", None)]
    #[case("bytes 4-9", None)]
    #[case("bytes */10", None)]
    #[case("items 0-9/10", None)]
    #[case("bytes 0-99999999999999999999/*", None)]
    fn ranges_are_read(#[case] text: &str, #[case] want: Option<(u64, u64, Option<u64>)>) {
        let found = ContentRange::parse(text).map(|range| (range.first, range.last, range.total));
        assert_eq!(found, want);
    }

    #[rstest]
    #[case(0, 100, None)]
    #[case(0, 40, Some("bytes=0-39"))]
    #[case(40, 80, Some("bytes=40-79"))]
    #[case(40, 100, Some("bytes=40-"))]
    fn what_is_wanted_is_asked_for(
        #[case] start: u64,
        #[case] end: u64,
        #[case] header: Option<&str>,
    ) {
        let want = Want {
            start,
            end,
            is_ahead: false,
            is_all: false,
        };
        assert_eq!(want.header(100).as_deref(), header);
    }

    #[rstest]
    // Just what was asked for, less of it, more, another part, another blob.
    #[case(40, 80, false, Some((40, 79, Some(100))), Some((0, 80, true)))]
    #[case(40, 80, false, Some((40, 59, None)), Some((0, 60, true)))]
    #[case(40, 80, false, Some((40, 99, Some(100))), None)]
    #[case(40, 80, false, Some((41, 79, Some(100))), None)]
    #[case(40, 80, false, Some((40, 79, Some(101))), None)]
    // The whole, which is good for somebody who waits for all of it.
    #[case(40, 80, false, Some((0, 99, Some(100))), Some((40, 100, false)))]
    #[case(40, 80, false, None, Some((40, 100, false)))]
    #[case(40, 80, true, None, None)]
    #[case(40, 80, true, Some((0, 99, Some(100))), None)]
    #[case(40, 100, false, None, Some((40, 100, true)))]
    #[case(40, 100, false, Some((40, 99, Some(100))), Some((0, 100, true)))]
    // All the rest and no less.
    #[case(40, 100, false, Some((40, 59, Some(100))), None)]
    fn an_answer_holds_what_was_asked_for_or_is_refused(
        #[case] start: u64,
        #[case] end: u64,
        #[case] is_ahead: bool,
        #[case] range: Option<(u64, u64, Option<u64>)>,
        #[case] found: Option<(u64, u64, bool)>,
    ) {
        let want = Want {
            start,
            end,
            is_ahead,
            is_all: false,
        };
        let range = range.map(|(first, last, total)| ContentRange { first, last, total });
        let brought = want.brought(range, 100).ok();
        let brought = brought.map(|it| (it.skip, it.end, it.is_as_asked));
        assert_eq!(brought, found);
    }
}
