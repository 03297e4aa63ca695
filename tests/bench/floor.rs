//! ExecSync beside its floor: the same process asked of the same containerd with nothing around it.

use std::time::Instant;

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

/// Adds the row: here `peer` is the floor, not the CRI plugin.
pub(crate) async fn measure(plan: &Plan, ours: &Endpoint, report: &mut Report) -> Outcome {
    let client = connect(&ChannelSettings {
        address: endpoint::OURS.into(),
        namespace: String::from("k8s.io"),
    })?;
    let (pod, container) = ours.whole_pod("floor").await?;
    let (mut mine, mut floor) = (Series::default(), Series::default());
    for round in 0..plan.lifecycles + WARM_UP {
        let began = Instant::now();
        ours.exec_true(&container).await?;
        let took = began.elapsed();
        let began = Instant::now();
        raw(&client, &container).await?;
        let bare = began.elapsed();
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

/// Exec, start, exit, delete, without any stream.
async fn raw(client: &Client, container: &str) -> Outcome {
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
    tasks.exec(&request).await?;
    tasks.start(container, Some(&exec)).await?;
    tasks.wait(container, Some(&exec)).await?;
    tasks.delete(container, Some(&exec)).await?;
    Ok(())
}
