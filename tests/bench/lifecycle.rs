//! One pod from nothing to nothing, each call timed.

use std::time::Instant;

use crate::Plan;
use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::report::{Budget, Report};
use crate::requests::{container, first_line, pod};
use crate::sample::Series;

/// Runs that are thrown away: caches fill, the first address is given out.
const WARM_UP: usize = 2;

/// The calls of a lifecycle, in their order, with the budgets of the design.
const ROWS: [(&str, Budget); 8] = [
    ("RunPodSandbox", Budget::AtMost(0.9)),
    ("CreateContainer", Budget::None),
    ("StartContainer", Budget::None),
    ("pod to its first log line", Budget::None),
    ("ExecSync", Budget::AtMost(0.6)),
    ("StopPodSandbox", Budget::AtMost(0.75)),
    ("RemovePodSandbox", Budget::None),
    ("whole lifecycle", Budget::None),
];

type Times = [Series; ROWS.len()];

/// Adds the rows of the lifecycle.
pub(crate) async fn measure(
    plan: &Plan,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let (mut our_times, mut peer_times) = (Times::default(), Times::default());
    for round in 0..plan.lifecycles + WARM_UP {
        let (mut thrown, mut away) = (Times::default(), Times::default());
        let counts = round >= WARM_UP;
        let mine = if counts { &mut our_times } else { &mut thrown };
        let theirs = if counts { &mut peer_times } else { &mut away };
        let name = format!("life-{round}");
        if round % 2 == 0 {
            one(ours, &name, mine).await?;
            one(peer, &name, theirs).await?;
        } else {
            one(peer, &name, theirs).await?;
            one(ours, &name, mine).await?;
        }
    }
    for ((name, budget), (mine, theirs)) in ROWS.into_iter().zip(our_times.iter().zip(&peer_times))
    {
        report.row(name, "ms", budget, mine, theirs);
    }
    Ok(())
}

async fn one(endpoint: &Endpoint, name: &str, times: &mut Times) -> Outcome {
    let [run, create, start, line, exec, stop, remove, whole] = times;
    let config = pod(endpoint, name);
    let began = Instant::now();
    let sandbox = timed(run, endpoint.run_pod(&config)).await?;
    let container = timed(create, endpoint.create(&sandbox, &config, container())).await?;
    timed(start, endpoint.start(&container)).await?;
    first_line(&config).await?;
    line.push(began.elapsed());
    timed(exec, endpoint.exec_true(&container)).await?;
    timed(stop, endpoint.stop_pod(&sandbox)).await?;
    timed(remove, endpoint.remove_pod(&sandbox)).await?;
    whole.push(began.elapsed());
    Ok(())
}

async fn timed<T>(series: &mut Series, call: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let began = Instant::now();
    let answer = call.await?;
    series.push(began.elapsed());
    Ok(answer)
}
