//! Mirrors that are dead, or take connections and say nothing, in front of a real registry.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tonic::Code;

use super::images::{pull, remove};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::images::BUSYBOX;
use crate::node::{Node, patient, registry};
use crate::pods::fails;

pub(super) const CASES: &[Case] = &[Case::new(
    "mirror.dead_and_slow_ones_are_stepped_around_and_taken_back",
    |node| Box::pin(stepped_around(node)),
)
.needs(&["docker-registry"])];

const DEAD: &str = "127.0.0.1:5009";
const SLOW: &str = "127.0.0.1:5008";
const REAL: &str = "http://127.0.0.1:5000";

async fn stepped_around(node: &Node) -> Outcome {
    let registry = registry::start(node, "busybox", "library/busybox", "1").await?;
    registry::mirrors(
        "mirrored.example",
        &[&format!("http://{DEAD}"), &format!("http://{SLOW}")],
    )?;
    let slow = TcpListener::bind(SLOW).await?;
    node.configure("hedge_after = \"500ms\"").await?;
    remove(node, BUSYBOX).await?;
    let none = node.cli(&["image", "mirrors"]).await?;
    ensure(none == "no registry was asked yet\n", || none.clone())?;

    let began = Instant::now();
    let name = "mirrored.example/library/busybox:1";
    pull(node, name).await?;
    let took = began.elapsed();
    let absent = pull(node, "mirrored.example/library/absent:1").await;

    ensure(took < patient(Duration::from_secs(20)), || {
        format!("{took:?}")
    })?;
    let said = fails("pull of what is not there", absent, Code::NotFound)?;
    let without = format!("without http://{DEAD} (out of order for ");
    ensure(said.contains(&without), || said)?;
    let count = |row: &Value, key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(0);
    let dead = row(node, &format!("http://{DEAD}")).await?;
    ensure(
        state(&dead) != "closed" && count(&dead, "skips") >= 3 && count(&dead, "successes") == 0,
        || format!("{dead}"),
    )?;
    let waited_for = row(node, &format!("http://{SLOW}")).await?;
    ensure(
        state(&waited_for) != "closed" && count(&waited_for, "hedges") >= 3,
        || format!("{waited_for}"),
    )?;
    let real = row(node, REAL).await?;
    ensure(
        state(&real) == "closed" && count(&real, "failures") == 0 && count(&real, "bytes") > 1_000,
        || format!("{real}"),
    )?;

    until_taken_back(node).await?;
    drop(slow);
    remove(node, name).await?;
    registry.stop().await?;
    node.import("busybox").await
}

async fn row(node: &Node, host: &str) -> Outcome<Value> {
    let text = node.cli(&["image", "mirrors", "--json"]).await?;
    let rows: Vec<Value> = serde_json::from_str(&text)?;
    let found = rows
        .iter()
        .find(|row| row.get("host").and_then(Value::as_str) == Some(host));
    Ok(found
        .cloned()
        .ok_or_else(|| format!("no {host} in {text}"))?)
}

fn state(row: &Value) -> &str {
    row.get("state").and_then(Value::as_str).unwrap_or_default()
}

/// Lets something answer where the dead mirror was, and waits until that has been noticed without any pull.
async fn until_taken_back(node: &Node) -> Outcome {
    let listener = TcpListener::bind(DEAD).await?;
    let answering = async {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 1024];
            if stream.read(&mut request).await? > 0 {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await?;
            }
        }
    };
    let noticed = async {
        loop {
            let row = row(node, &format!("http://{DEAD}")).await?;
            if state(&row) == "closed" {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        ended = answering => ended,
        ended = noticed => ended,
        () = tokio::time::sleep(patient(Duration::from_secs(40))) => {
            Err("the mirror that came back was not noticed".into())
        }
    }
}
