//! The ratios as a picture: a bar a row, with its interval, and a line where both are equal.

use std::fmt::Write as _;

use serde_json::Value;

const ROW: usize = 22;
const TOP: usize = 56;
const LEFT: f64 = 340.0;
/// Pixels of a ratio of one.
const ONE: f64 = 260.0;
/// Longer bars are cut off here.
const MOST: f64 = 2.0;

/// An SVG image of `rows` as the report has them.
pub(crate) fn draw(title: &str, rows: &[Value]) -> String {
    let height = TOP + rows.len() * ROW + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"960\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\">{}</text>\n\
         <text x=\"16\" y=\"42\" fill=\"#555\">ratio of the medians, with its 95 % interval: shorter is better for podwright</text>\n",
        escaped(title)
    );
    for (number, row) in rows.iter().enumerate() {
        // Writing to a string cannot fail.
        bar(&mut svg, TOP + number * ROW, row).unwrap_or_default();
    }
    let equal = LEFT + ONE;
    write!(
        svg,
        "<line x1=\"{equal}\" y1=\"{}\" x2=\"{equal}\" y2=\"{}\" stroke=\"#333\"/>\n</svg>\n",
        TOP - 4,
        height - 8
    )
    .unwrap_or_default();
    svg
}

fn bar(svg: &mut String, y: usize, row: &Value) -> std::fmt::Result {
    let number = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
    let missed = row.get("met").and_then(Value::as_bool) == Some(false);
    let (ratio, low, high) = (
        number("/ratio/p50"),
        number("/ratio/low"),
        number("/ratio/high"),
    );
    let color = match (missed, ratio <= 1.0) {
        (true, _) => "#c0392b",
        (false, true) => "#2e8b57",
        (false, false) => "#d68910",
    };
    let at = |ratio: f64| LEFT + ratio.clamp(0.0, MOST) * ONE;
    let middle = y + 8;
    writeln!(
        svg,
        "<text x=\"16\" y=\"{}\">{}</text>\n\
         <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"15\" fill=\"{color}\"/>\n\
         <line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"#000\"/>\n\
         <text x=\"{:.1}\" y=\"{}\">{ratio:.2}x</text>",
        y + 12,
        escaped(name),
        at(ratio) - LEFT,
        at(low),
        at(high),
        at(high).max(at(ratio)) + 8.0,
        y + 12,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
