//! How soon an exit can be seen and is heard of, and how soon a killed server answers again.

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
    series.push(since(finished)?);
    endpoint.stop_pod(&sandbox).await?;
    endpoint.remove_pod(&sandbox).await
}

/// Adds the row of events: from the moment that the shim reports to the event of the end at a client that follows them.
pub(crate) async fn events(
    plan: &Plan,
    ours: &Endpoint,
    peer: &Endpoint,
    report: &mut Report,
) -> Outcome {
    let (mut mine, mut theirs) = (Series::default(), Series::default());
    let (mut our_events, mut peer_events) = (follow(ours).await?, follow(peer).await?);
    for round in 0..plan.lifecycles {
        let name = format!("event-{round}");
        if round % 2 == 0 {
            event(ours, &name, &mut our_events, &mut mine).await?;
            event(peer, &name, &mut peer_events, &mut theirs).await?;
        } else {
            event(peer, &name, &mut peer_events, &mut theirs).await?;
            event(ours, &name, &mut our_events, &mut mine).await?;
        }
    }
    report.row("exit to event", "ms", Budget::Within(20.0), &mine, &theirs);
    Ok(())
}

type Events = tonic::Streaming<cri::ContainerEventResponse>;

async fn follow(endpoint: &Endpoint) -> Outcome<Events> {
    let mut runtime = endpoint.cri.runtime.clone();
    let events = runtime.get_container_events(cri::GetEventsRequest {});
    Ok(events.await?.into_inner())
}

async fn event(
    endpoint: &Endpoint,
    name: &str,
    events: &mut Events,
    series: &mut Series,
) -> Outcome {
    let config = pod(endpoint, name);
    let sandbox = endpoint.run_pod(&config).await?;
    let container = endpoint.create(&sandbox, &config, short_lived()).await?;
    endpoint.start(&container).await?;
    let finished = loop {
        let event = events.message().await?.ok_or("the events ended")?;
        let is_end = event.container_event_type() == cri::ContainerEventType::ContainerStoppedEvent
            && event.container_id == container;
        if is_end {
            let mut shown = event.containers_statuses.iter();
            let status = shown.find(|status| status.id == container);
            break status.ok_or("an end without a status")?.finished_at;
        }
    };
    series.push(since(finished)?);
    endpoint.stop_pod(&sandbox).await?;
    endpoint.remove_pod(&sandbox).await
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shim stamps with the same clock"
)]
fn since(finished: i64) -> Outcome<Duration> {
    let finished = UNIX_EPOCH + Duration::from_nanos(u64::try_from(finished)?);
    Ok(SystemTime::now().duration_since(finished)?)
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
