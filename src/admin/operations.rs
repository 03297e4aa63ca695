//! What runs, and what it waits on.

use crate::model::Pid;
use crate::ops::{OpInfo, PathJobInfo};
use crate::sys::process;
use crate::wire::admin::{Operation, Traffic};

/// Operations, oldest first, then the calls on paths of pods. Where one waits for a process, that is looked at.
pub(super) fn shown_blocking(rows: Vec<OpInfo>, jobs: Vec<PathJobInfo>) -> Vec<Operation> {
    let rows = rows.into_iter().map(operation_blocking);
    rows.chain(jobs.into_iter().map(job)).collect()
}

fn operation_blocking(row: OpInfo) -> Operation {
    let process = row.process.map(process_blocking);
    let waits_on: Vec<String> = row.waits_on.into_iter().chain(process).collect();
    Operation {
        id: row.id.to_string(),
        kind: row.kind.into(),
        object: row.object,
        step: row.step.into(),
        started_at: row.started_at.0,
        step_started_at: row.step_started_at.0,
        waits_on: waits_on.join(", "),
        waiters: row.waiters,
        traffic: row.carried.map(|carried| Traffic {
            received: carried.received,
            sent: carried.sent,
        }),
    }
}

/// A process, with its name and the kernel function that it sleeps in.
fn process_blocking(pid: Pid) -> String {
    let Some(command) = process::command_blocking(pid) else {
        return format!("process {pid}, which is gone");
    };
    match process::wait_channel_blocking(pid) {
        Some(channel) => format!("process {pid} ({command}) in {channel}"),
        None => format!("process {pid} ({command})"),
    }
}

fn job(job: PathJobInfo) -> Operation {
    Operation {
        id: "-".into(),
        kind: "path call".into(),
        object: job.pod,
        step: if job.abandoned { "abandoned" } else { "runs" }.into(),
        started_at: job.since.0,
        step_started_at: job.since.0,
        waits_on: job.what,
        waiters: u32::from(!job.abandoned),
        traffic: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Timestamp;
    use crate::model::clock::ManualClock;
    use crate::ops::LiveTable;

    #[test]
    fn a_stream_shows_what_it_has_carried_so_far() {
        let live = LiveTable::new(Arc::new(ManualClock::at(Timestamp(0))));
        let (_stop, exec) = (
            live.begin("StopContainer", "web"),
            live.begin("Exec", "web"),
        );
        let traffic = exec.carries();
        traffic.received(5);
        traffic.sent(7);
        traffic.sent(7);

        let shown = shown_blocking(live.snapshot(), Vec::new());

        let (received, sent) = (5, 14);
        assert_eq!(shown[0].traffic, None);
        assert_eq!(shown[1].traffic, Some(Traffic { received, sent }));
    }

    #[test]
    fn a_process_is_named_and_a_path_stands_beside_the_operations() {
        let own = Pid(std::process::id());
        assert!(process_blocking(own).starts_with(&format!("process {own} (")));
        assert!(process_blocking(Pid(u32::MAX >> 1)).ends_with("gone"));
        let hung = PathJobInfo {
            pod: "p".into(),
            what: "stat /mnt/dead".into(),
            since: Timestamp(3),
            abandoned: true,
        };

        let shown = shown_blocking(Vec::new(), vec![hung]);

        assert_eq!(shown[0].waits_on, "stat /mnt/dead");
        assert_eq!((shown[0].step.as_str(), shown[0].waiters), ("abandoned", 0));
    }
}
