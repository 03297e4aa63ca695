//! What was logged of all containers' output, and what was not.

use crate::logs::LogTotals;
use crate::telemetry::{Page, Series};

pub(super) fn write(page: &mut Page, totals: &LogTotals) {
    page.counter(
        "log_records",
        "Records that containers' output made, dropped ones included.",
        [Series::plain(totals.records)],
    );
    page.counter(
        "log_bytes",
        "Bytes of containers' output that were taken, dropped ones included.",
        [Series::plain(totals.bytes)],
    );
    page.counter(
        "log_records_dropped",
        "Records that are in no log: file where the log file did not take them, rate and size where they were beyond a quota.",
        [
            ("file", totals.dropped),
            ("rate", totals.over_rate),
            ("size", totals.over_size),
        ]
        .map(|(reason, count)| Series::of(&[("reason", reason)], count)),
    );
    page.counter(
        "log_holds",
        "Times that a container's output was left unread for a while because it was beyond a quota.",
        [Series::plain(totals.holds)],
    );
}
