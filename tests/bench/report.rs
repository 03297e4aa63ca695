//! The table that people read, and the JSON that charts are made from.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::case::Outcome;
use crate::chart;
use crate::sample::{Series, ratio};

/// Halves of the peer's samples further apart than this make a row say nothing.
const NOISE: f64 = 0.25;

/// What the design asks of a row.
#[derive(Clone, Copy)]
pub(crate) enum Budget {
    /// The ratio to the peer.
    AtMost(f64),
    /// Our median, in the row's unit.
    Within(f64),
    /// No number of its own: faster than the peer is enough.
    None,
}

impl Budget {
    /// The limit and whether it is met.
    fn judge(self, ratio: f64, median: f64) -> Option<(String, bool)> {
        match self {
            Self::None => None,
            Self::AtMost(limit) => Some((format!("{limit}x"), ratio <= limit)),
            Self::Within(limit) => Some((format!("{limit}"), median <= limit)),
        }
    }
}

/// All rows so far.
pub(crate) struct Report {
    title: String,
    rows: Vec<Value>,
    lines: Vec<String>,
}

impl Report {
    pub(crate) fn new(ours: &str, peer: &str, runtime: &str) -> Self {
        let heading = format!(
            "{:<46} {:>9} {:>9} {:>9} {:>9} {:>4}  {:<22} budget",
            "", "ours p50", "p95", "peer p50", "p95", "n", "ratio (95 % interval)"
        );
        Self {
            title: format!("{ours} beside {peer}, both with {runtime}"),
            rows: Vec::new(),
            lines: vec![heading],
        }
    }

    /// Adds one thing measured on both.
    pub(crate) fn row(
        &mut self,
        name: &str,
        unit: &str,
        budget: Budget,
        ours: &Series,
        peer: &Series,
    ) {
        let (middle, low, high) = ratio(ours, peer);
        let noisy = peer.drift() > NOISE;
        let judged = budget.judge(middle, ours.quantile(0.5));
        let verdict = judged.as_ref().map_or_else(String::new, |(limit, met)| {
            format!("{limit} {}", if *met { "met" } else { "MISSED" })
        });
        self.lines.push(format!(
            "{name:<46} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:>4}  {:<22} {verdict}{}",
            ours.quantile(0.5),
            ours.quantile(0.95),
            peer.quantile(0.5),
            peer.quantile(0.95),
            ours.len(),
            format!("{middle:.2}x ({low:.2}-{high:.2})"),
            if noisy { "  (noisy)" } else { "" }
        ));
        self.rows.push(json!({
            "name": name, "unit": unit, "n": ours.len(), "noisy": noisy,
            "ours": {"p50": ours.quantile(0.5), "p95": ours.quantile(0.95)},
            "peer": {"p50": peer.quantile(0.5), "p95": peer.quantile(0.95)},
            "ratio": {"p50": middle, "low": low, "high": high},
            "budget": judged.as_ref().map(|(limit, _)| limit), "met": judged.as_ref().map(|(_, met)| met),
        }));
    }

    pub(crate) fn print(&self) -> Outcome {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{} (times in ms, memory in MiB)\n", self.title)?;
        for line in &self.lines {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    /// Writes `target/bench/latest.json` and `latest.svg`.
    pub(crate) fn save(&self) -> Outcome {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        fs::create_dir_all(&folder)?;
        let text = json!({"title": self.title, "rows": self.rows}).to_string();
        fs::write(folder.join("latest.json"), text)?;
        fs::write(
            folder.join("latest.svg"),
            chart::draw(&self.title, &self.rows),
        )?;
        writeln!(
            std::io::stdout(),
            "\nbench: {}",
            folder.join("latest.json").display()
        )?;
        Ok(())
    }
}
