//! ExecSync beside its floor: the same process asked of the same containerd with nothing around it.

use std::time::{Duration, Instant};

use podwright::containerd::grpc::{ChannelSettings, Client, connect};
use podwright::containerd::{ExecRequest, Payload, Stdio};
use podwright::model::ExecId;
use serde_json::json;

use crate::Plan;
use crate::case::Outcome;
use crate::endpoint::{self, Endpoint};
use crate::report::{Budget, Report};
use crate::sample::Series;

/// Pairs that are thrown away.
const WARM_UP: usize = 3;
/// Pairs for each lifecycle of the plan: an exec is short, and its time spreads widely.
const PAIRS: usize = 3;
/// After each exec: its deletion is over, and falls into nobody's time.
const SETTLE: Duration = Duration::from_millis(60);

/// Adds the row: here `peer` is the floor, not the CRI plugin.
pub(crate) async fn measure(plan: &Plan, ours: &Endpoint, report: &mut Report) -> Outcome {
    let client = connect(&ChannelSettings {
        address: endpoint::OURS.into(),
        namespace: String::from("k8s.io"),
    })?;
    let (pod, container) = ours.whole_pod("floor").await?;
    let (mut mine, mut floor) = (Series::default(), Series::default());
    for round in 0..plan.lifecycles * PAIRS + WARM_UP {
        let (took, bare);
        if round % 2 == 0 {
            took = asked(ours, &container).await?;
            bare = raw(&client, &container).await?;
        } else {
            bare = raw(&client, &container).await?;
            took = asked(ours, &container).await?;
        }
        if round >= WARM_UP {
            mine.push(took);
            floor.push(bare);
        }
    }
    report.row(
        "ExecSync beside its raw calls",
        "ms",
        Budget::AtMost(1.15),
        &mine,
        &floor,
    );
    ours.stop_pod(&pod).await?;
    ours.remove_pod(&pod).await
}

async fn asked(ours: &Endpoint, container: &str) -> Outcome<Duration> {
    let began = Instant::now();
    ours.exec_true(container).await?;
    let took = began.elapsed();
    tokio::time::sleep(SETTLE).await;
    Ok(took)
}

/// Exec, start and exit, without any stream. The deletion is not timed, since podwright answers before it.
async fn raw(client: &Client, container: &str) -> Outcome<Duration> {
    let process = json!({
        "args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin:/usr/bin"],
    });
    let exec = ExecId::generate()?;
    let request = ExecRequest {
        id: container.to_owned(),
        exec: exec.clone(),
        stdio: Stdio::default(),
        process: Payload::new(Payload::PROCESS, process.to_string()),
    };
    let tasks = &client.containerd.tasks;
    let began = Instant::now();
    tasks.exec(&request).await?;
    tasks.start(container, Some(&exec)).await?;
    tasks.wait(container, Some(&exec)).await?;
    let took = began.elapsed();
    tasks.delete(container, Some(&exec)).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(took)
}
