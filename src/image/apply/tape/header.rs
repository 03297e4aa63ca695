//! One header block of a tar.

use std::ops::Range;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// A header as it stands in the archive.
pub(super) struct Header([u8; BLOCK]);

/// Which of the dialects a header is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Before POSIX: neither prefix nor device numbers.
    Old,
    /// POSIX.
    Ustar,
    /// As POSIX with a shorter prefix.
    Star,
    /// GNU: times instead of a prefix.
    Gnu,
}

impl Header {
    pub(super) fn new(block: [u8; BLOCK]) -> Self {
        Self(block)
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    fn field(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    /// The sum over the block counts its own field as blanks; old programs took bytes as signed.
    pub(super) fn is_intact(&self) -> bool {
        let Some(said) = octal(self.field(148..156)) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            };
            unsigned = unsigned.saturating_add(i64::from(byte));
            signed = signed.saturating_add(i64::from(byte.cast_signed()));
        }
        said == unsigned || said == signed
    }

    pub(super) fn dialect(&self) -> Dialect {
        match (self.field(257..263), self.field(263..265)) {
            (b"ustar\0", _) if self.field(508..512) == b"tar\0" => Dialect::Star,
            (b"ustar\0", _) => Dialect::Ustar,
            (b"ustar ", b" \0") => Dialect::Gnu,
            _ => Dialect::Old,
        }
    }

    pub(super) fn flag(&self) -> u8 {
        self.0.get(156).copied().unwrap_or(0)
    }

    /// The name, with its prefix where the dialect has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(self.field(0..100));
        let prefix: &[u8] = match self.dialect() {
            Dialect::Ustar => text(self.field(345..500)),
            Dialect::Star => text(self.field(345..476)),
            // Some programs wrote a prefix where GNU has times.
            Dialect::Gnu if self.gnu_times().is_none() => {
                let prefix = text(self.field(345..500));
                if prefix.is_ascii() { prefix } else { &[] }
            }
            Dialect::Gnu | Dialect::Old => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157..257)).to_vec()
    }

    pub(super) fn mode(&self) -> Option<i64> {
        number(self.field(100..108))
    }

    pub(super) fn uid(&self) -> Option<i64> {
        number(self.field(108..116))
    }

    pub(super) fn gid(&self) -> Option<i64> {
        number(self.field(116..124))
    }

    pub(super) fn size(&self) -> Option<i64> {
        number(self.field(124..136))
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(self.field(136..148))
    }

    /// Major and minor number; zero where the dialect has none.
    pub(super) fn device(&self) -> Option<(i64, i64)> {
        if self.dialect() == Dialect::Old {
            return Some((0, 0));
        }
        Some((number(self.field(329..337))?, number(self.field(337..345))?))
    }

    /// Time of the last access where the dialect has one and it is set.
    pub(super) fn atime(&self) -> Option<i64> {
        match self.dialect() {
            Dialect::Star => number(self.field(476..488)),
            Dialect::Gnu => self.gnu_times()?,
            Dialect::Ustar | Dialect::Old => None,
        }
    }

    /// The access time of a GNU header; outer `None` where the fields hold no times.
    fn gnu_times(&self) -> Option<Option<i64>> {
        let time = |range: Range<usize>| {
            let field = self.field(range);
            if field.first() == Some(&0) {
                return Some(None);
            }
            number(field).map(Some)
        };
        let atime = time(345..357)?;
        time(357..369)?;
        Some(atime)
    }

    /// The pieces of a GNU sparse file that stand in the header itself, and whether blocks with more of them follow.
    pub(super) fn sparse(&self) -> (&[u8], bool) {
        (self.field(386..482), self.field(482..483) != b"\0")
    }

    /// The whole size of a GNU sparse file.
    pub(super) fn real_size(&self) -> Option<i64> {
        number(self.field(483..495))
    }
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits, or binary where the first bit says so.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    // Two's complement over all bits but the first.
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = if at == 0 && negative {
            byte | 0x80
        } else if at == 0 {
            byte & 0x7f
        } else {
            *byte
        };
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
        if i64::try_from(value).is_err() {
            return None;
        }
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_blank(byte));
    let Some(start) = start else { return Some(0) };
    let end = field.iter().rposition(|byte| !is_blank(byte))?;
    let digits = text(field.get(start..=end)?);
    let digits = std::str::from_utf8(digits).ok()?;
    if digits.starts_with('+') {
        return None;
    }
    i64::from_str_radix(digits, 8)
        .ok()
        .filter(|value| *value >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"        ", Some(0)),
            (b"\0\0\0\0", Some(0)),
            (b"12x\0", None),
            (b"+12\0", None),
            (b"-12\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
