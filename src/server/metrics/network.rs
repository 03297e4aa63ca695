//! The calls of CNI plugins.

use crate::network::PluginReport;
use crate::telemetry::{Page, Series};

pub(super) fn write(page: &mut Page, calls: &[PluginReport]) {
    page.histogram(
        "cni_duration_seconds",
        "Calls of CNI plugins by plugin and operation that have ended: how many, and how long they took.",
        calls.iter().map(|call| {
            let labels = [("plugin", call.plugin.as_str()), ("operation", call.operation)];
            Series::of(&labels, call.took.clone())
        }),
    );
    page.counter(
        "cni_errors",
        "Calls of CNI plugins that failed or took too long, by plugin and operation.",
        calls.iter().map(|call| {
            let labels = [
                ("plugin", call.plugin.as_str()),
                ("operation", call.operation),
            ];
            Series::of(&labels, call.errors)
        }),
    );
}
