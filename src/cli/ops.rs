//! `podwright ops`: what runs now, which step, since when, and what streams have carried.

use std::process::ExitCode;

use super::{Server, table};
use crate::model::clock::{Clock as _, SystemClock};
use crate::model::{Result, Timestamp};
use crate::wire::admin::{ListOperationsRequest, Operation};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
}

/// Prints the table.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let reply = args
        .server
        .ask("list the running operations", async |mut admin| {
            admin
                .list_operations(ListOperationsRequest::default())
                .await
        })?;
    let operations = reply.operations;
    super::print(&shown(&operations, SystemClock.now()))?;
    Ok(ExitCode::SUCCESS)
}

/// One line an operation, oldest first.
fn shown(operations: &[Operation], now: Timestamp) -> String {
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
        "IN",
        "OUT",
        "WAITS ON",
    ];
    let rows = operations.iter().map(|operation| {
        let traffic = operation.traffic.as_ref();
        let bytes = |count: Option<u64>| count.map_or_else(|| "-".into(), table::bytes);
        [
            operation.id.clone(),
            operation.kind.clone(),
            operation.object.clone(),
            table::age(operation.started_at, now),
            operation.step.clone(),
            table::age(operation.step_started_at, now),
            operation.waiters.to_string(),
            bytes(traffic.map(|traffic| traffic.received)),
            bytes(traffic.map(|traffic| traffic.sent)),
            operation.waits_on.clone(),
        ]
    });
    table::render(head, rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::admin::Traffic;

    #[test]
    fn the_table_shows_each_operation_on_a_line_of_its_own() {
        let operation = Operation {
            id: "3".into(),
            kind: "RunPodSandbox".into(),
            object: "default/web\nforged".into(),
            step: "cni add".into(),
            started_at: 1_000_000_000,
            step_started_at: 61_000_000_000,
            waits_on: "bridge".into(),
            waiters: 1,
            traffic: None,
        };
        let (received, sent) = (5, 3 << 20);
        let exec = Operation {
            id: "4".into(),
            kind: "Exec".into(),
            object: "web".into(),
            step: "open".into(),
            waits_on: String::new(),
            waiters: 0,
            traffic: Some(Traffic { received, sent }),
            ..operation.clone()
        };

        let text = shown(&[operation, exec], Timestamp(91_000_000_000));

        assert_eq!(
            text,
            "ID  OPERATION      OBJECT               AGE    STEP     STEP AGE  CALLERS  IN   OUT      WAITS ON\n\
             3   RunPodSandbox  default/web\\nforged  1m30s  cni add  30.0s     1        -    -        bridge\n\
             4   Exec           web                  1m30s  open     30.0s     0        5 B  3.0 MiB\n"
        );
    }
}
