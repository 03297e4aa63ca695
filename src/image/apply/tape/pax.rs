//! Extended headers: records of the form `LENGTH KEY=VALUE\n`.

use std::collections::BTreeMap;

/// The records that one extended header carries; of equal keys the last one counts.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// Reads the records; `None` where they are malformed.
pub(super) fn records(mut bytes: &[u8]) -> Option<Records> {
    let mut records = Records::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ')?;
        let length = bytes.get(..blank)?;
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        let record = bytes.get(blank.checked_add(1)?..length)?;
        bytes = bytes.get(length..)?;
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (record.get(..equals)?, record.get(equals.checked_add(1)?..)?);
        if !is_valid(key, value) {
            return None;
        }
        records.insert(key.to_vec(), value.to_vec());
    }
    Some(records)
}

/// Names are texts; only they may not hold a NUL.
fn is_valid(key: &[u8], value: &[u8]) -> bool {
    if key.is_empty() {
        return false;
    }
    match key {
        b"path" | b"linkpath" | b"uname" | b"gname" => !value.contains(&0),
        _ => !key.contains(&0),
    }
}

/// The extended attributes among `records`.
pub(super) fn xattrs(records: &Records) -> Vec<(Vec<u8>, Vec<u8>)> {
    let attribute = |(key, value): (&Vec<u8>, &Vec<u8>)| {
        let name = key.strip_prefix(XATTR)?;
        Some((name.to_vec(), value.clone()))
    };
    records.iter().filter_map(attribute).collect()
}

/// Whether `records` describe a file with holes.
pub(super) fn is_sparse(records: &Records) -> bool {
    records.keys().any(|key| key.starts_with(SPARSE))
}

/// A whole number.
pub(super) fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Seconds and nanoseconds of a decimal number of seconds; digits beyond nanoseconds are dropped.
pub(super) fn time(value: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((
            seconds.checked_sub(1)?,
            1_000_000_000_i64.checked_sub(nanos)?,
        ));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_by_their_length() {
        let found = records(b"11 path=ab\n25 SCHILY.xattr.a=x\ny\0=z\n12 path=xyz\n");
        let found = found.unwrap();
        assert_eq!(found.get(&b"path"[..]).unwrap(), b"xyz");
        assert_eq!(xattrs(&found), [(b"a".to_vec(), b"x\ny\0=z".to_vec())]);
        for bad in [
            &b"12 path=ab\n"[..],
            b"10 path=ab\n",
            b"x path=ab\n",
            b" path=ab\n",
            b"8 =abcd\n",
            b"9 novalu\n",
            b"11 path=a\0\n",
        ] {
            assert_eq!(records(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_have_nanoseconds() {
        for (text, value) in [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567891", Some((12, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("1.x", None),
            ("", None),
        ] {
            assert_eq!(time(text.as_bytes()), value, "{text}");
        }
    }
}
