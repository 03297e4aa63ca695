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
