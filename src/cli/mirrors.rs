//! `podwright image mirrors`: the registry hosts that pulls have asked lately, and how they fare.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::listing::{self, Listing};
use super::table;
use crate::model::clock::{Clock as _, SystemClock};
use crate::model::{Result, Timestamp};
use crate::wire::admin::{ListMirrorsRequest, ListMirrorsResponse, Mirror};

/// Prints the table.
pub(super) fn run(args: &listing::Args) -> Result<ExitCode> {
    let listing = Listing {
        what: "list the registry hosts",
        object: |reply: &ListMirrorsResponse| listing::objects(&reply.mirrors, object),
        shown: |reply| shown(&reply.mirrors, SystemClock.now()),
    };
    listing.print(args, async |mut admin| {
        admin.list_mirrors(ListMirrorsRequest::default()).await
    })
}

/// One line a host.
fn shown(mirrors: &[Mirror], now: Timestamp) -> String {
    if mirrors.is_empty() {
        return "no registry was asked yet\n".into();
    }
    let head = [
        "HOST",
        "STATE",
        "SINCE",
        "OK",
        "FAILED",
        "SKIPPED",
        "HEDGED",
        "LATENCY",
        "BYTES",
        "NEXT TRIAL",
        "LAST ERROR",
    ];
    let rows = mirrors.iter().map(|mirror| {
        [
            mirror.host.clone(),
            mirror.state.clone(),
            table::age(mirror.since, now),
            mirror.successes.to_string(),
            mirror.failures.to_string(),
            mirror.skips.to_string(),
            mirror.hedges.to_string(),
            latency(mirror).map_or_else(none, |latency| format!("{} ms", latency.as_millis())),
            mirror.bytes.to_string(),
            match mirror.next_trial {
                0 => none(),
                at => format!("in {}", table::span(Timestamp(at).since(now))),
            },
            match mirror.last_error_at {
                0 => none(),
                at => format!("{} ({} ago)", mirror.last_error, table::age(at, now)),
            },
        ]
    });
    table::render(head, rows)
}

fn none() -> String {
    "-".into()
}

fn latency(mirror: &Mirror) -> Option<Duration> {
    let nanos = u64::try_from(mirror.median_latency).ok()?;
    (nanos > 0).then(|| Duration::from_nanos(nanos))
}

fn object(mirror: &Mirror) -> Value {
    let has_failed = mirror.last_error_at != 0;
    json!({
        "host": mirror.host,
        "state": mirror.state,
        "since": table::time(mirror.since),
        "successes": mirror.successes,
        "failures": mirror.failures,
        "skips": mirror.skips,
        "hedges": mirror.hedges,
        "median_latency_ms": latency(mirror).map(|latency| latency.as_secs_f64() * 1e3),
        "bytes": mirror.bytes,
        "next_trial": table::time(mirror.next_trial),
        "last_error": has_failed.then_some(&mirror.last_error),
        "last_error_at": table::time(mirror.last_error_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> [Mirror; 2] {
        let dead = Mirror {
            host: "https://dead.tld".into(),
            state: "open".into(),
            since: 1_000_000_000,
            last_error: "cannot connect:\nforged".into(),
            last_error_at: 88_000_000_000,
            failures: 2,
            skips: 7,
            next_trial: 93_500_000_000,
            ..Mirror::default()
        };
        let alive = Mirror {
            host: "http://10.0.0.1:5000".into(),
            state: "closed".into(),
            since: 61_000_000_000,
            successes: 12,
            hedges: 1,
            median_latency: 3_500_000,
            bytes: 123_456,
            ..Mirror::default()
        };
        [dead, alive]
    }

    #[test]
    fn the_table_shows_each_host_on_a_line_of_its_own() {
        let text = shown(&mirrors(), Timestamp(91_000_000_000));

        assert_eq!(
            text,
            "HOST                  STATE   SINCE  OK  FAILED  SKIPPED  HEDGED  LATENCY  BYTES   NEXT TRIAL  LAST ERROR\n\
             https://dead.tld      open    1m30s  0   2       7        0       -        0       in 2.5s     cannot connect:\\nforged (3.0s ago)\n\
             http://10.0.0.1:5000  closed  30.0s  12  0       0        1       3 ms     123456  -           -\n"
        );
    }

    #[test]
    fn json_has_times_that_machines_read_and_null_where_there_was_none() {
        let [dead, alive] = mirrors();

        let dead = object(&dead);
        assert_eq!(dead["since"], "1970-01-01T00:00:01Z");
        assert_eq!(dead["last_error"], "cannot connect:\nforged");
        assert_eq!(dead["median_latency_ms"], Value::Null);
        let alive = object(&alive);
        assert_eq!(alive["median_latency_ms"], 3.5);
        assert_eq!(alive["last_error"], Value::Null);
        assert_eq!(alive["next_trial"], Value::Null);
    }
}
