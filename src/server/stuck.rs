//! Says once in the log that an operation is stuck; `podwright ops` and the metrics say it as long as it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Clock, Timestamp};
use crate::ops::{LiveTable, OpInfo};

/// How often to look.
const EVERY: Duration = Duration::from_secs(15);

/// Looks for as long as the server runs.
pub(super) async fn watch(live: LiveTable, clock: Arc<dyn Clock>) {
    let mut told = BTreeSet::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let now = clock.now();
        let stuck = live.snapshot();
        let stuck = stuck.iter().filter(|row| row.is_stuck(now));
        for row in fresh(&mut told, stuck) {
            tracing::warn!(
                operation = row.kind,
                object = %row.object,
                step = row.step,
                waits_on = row.waits_on.as_deref().unwrap_or("nothing that has a name"),
                step_s = now.since(row.step_started_at).as_secs(),
                "an operation is stuck; `podwright ops` shows it"
            );
        }
    }
}

/// Those that were not told of in this step, and remembers them; forgets whatever is stuck no more.
fn fresh<'a>(
    told: &mut BTreeSet<(u64, Timestamp)>,
    stuck: impl Iterator<Item = &'a OpInfo>,
) -> Vec<&'a OpInfo> {
    let before = std::mem::take(told);
    let key = |row: &OpInfo| (row.id, row.step_started_at);
    let stuck: Vec<&OpInfo> = stuck.collect();
    told.extend(stuck.iter().map(|row| key(row)));
    let is_fresh = |row: &&OpInfo| !before.contains(&key(row));
    stuck.into_iter().filter(is_fresh).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::ManualClock;

    #[test]
    fn each_stuck_step_is_told_once() {
        let live = LiveTable::new(Arc::new(ManualClock::at(Timestamp(0))));
        let operation = live.begin("RunPodSandbox", "web");
        let mut told = BTreeSet::new();
        let mut count = |rows: &[OpInfo]| fresh(&mut told, rows.iter()).len();

        let rows = live.snapshot();
        assert_eq!((count(&rows), count(&rows)), (1, 0));
        let mut later = rows.clone();
        later[0].step_started_at = Timestamp(9);
        assert_eq!((count(&later), count(&[])), (1, 0));
        assert_eq!(count(&later), 1);
        drop(operation);
    }
}
