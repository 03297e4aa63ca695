//! What podwright itself uses.

use std::time::Duration;

use crate::model::Result;
use crate::sys::open_files;
use crate::sys::own_usage::OwnUsage;
use crate::telemetry::{Page, Series};

/// Leaves out what the kernel does not tell.
pub(super) fn write_blocking(page: &mut Page, uptime: Duration) {
    page.gauge(
        "process_uptime_seconds",
        "How long podwright has run.",
        [Series::plain(uptime)],
    );
    if let Some(usage) = told(OwnUsage::read_blocking()) {
        page.counter(
            "process_cpu_seconds",
            "Processor time that podwright used.",
            [Series::plain(usage.cpu)],
        );
        page.gauge(
            "process_resident_bytes",
            "Memory of podwright that is resident.",
            [Series::plain(usage.resident)],
        );
        page.gauge(
            "process_threads",
            "Threads of podwright.",
            [Series::plain(usage.threads)],
        );
    }
    let counts = open_files::own_blocking().and_then(|open| Ok((open, open_files::own_limit()?)));
    if let Some((open, limit)) = told(counts) {
        page.gauge(
            "process_descriptors",
            "File descriptors that podwright has open.",
            [Series::plain(open)],
        );
        page.gauge(
            "process_descriptors_limit",
            "File descriptors that it may have open.",
            [Series::plain(limit)],
        );
    }
}

fn told<T>(read: Result<T>) -> Option<T> {
    read.inspect_err(|error| tracing::debug!(%error, "metrics of the process"))
        .ok()
}
