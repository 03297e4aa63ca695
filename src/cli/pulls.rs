//! `podwright image pulls`: what is being pulled, how far it is, and how the last pulls ended.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::listing::{self, Listing};
use super::{pull, table};
use crate::model::clock::{Clock as _, SystemClock};
use crate::model::{Result, Timestamp};
use crate::wire::admin::{ListPullsRequest, ListPullsResponse, Pull, PullLayer};

/// Prints the table.
pub(super) fn run(args: &listing::Args) -> Result<ExitCode> {
    let listing = Listing {
        what: "list the pulls",
        object: |reply: &ListPullsResponse| listing::objects(&reply.pulls, object),
        shown: |reply| shown(&reply.pulls, SystemClock.now()),
    };
    listing.print(args, async |mut admin| {
        admin.list_pulls(ListPullsRequest::default()).await
    })
}

/// A line a pull; below one that runs, a line for each layer that is on its way.
fn shown(pulls: &[Pull], now: Timestamp) -> String {
    if pulls.is_empty() {
        return "nothing was pulled yet\n".into();
    }
    let head = [
        "IMAGE", "STATE", "BEGAN", "TOOK", "FETCHED", "OF", "HOST", "RESULT",
    ];
    let rows = pulls.iter().flat_map(|pull| {
        let layers = pull.layers.iter().filter(|_| pull.ended_at == 0);
        let under_way = layers.filter(|layer| layer.state != "waiting" && layer.state != "done");
        std::iter::once(line(pull, now)).chain(under_way.map(move |layer| below(layer, now)))
    });
    table::render(head, rows)
}

fn line(pull: &Pull, now: Timestamp) -> [String; 8] {
    let end = match pull.ended_at {
        0 => now,
        at => Timestamp(at),
    };
    let (state, result) = match (pull.ended_at, pull.error.as_str()) {
        (0, _) => (pull.step.clone(), String::new()),
        (_, "") => ("done".into(), pull::short(&pull.image_id)),
        (_, error) => ("failed".into(), error.to_owned()),
    };
    let fetched: u64 = pull.layers.iter().map(|layer| layer.fetched).sum();
    let size: u64 = pull.layers.iter().map(|layer| layer.size).sum();
    [
        pull.reference.clone(),
        state,
        format!("{} ago", table::age(pull.started_at, now)),
        table::age(pull.started_at, end),
        table::bytes(fetched),
        table::bytes(size),
        pull.host.clone(),
        result,
    ]
}

fn below(layer: &PullLayer, now: Timestamp) -> [String; 8] {
    let silence = match layer.last_byte_at {
        0 => String::new(),
        at if layer.state == "fetching" => format!("last byte {} ago", table::age(at, now)),
        _ => String::new(),
    };
    [
        format!("  {}", pull::short(&layer.digest)),
        layer.state.clone(),
        String::new(),
        String::new(),
        table::bytes(layer.here),
        table::bytes(layer.size),
        layer.host.clone(),
        silence,
    ]
}

fn object(pull: &Pull) -> Value {
    let layers: Vec<Value> = pull
        .layers
        .iter()
        .map(|layer| {
            json!({
                "digest": layer.digest,
                "size": layer.size,
                "here": layer.here,
                "fetched": layer.fetched,
                "state": layer.state,
                "host": layer.host,
                "last_byte_at": table::time(layer.last_byte_at),
            })
        })
        .collect();
    json!({
        "id": pull.id,
        "reference": pull.reference,
        "snapshotter": pull.snapshotter,
        "step": pull.step,
        "started_at": table::time(pull.started_at),
        "step_started_at": table::time(pull.step_started_at),
        "host": pull.host,
        "layers": layers,
        "ended_at": table::time(pull.ended_at),
        "image_id": (!pull.image_id.is_empty()).then_some(&pull.image_id),
        "error": (!pull.error.is_empty()).then_some(&pull.error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulls() -> [Pull; 3] {
        let layer = |state: &str, here, host: &str, last_byte_at| PullLayer {
            digest: "sha256:0123456789abcdef".into(),
            size: 3 << 20,
            here,
            fetched: here,
            state: state.into(),
            host: host.into(),
            last_byte_at,
        };
        let running = Pull {
            reference: "a.b/c:v1".into(),
            step: "layers".into(),
            started_at: 61_000_000_000,
            host: "a.b".into(),
            layers: vec![
                layer("done", 3 << 20, "a.b", 62_000_000_000),
                layer("fetching", 1 << 20, "mirror:5000", 89_000_000_000),
                layer("waiting", 0, "", 0),
            ],
            ..Pull::default()
        };
        let done = Pull {
            reference: "a.b/d:v1".into(),
            started_at: 1_000_000_000,
            ended_at: 3_500_000_000,
            image_id: "sha256:fedcba98765432100".into(),
            host: "a.b".into(),
            ..Pull::default()
        };
        let failed = Pull {
            error: "RegistryUnavailable: pull\nforged".into(),
            image_id: String::new(),
            ..done.clone()
        };
        [running, done, failed]
    }

    #[test]
    fn the_table_shows_running_pulls_with_their_layers_and_ended_ones_with_their_result() {
        let text = shown(&pulls(), Timestamp(91_000_000_000));

        assert_eq!(
            text,
            "IMAGE           STATE     BEGAN      TOOK   FETCHED  OF       HOST         RESULT\n\
             a.b/c:v1        layers    30.0s ago  30.0s  4.0 MiB  9.0 MiB  a.b\n  \
             0123456789ab  fetching                    1.0 MiB  3.0 MiB  mirror:5000  last byte 2.0s ago\n\
             a.b/d:v1        done      1m30s ago  2.5s   0 B      0 B      a.b          fedcba987654\n\
             a.b/d:v1        failed    1m30s ago  2.5s   0 B      0 B      a.b          RegistryUnavailable: pull\\nforged\n"
        );
    }

    #[test]
    fn json_has_null_where_there_is_nothing() {
        let [running, done, failed] = pulls();

        let running = object(&running);
        assert_eq!(running["ended_at"], Value::Null);
        assert_eq!(running["error"], Value::Null);
        assert_eq!(running["layers"][2]["last_byte_at"], Value::Null);
        assert_eq!(object(&done)["ended_at"], "1970-01-01T00:00:03.5Z");
        assert_eq!(object(&failed)["image_id"], Value::Null);
    }
}
