//! Pods a second: a burst of pods with one container each, so many at a time.

use std::time::Instant;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::Plan;
use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::report::{Budget, Report};
use crate::sample::Series;

/// Bursts per endpoint.
const BURSTS: usize = 3;

/// Adds the row for this degree of parallelism: milliseconds a pod, so that less is better as everywhere else.
pub(crate) async fn measure(
    plan: &Plan,
    parallelism: usize,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let (mut mine, mut theirs) = (Series::default(), Series::default());
    for round in 0..BURSTS {
        let name = format!("burst-{parallelism}-{round}");
        if round % 2 == 0 {
            burst(plan, ours, &name, parallelism, &mut mine).await?;
            burst(plan, peer, &name, parallelism, &mut theirs).await?;
        } else {
            burst(plan, peer, &name, parallelism, &mut theirs).await?;
            burst(plan, ours, &name, parallelism, &mut mine).await?;
        }
    }
    let name = format!("a pod in a burst, {parallelism} at a time");
    report.row(&name, "ms", Budget::None, &mine, &theirs);
    Ok(())
}

async fn burst(
    plan: &Plan,
    endpoint: &Endpoint,
    name: &str,
    parallelism: usize,
    series: &mut Series,
) -> Outcome {
    let many = plan.burst.max(parallelism);
    let began = Instant::now();
    let pods: Vec<String> = stream::iter(0..many)
        .map(|number| async move {
            let (pod, _container) = endpoint.whole_pod(&format!("{name}-{number}")).await?;
            Outcome::Ok(pod)
        })
        .buffer_unordered(parallelism)
        .try_collect()
        .await?;
    series.push(began.elapsed() / u32::try_from(many)?);
    stream::iter(pods)
        .map(Ok)
        .try_for_each_concurrent(8, |pod| async move {
            endpoint.stop_pod(&pod).await?;
            endpoint.remove_pod(&pod).await
        })
        .await
}
