//! Memory of the servers: all daemons of an endpoint together, since the peer's server and its containerd are one.

use std::fs;

use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::report::{Budget, Report};
use crate::sample::Series;

/// Adds the rows of proportional and resident memory with `size` pods running.
pub(crate) fn rows(size: usize, ours: &Endpoint, peer: &Endpoint, report: &mut Report) -> Outcome {
    for (name, key) in [("PSS", "Pss:"), ("RSS", "Rss:")] {
        let mine = total(&ours.pids(), key)?;
        let theirs = total(&peer.pids(), key)?;
        let name = format!("{name} of the daemons at {size} pods");
        report.row(&name, "MiB", Budget::None, &mine, &theirs);
    }
    let first: Vec<u32> = ours.pids().into_iter().take(1).collect();
    let name = format!("PSS of the CRI server's process at {size} pods");
    let alone = total(&first, "Pss:")?;
    report.row(
        &name,
        "MiB",
        Budget::None,
        &alone,
        &total(&peer.pids(), "Pss:")?,
    );
    Ok(())
}

/// The sum of one line of `smaps_rollup` (proc(5)) over processes, in MiB.
fn total(pids: &[u32], key: &str) -> Outcome<Series> {
    let mut kib = 0_u32;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| format!("smaps_rollup of {pid} has no {key}"))?;
        kib = kib.saturating_add(value.parse::<u32>()?);
    }
    let mut series = Series::default();
    series.push_value(f64::from(kib) / 1024.0);
    Ok(series)
}
