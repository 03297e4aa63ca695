//! `podwright ops`: what runs now, which step, since when.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use super::Server;
use crate::model::clock::{Clock as _, SystemClock};
use crate::model::{Classify as _, Kind, Result, Timestamp};
use crate::wire::admin::{ListOperationsRequest, Operation};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
}

/// Prints the table.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let operations = super::runtime()?.block_on(async {
        let mut admin = args.server.admin().await?;
        admin
            .list_operations(ListOperationsRequest::default())
            .await
            .map(|reply| reply.into_inner().operations)
            .classify(Kind::Unavailable, || "list the running operations".into())
    })?;
    super::print(&table(&operations, SystemClock.now()))?;
    Ok(ExitCode::SUCCESS)
}

/// One line an operation, oldest first; control characters spelled out.
fn table(operations: &[Operation], now: Timestamp) -> String {
    if operations.is_empty() {
        return "nothing runs\n".into();
    }
    let head = [
        "ID",
        "OPERATION",
        "OBJECT",
        "AGE",
        "STEP",
        "STEP AGE",
        "CALLERS",
        "WAITS ON",
    ]
    .map(str::to_owned);
    let rows = operations.iter().map(|operation| {
        [
            operation.id.clone(),
            operation.kind.clone(),
            operation.object.clone(),
            age(operation.started_at, now),
            operation.step.clone(),
            age(operation.step_started_at, now),
            operation.waiters.to_string(),
            operation.waits_on.clone(),
        ]
        .map(|cell| cell.escape_debug().to_string())
    });
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(rows).collect();
    let mut widths = [0_usize; 8];
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

fn age(since: i64, now: Timestamp) -> String {
    let age = now.since(Timestamp(since));
    if age < Duration::from_secs(60) {
        format!("{:.1}s", age.as_secs_f64())
    } else {
        let seconds = age.as_secs();
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_each_operation_on_a_line_of_its_own() {
        let operations = [Operation {
            id: "3".into(),
            kind: "RunPodSandbox".into(),
            object: "default/web\nforged".into(),
            step: "cni add".into(),
            started_at: 1_000_000_000,
            step_started_at: 61_000_000_000,
            waits_on: "bridge".into(),
            waiters: 1,
        }];

        let text = table(&operations, Timestamp(91_000_000_000));

        assert_eq!(
            text,
            "ID  OPERATION      OBJECT               AGE    STEP     STEP AGE  CALLERS  WAITS ON\n\
             3   RunPodSandbox  default/web\\nforged  1m30s  cni add  30.0s     1        bridge\n"
        );
    }
}
