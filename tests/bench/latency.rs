//! How soon an exit can be seen, and how soon a killed server answers again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podwright::wire::cri;

use crate::Plan;
use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::report::{Budget, Report};
use crate::requests::{pod, short_lived};
use crate::sample::Series;

/// Restarts per endpoint.
const RESTARTS: usize = 5;

/// Adds the row of exits: from the moment that the shim reports to the first status that says EXITED.
pub(crate) async fn exits(
    plan: &Plan,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let (mut mine, mut theirs) = (Series::default(), Series::default());
    for round in 0..plan.lifecycles {
        let name = format!("exit-{round}");
        if round % 2 == 0 {
            exit(ours, &name, &mut mine).await?;
            exit(peer, &name, &mut theirs).await?;
        } else {
            exit(peer, &name, &mut theirs).await?;
            exit(ours, &name, &mut mine).await?;
        }
    }
    report.row("exit to status", "ms", Budget::Within(50.0), &mine, &theirs);
    Ok(())
}

async fn exit(endpoint: &Endpoint, name: &str, series: &mut Series) -> Outcome {
    let config = pod(endpoint, name);
    let sandbox = endpoint.run_pod(&config).await?;
    let container = endpoint.create(&sandbox, &config, short_lived()).await?;
    endpoint.start(&container).await?;
    let request = cri::ContainerStatusRequest {
        container_id: container,
        verbose: false,
    };
    let mut runtime = endpoint.cri.runtime.clone();
    let finished = loop {
        let reply = runtime.container_status(request.clone()).await?;
        let status = reply.into_inner().status.unwrap_or_default();
        if status.state() == cri::ContainerState::ContainerExited {
            break status.finished_at;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    };
    let finished = UNIX_EPOCH + Duration::from_nanos(u64::try_from(finished)?);
    #[expect(
        clippy::disallowed_methods,
        reason = "the shim stamps with the same clock"
    )]
    series.push(SystemTime::now().duration_since(finished)?);
    endpoint.stop_pod(&sandbox).await?;
    endpoint.remove_pod(&sandbox).await
}

/// Adds the row of restarts, with `size` pods running: from SIGKILL to both conditions true again. The peer's server
/// is its containerd.
pub(crate) async fn restarts(
    size: usize,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let (mut mine, mut theirs) = (Series::default(), Series::default());
    for _ in 0..RESTARTS {
        mine.push(ours.restart().await?);
        theirs.push(peer.restart().await?);
    }
    let name = format!("restart to ready at {size} pods");
    report.row(&name, "ms", Budget::Within(1_000.0), &mine, &theirs);
    Ok(())
}
