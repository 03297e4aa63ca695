//! The status table: what people see of a pod, redrawn on a terminal, a line a change elsewhere.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use crate::model::{Classify as _, Kind, Result, Timestamp};

/// Longer reasons are cut: the whole story stands in the container's status.
const REASON_MAX: usize = 300;

/// One container's line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    /// Kubernetes' word: `Running`, `Completed`, `CrashLoopBackOff`.
    pub(super) state: String,
    pub(super) restarts: u32,
    /// Since when it is in this state, where that is known.
    pub(super) since: Option<Timestamp>,
    pub(super) reason: String,
}

/// One pod's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodLines {
    pub(super) title: String,
    /// `Running`, `Init:1/2`, `Completed`.
    pub(super) state: String,
    pub(super) address: String,
    pub(super) reason: String,
    pub(super) containers: Vec<Line>,
}

/// How the table is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Redrawn in place: standard output is a terminal.
    Redraw,
    /// A line for each change.
    Lines,
}

/// The place that all pods of one call write to.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    show: Show,
    pods: Vec<PodLines>,
    /// The lines of the table that stand on the terminal, and their text.
    drawn: usize,
    shown: String,
}

impl Screen {
    /// A screen for `pods` pods.
    pub(super) fn new(out: Box<dyn Write + Send>, show: Show, pods: usize) -> Self {
        Self {
            out,
            show,
            pods: vec![PodLines::default(); pods],
            drawn: 0,
            shown: String::new(),
        }
    }

    /// Shows a line above the table.
    ///
    /// # Errors
    /// `Internal` where the output is gone.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        let up = self.rewind();
        self.drawn = 0;
        self.write(&format!("{up}{}\n", visible(text)))
    }

    /// Shows what became of the pod at `index`.
    ///
    /// # Errors
    /// `Internal` where the output is gone.
    pub(super) fn update(&mut self, index: usize, lines: PodLines, now: Timestamp) -> Result<()> {
        let Some(slot) = self.pods.get_mut(index) else {
            return Ok(());
        };
        let before = std::mem::replace(slot, lines);
        match self.show {
            Show::Lines => {
                let text = changes(&before, slot);
                if text.is_empty() {
                    return Ok(());
                }
                self.write(&text)
            }
            Show::Redraw => {
                let text = table(&self.pods, now);
                if self.drawn > 0 && self.shown == text {
                    return Ok(());
                }
                self.shown.clone_from(&text);
                let up = self.rewind();
                self.drawn = text.lines().count();
                // Without wrapping, a line of the table is a line of the terminal.
                self.write(&format!("{up}\u{1b}[?7l{text}\u{1b}[?7h"))
            }
        }
    }

    fn rewind(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\u{1b}[J"),
        }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let written = self.out.write_all(text.as_bytes());
        match written.and_then(|()| self.out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            outcome => outcome.classify(Kind::Internal, || "write to standard output".into()),
        }
    }
}

/// What changed, a line each.
fn changes(before: &PodLines, after: &PodLines) -> String {
    let mut out = String::new();
    let pod = |lines: &PodLines| {
        let address = match lines.address.as_str() {
            "" => String::new(),
            address => format!("  {address}"),
        };
        let all = format!("{}{address}  {}", lines.state, visible(&lines.reason));
        all.trim_end().to_owned()
    };
    if pod(before) != pod(after) {
        out.push_str(&format!("{}: {}\n", after.title, pod(after)));
    }
    for line in &after.containers {
        let old = before.containers.iter().find(|old| old.name == line.name);
        let same = |old: &Line| {
            (&old.state, old.restarts, &old.reason) == (&line.state, line.restarts, &line.reason)
        };
        if old.is_some_and(same) {
            continue;
        }
        let restarts = match line.restarts {
            0 => String::new(),
            count => format!("  restarts {count}"),
        };
        let all = format!(
            "{}: {}: {}{restarts}  {}",
            after.title,
            line.name,
            line.state,
            visible(&line.reason)
        );
        out.push_str(all.trim_end());
        out.push('\n');
    }
    out
}

/// The table of all pods.
pub(super) fn table(pods: &[PodLines], now: Timestamp) -> String {
    let mut rows = vec![["NAME", "STATE", "RESTARTS", "AGE", "REASON"].map(str::to_owned)];
    for pod in pods.iter().filter(|pod| !pod.title.is_empty()) {
        let note = [&pod.address, &pod.reason];
        let note: Vec<String> = note
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| visible(text))
            .collect();
        rows.push([
            pod.title.clone(),
            pod.state.clone(),
            String::new(),
            String::new(),
            note.join("  "),
        ]);
        for line in &pod.containers {
            rows.push([
                format!("  {}", line.name),
                line.state.clone(),
                line.restarts.to_string(),
                line.since
                    .map_or_else(String::new, |since| age(now.since(since))),
                visible(&line.reason),
            ]);
        }
    }
    let mut widths = [0_usize; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let mut text = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Writing to a String cannot fail.
            if write!(text, "{cell:<width$}  ").is_err() {
                break;
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// On one line, control characters spelled out, cut where it is too long.
fn visible(text: &str) -> String {
    let line: String = text.trim().escape_debug().collect();
    // Quotes need no escape in a table.
    let line = line.replace("\\\"", "\"").replace("\\'", "'");
    match line.char_indices().nth(REASON_MAX) {
        None => line,
        Some((cut, _)) => format!("{}...", line.get(..cut).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(state: &str, restarts: u32) -> PodLines {
        PodLines {
            title: "default/web".into(),
            state: "Running".into(),
            address: "10.0.0.2".into(),
            containers: vec![Line {
                name: "nginx".into(),
                state: state.into(),
                restarts,
                since: Some(Timestamp(0)),
                reason: "exit code 1\nforged \"x\"".into(),
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_table_has_a_line_for_each_pod_and_container() {
        let text = table(&[pod("CrashLoopBackOff", 2)], Timestamp(125_000_000_000));

        assert_eq!(
            text,
            "NAME         STATE             RESTARTS  AGE    REASON\n\
             default/web  Running                            10.0.0.2\n  \
             nginx      CrashLoopBackOff  2         2m05s  exit code 1\\nforged \"x\"\n"
        );
    }

    #[test]
    fn without_a_terminal_only_changes_are_told() {
        let first = changes(&PodLines::default(), &pod("Running", 0));
        let second = changes(&pod("Running", 0), &pod("Running", 1));

        assert_eq!(
            first,
            "default/web: Running  10.0.0.2\ndefault/web: nginx: Running  exit code 1\\nforged \"x\"\n"
        );
        assert_eq!(
            second,
            "default/web: nginx: Running  restarts 1  exit code 1\\nforged \"x\"\n"
        );
        assert_eq!(changes(&pod("Running", 1), &pod("Running", 1)), "");
    }
}
