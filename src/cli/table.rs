//! Tables for people: columns as wide as their cells, control characters spelled out.

use std::fmt::Write as _;
use std::time::Duration;

use crate::model::Timestamp;

/// `head` and a line a row.
pub(super) fn render<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows = rows.map(|row| row.map(|cell| cell.escape_debug().to_string()));
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let mut widths = [0_usize; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            if write!(line, "{cell:<width$}  ").is_err() {
                break;
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// How long ago `since` was.
pub(super) fn age(since: i64, now: Timestamp) -> String {
    span(now.since(Timestamp(since)))
}

/// A length of time, to a tenth of a second below a minute.
pub(super) fn span(span: Duration) -> String {
    if span < Duration::from_secs(60) {
        format!("{:.1}s", span.as_secs_f64())
    } else {
        let seconds = span.as_secs();
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

/// RFC 3339; `None` for a time that never was.
pub(super) fn time(nanos: i64) -> Option<String> {
    if nanos == 0 {
        return None;
    }
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanos)).ok()?;
    Some(time.to_string())
}

/// A number of bytes in the largest unit that leaves at least one.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = UNITS.iter().find(|(shift, _)| bytes >> shift > 0);
    let Some((shift, name)) = unit else {
        return format!("{bytes} B");
    };
    // Tenths of the unit, rounded down: what is not whole yet is never shown as whole.
    let tenths = (u128::from(bytes) * 10) >> shift;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_unit_and_never_rounded_up() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (3 << 29, "1.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes_, want) in cases {
            assert_eq!(bytes(bytes_), want);
        }
    }
}
