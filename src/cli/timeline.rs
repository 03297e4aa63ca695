//! `podwright timeline`: where the time of a pod's start went, as bars or as a picture.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Server, table};
use crate::model::clock::{Clock as _, SystemClock};
use crate::model::{Classify as _, Kind, Result, Timestamp};
use crate::wire::admin::{ShowTimelineRequest, ShowTimelineResponse};

/// Characters of the longest bar.
const BAR: u64 = 50;
/// Sizes of the picture.
const LABELS: u64 = 320;
const CHART: u64 = 800;
const LINE: u64 = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pod: its sandbox's id or the beginning of it, namespace/name, or a name.
    pod: String,
    /// Write a picture (SVG) instead.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// Prints bars, or writes the picture.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let what = format!("show the start of {}", args.pod.escape_debug());
    let request = ShowTimelineRequest {
        pod: args.pod.clone(),
    };
    let reply = args
        .server
        .ask(&what, async |mut admin| admin.show_timeline(request).await)?;
    let chart = Chart::of(&reply, SystemClock.now());
    match &args.svg {
        None => super::print(&chart.bars())?,
        Some(file) => std::fs::write(file, chart.picture())
            .classify(Kind::Internal, || format!("write {}", file.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One operation or step. Times are in microseconds since the start's beginning.
struct Line {
    label: String,
    is_step: bool,
    at: u64,
    took: u64,
    is_open: bool,
}

struct Chart {
    title: String,
    total: u64,
    lines: Vec<Line>,
}

impl Chart {
    fn of(reply: &ShowTimelineResponse, now: Timestamp) -> Self {
        let first = reply.passages.iter().map(|passage| passage.began).min();
        let first = Timestamp(first.unwrap_or_default());
        let micros = |nanos: u128| u64::try_from(nanos / 1_000).unwrap_or(u64::MAX);
        let line = |label: String, is_step, began: i64, ended: i64| {
            let is_open = ended == 0;
            let end = if is_open { now } else { Timestamp(ended) };
            Line {
                label,
                is_step,
                at: micros(Timestamp(began).since(first).as_nanos()),
                took: micros(end.since(Timestamp(began)).as_nanos()),
                is_open,
            }
        };
        let mut lines = Vec::new();
        for passage in &reply.passages {
            let label = format!("{} {}", passage.kind, passage.object);
            lines.push(line(label, false, passage.began, passage.ended));
            let steps = passage.steps.iter();
            lines.extend(steps.map(|step| line(step.name.clone(), true, step.began, step.ended)));
        }
        let ends = lines.iter().map(|line| line.at.saturating_add(line.took));
        let name = match reply.name.as_str() {
            "" => "a pod that is gone",
            name => name,
        };
        Self {
            title: format!(
                "{}, sandbox {}",
                name,
                reply.sandbox_id.get(..13).unwrap_or(&reply.sandbox_id)
            ),
            total: ends.max().unwrap_or_default().max(1),
            lines,
        }
    }

    /// A line of text each, with its bar.
    fn bars(&self) -> String {
        let head = ["AT", "TOOK", "WHAT", ""];
        let rows = self.lines.iter().map(|line| {
            let scaled = |micros: u64| scale(micros, self.total, BAR);
            let from = scaled(line.at);
            let upto = scaled(line.at.saturating_add(line.took));
            let length = usize::try_from(upto.saturating_sub(from).max(1)).unwrap_or(1);
            let indent = " ".repeat(usize::try_from(from).unwrap_or(0));
            let mark = if line.is_step { "\u{2500}" } else { "\u{2588}" };
            let goes_on = if line.is_open { " ..." } else { "" };
            [
                milliseconds(line.at),
                milliseconds(line.took),
                format!(
                    "{}{}",
                    if line.is_step { "  " } else { "" },
                    shortened(&line.label)
                ),
                format!("{indent}{}{goes_on}", mark.repeat(length)),
            ]
        });
        format!(
            "{}: {}\n{}",
            self.title.escape_debug(),
            milliseconds(self.total),
            table::render(head, rows)
        )
    }

    /// The same as SVG.
    fn picture(&self) -> String {
        let count = u64::try_from(self.lines.len()).unwrap_or(0);
        let (width, height) = (LABELS + CHART + 120, (count + 2) * LINE);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"4\" y=\"15\" font-weight=\"bold\">{}: {}</text>\n",
            escaped(&self.title),
            milliseconds(self.total)
        );
        for (nth, line) in (1_u64..).zip(&self.lines) {
            let scaled = |micros: u64| scale(micros, self.total, CHART);
            let from = scaled(line.at);
            let upto = scaled(line.at.saturating_add(line.took));
            let (x, length) = (LABELS + from, upto.saturating_sub(from).max(1));
            let top = nth * LINE + 4;
            let (indent, color) = match (line.is_step, line.is_open) {
                (_, true) => (4, "#c0392b"),
                (true, false) => (16, "#7fb3d5"),
                (false, false) => (4, "#1f618d"),
            };
            let written = writeln!(
                out,
                "<text x=\"{indent}\" y=\"{base}\">{label}</text>\
                 <rect x=\"{x}\" y=\"{top}\" width=\"{length}\" height=\"14\" fill=\"{color}\"/>\
                 <text x=\"{after}\" y=\"{base}\">{took}</text>",
                base = top + 11,
                label = escaped(&shortened(&line.label)),
                after = x + length + 4,
                took = milliseconds(line.took),
            );
            // Writing to a String cannot fail.
            if written.is_err() {
                break;
            }
        }
        out.push_str("</svg>\n");
        out
    }
}

/// `micros` of `total` on a scale of `length`.
fn scale(micros: u64, total: u64, length: u64) -> u64 {
    let scaled = u128::from(micros) * u128::from(length) / u128::from(total.max(1));
    u64::try_from(scaled).unwrap_or(length).min(length)
}

fn milliseconds(micros: u64) -> String {
    format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100)
}

/// As much of a label as fits beside the bars.
fn shortened(label: &str) -> String {
    const FITS: usize = 44;
    match label.char_indices().nth(FITS) {
        None => label.to_owned(),
        Some((end, _)) => format!("{}...", label.get(..end).unwrap_or_default()),
    }
}

fn escaped(text: &str) -> String {
    let text = text.escape_debug().to_string();
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::admin::{Passage, PassageStep};

    fn reply() -> ShowTimelineResponse {
        let millis = |at: i64| at * 1_000_000;
        ShowTimelineResponse {
            sandbox_id: "0123456789abcdef".into(),
            name: "default/<web>".into(),
            passages: vec![
                Passage {
                    kind: "RunPodSandbox".into(),
                    object: "web".into(),
                    began: millis(1_000),
                    ended: millis(1_060),
                    steps: vec![PassageStep {
                        name: "network".into(),
                        began: millis(1_010),
                        ended: millis(1_050),
                    }],
                },
                Passage {
                    kind: "PullImage".into(),
                    object: "nginx\n".into(),
                    began: millis(1_070),
                    ended: 0,
                    steps: Vec::new(),
                },
            ],
        }
    }

    #[test]
    fn bars_stand_where_their_time_was() {
        let bars = Chart::of(&reply(), Timestamp(1_100_000_000)).bars();

        insta::assert_snapshot!(bars);
    }

    #[test]
    fn a_picture_is_wellformed_whatever_names_say() {
        let picture = Chart::of(&reply(), Timestamp(1_100_000_000)).picture();

        assert_eq!(picture.matches("<rect").count(), 4);
        assert!(picture.contains("default/&lt;web&gt;"));
        assert!(picture.contains("nginx\\n"));
        assert!(!picture.contains("<web>"));
    }
}
