//! GetContainerEvents: what a client hears of pods, in which order, and what becomes of one that does not listen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use podwright::wire::cri;
use podwright::wire::cri::ContainerEventType as Type;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, layout, patient};
use crate::pods::{fails, pod, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("events.a_life_is_told_in_order_with_its_state", |node| {
        Box::pin(life(node))
    }),
    Case::new(
        "events.a_thousand_short_lives_and_two_returns_of_containerd",
        |node| Box::pin(thousand(node)),
    )
    .within(300),
    Case::new(
        "events.who_leaves_makes_room_and_a_stop_ends_them_all",
        |node| Box::pin(room(node)),
    ),
];

/// So many clients may follow the events.
const CLIENTS: usize = 32;
/// Containers of the crowd, and how long they may take altogether: those that are not done by then never live. All of them
/// do with `PODWRIGHT_IT_PATIENCE=5`.
const CROWD: usize = 1_000;
const CROWD_TIME: Duration = Duration::from_secs(60);
/// So many of them live at a time.
const ABREAST: usize = 6;

type Event = cri::ContainerEventResponse;

async fn follow(node: &Node) -> Result<Streaming<Event>, Status> {
    let mut runtime = node.cri.runtime.clone();
    let events = runtime.get_container_events(cri::GetEventsRequest {});
    Ok(events.await?.into_inner())
}

/// Events as they come, each with the time at which it came.
struct Heard {
    events: mpsc::UnboundedReceiver<(jiff::Timestamp, Event)>,
    reading: tokio::task::JoinHandle<Status>,
}

impl Heard {
    async fn from(node: &Node) -> Outcome<Self> {
        let mut stream = follow(node).await?;
        let (sender, events) = mpsc::unbounded_channel();
        #[expect(clippy::disallowed_methods, reason = "the test reads beside itself")]
        let reading = tokio::spawn(async move {
            loop {
                match stream.message().await {
                    Ok(Some(event)) => drop(sender.send((jiff::Timestamp::now(), event))),
                    Ok(None) => return Status::ok("end of the stream"),
                    Err(status) => return status,
                }
            }
        });
        Ok(Self { events, reading })
    }

    /// The events up to the one that tells of `id` what `kind` says.
    async fn until(&mut self, id: &str, kind: Type) -> Outcome<Vec<(jiff::Timestamp, Event)>> {
        let mut all = Vec::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), self.events.recv()).await;
            let next =
                next.map_err(|_elapsed| format!("no {kind:?} of {id}: {:?}", kinds(&all)))?;
            all.push(next.ok_or("the stream ended")?);
            let (_, event) = all.last().ok_or("no event")?;
            if event.container_id == id && event.container_event_type() == kind {
                return Ok(all);
            }
        }
    }
}

fn kinds(events: &[(jiff::Timestamp, Event)]) -> Vec<(String, Type)> {
    let kind = |(_, event): &(_, Event)| (event.container_id.clone(), event.container_event_type());
    events.iter().map(kind).collect()
}

async fn life(node: &Node) -> Outcome {
    let mut heard = Heard::from(node).await?;
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &shell("c", "exit 7")).await?;
    let mut events = heard.until(&id, Type::ContainerStoppedEvent).await?;
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let status = node.cri.runtime.clone().pod_sandbox_status(request).await?;
    let status = status.into_inner();
    node.remove_pod(&pod).await?;
    events.extend(heard.until(&pod, Type::ContainerDeletedEvent).await?);

    let told = kinds(&events);
    let expected = [
        (&pod, Type::ContainerCreatedEvent),
        (&pod, Type::ContainerStartedEvent),
        (&id, Type::ContainerCreatedEvent),
        (&id, Type::ContainerStartedEvent),
        (&id, Type::ContainerStoppedEvent),
        (&pod, Type::ContainerStoppedEvent),
        (&id, Type::ContainerDeletedEvent),
        (&pod, Type::ContainerDeletedEvent),
    ];
    let expected = expected.map(|(id, kind)| (id.clone(), kind));
    ensure(told == expected, || format!("{told:#?}"))?;

    let [_, _, _, _, (_, stopped), .., (_, gone)] = events.as_slice() else {
        return Err("events are missing".into());
    };
    let shown = stopped.containers_statuses.first().ok_or("no container")?;
    ensure(
        shown.exit_code == 7
            && shown.state() == cri::ContainerState::ContainerExited
            && stopped.pod_sandbox_status == status.status
            && stopped.containers_statuses == status.containers_statuses
            && stopped.created_at <= status.timestamp,
        || format!("{stopped:#?}\n{status:#?}"),
    )?;
    let last = gone.pod_sandbox_status.as_ref().ok_or("no sandbox")?;
    ensure(
        last.id == pod
            && last.state() == cri::PodSandboxState::SandboxNotready
            && gone.containers_statuses.is_empty(),
        || format!("{gone:#?}"),
    )?;
    let times: Vec<_> = events.iter().map(|(_, event)| event.created_at).collect();
    ensure(times.is_sorted(), || format!("{times:?}"))
}

/// How long after its end the event of an end came.
fn since_end(at: jiff::Timestamp, event: &Event) -> Option<Duration> {
    let mut shown = event.containers_statuses.iter();
    let status = shown.find(|status| status.id == event.container_id)?;
    let took = at.as_nanosecond() - i128::from(status.finished_at);
    Some(Duration::from_nanos(u64::try_from(took).unwrap_or(0)))
}

/// The median, what 95 % keep, and the longest.
fn spread(mut took: Vec<Duration>) -> Outcome<[Duration; 3]> {
    took.sort();
    let at = |percent: usize| took.get((took.len() * percent / 100).min(took.len() - 1));
    let all = [at(50), at(95), at(100)].map(|found| found.copied());
    let [Some(half), Some(most), Some(longest)] = all else {
        return Err("nothing ended".into());
    };
    Ok([half, most, longest])
}

/// A figure for whoever reads the case's output.
fn say(text: &str) {
    use std::io::Write as _;
    drop(writeln!(std::io::stderr(), "{text}"));
}

async fn thousand(node: &Node) -> Outcome {
    let mut heard = Heard::from(node).await?;
    let deaf = follow(node).await?;
    let mut configs = Vec::new();
    for number in 0..ABREAST {
        let mut config = pod(node, &format!("p{number}"));
        // What waits on its way to the deaf client is counted in bytes, what waits here in events.
        let annotations = &mut config.annotations;
        annotations.insert(String::from("long"), "x".repeat(8 << 10));
        configs.push((node.run_pod(&config).await?, config));
    }
    let limit = patient(CROWD_TIME);
    let (done, until) = (AtomicUsize::new(0), Instant::now() + limit);
    let workers = configs
        .iter()
        .map(|(pod, config)| worker(node, pod, config, &done, until));
    let disturbing = async {
        for part in 1..=2 {
            let due = until - limit / 3 * (3 - part);
            while Instant::now() < due && done.load(Ordering::Relaxed) < CROWD / 3 * part as usize {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            node.containerd.kill().await?;
            node.containerd.start().await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    let (lives, disturbed) = tokio::join!(futures::future::try_join_all(workers), disturbing);
    disturbed?;
    let lives: BTreeMap<String, bool> = lives?.into_iter().flatten().collect();
    let last = node.run_pod(&pod(node, "last")).await?;
    let events = heard.until(&last, Type::ContainerStartedEvent).await?;

    let mut told = BTreeMap::<&str, Vec<Type>>::new();
    for (_, event) in &events {
        let list = told.entry(&event.container_id).or_default();
        list.push(event.container_event_type());
    }
    for (id, started) in &lives {
        let told = told.remove(id.as_str()).unwrap_or_default();
        let whole = [
            Type::ContainerCreatedEvent,
            Type::ContainerStartedEvent,
            Type::ContainerStoppedEvent,
            Type::ContainerDeletedEvent,
        ];
        // One whose start met no containerd may never have run.
        let without = [whole[0], whole[2], whole[3]];
        let is_right =
            told == whole || (!started && (told == without || told == [whole[0], whole[3]]));
        ensure(is_right, || format!("{id}, started {started}: {told:?}"))?;
    }
    let times: Vec<_> = events.iter().map(|(_, event)| event.created_at).collect();
    ensure(times.is_sorted(), || String::from("times go back"))?;
    let ends = events.iter().filter(|(_, event)| {
        event.container_event_type() == Type::ContainerStoppedEvent
            && lives.get(&event.container_id) == Some(&true)
    });
    let [half, most, all] = spread(
        ends.filter_map(|(at, event)| since_end(*at, event))
            .collect(),
    )?;
    say(&format!(
        "{} lives, {} events; end to event: median {half:?}, p95 {most:?}, longest {all:?}",
        lives.len(),
        events.len()
    ));
    ensure(lives.len() >= CROWD / 4, || {
        format!("only {} lives", lives.len())
    })?;
    slow(deaf, &events).await
}

/// Makes, starts and removes one short container after the other; answers which there were, and whether their start was
/// answered well.
async fn worker(
    node: &Node,
    pod: &str,
    config: &cri::PodSandboxConfig,
    done: &AtomicUsize,
    until: Instant,
) -> Outcome<Vec<(String, bool)>> {
    let mut lives = Vec::new();
    while Instant::now() < until && done.fetch_add(1, Ordering::Relaxed) < CROWD {
        let mut short = shell("c", "exit 0");
        short.metadata.get_or_insert_default().attempt = u32::try_from(lives.len())?;
        let id = persist(|| node.create(pod, config, &short)).await?;
        let started = node.start(&id).await.is_ok();
        lives.push((id.clone(), started));
        if started {
            node.until_exited(&id).await?;
        }
        persist(|| node.remove(&id)).await?;
    }
    Ok(lives)
}

/// Repeats a call that meets no containerd until it is back.
async fn persist<T, F>(call: impl Fn() -> F) -> Outcome<T>
where
    F: Future<Output = Result<T, Status>>,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) if Instant::now() > deadline => return Err(status.into()),
            Err(_away) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A client that did not read finds the oldest events, in order, and then a clear end.
async fn slow(mut stream: Streaming<Event>, all: &[(jiff::Timestamp, Event)]) -> Outcome {
    let mut read = 0;
    let end = loop {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.message()).await;
        match next.map_err(|_elapsed| format!("nothing after {read} events"))? {
            Ok(Some(event)) => {
                ensure(
                    all.get(read).map(|(_, wanted)| wanted) == Some(&event),
                    || format!("event {read} of the slow client is another one: {event:?}"),
                )?;
                read += 1;
            }
            Ok(None) => return Err("the slow client's stream ended well".into()),
            Err(status) => break status,
        }
    };
    say(&format!(
        "the slow client was let go after {read} of {} events",
        all.len()
    ));
    ensure(
        end.code() == Code::ResourceExhausted && read >= 1_000,
        || format!("{read} events, then {end}"),
    )
}

async fn room(node: &Node) -> Outcome {
    let mut heard = Heard::from(node).await?;
    let mut streams = Vec::new();
    for _ in 1..CLIENTS {
        streams.push(follow(node).await?);
    }
    fails(
        "one more",
        follow(node).await.map(drop),
        Code::ResourceExhausted,
    )?;
    // Nothing happens on the node, so nothing is sent that would show that a client is gone.
    let other = crate::client::Cri::at(layout::PODWRIGHT_SOCKET.as_ref())?;
    streams.pop();
    let request = cri::GetEventsRequest {};
    let deadline = Instant::now() + Duration::from_secs(1);
    let taken = loop {
        match other.runtime.clone().get_container_events(request).await {
            Ok(stream) => break stream.into_inner(),
            Err(status) => ensure(Instant::now() < deadline, || format!("no room: {status}"))?,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    drop((taken, streams));
    let config = pod(node, "p");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &sleeper("c")).await?;
    heard.until(&id, Type::ContainerStartedEvent).await?;

    let began = Instant::now();
    node.podwright.stop().await?;
    let end = heard.reading.await?;
    ensure(end.code() == Code::Unavailable, || format!("{end}"))?;
    ensure(began.elapsed() < Duration::from_secs(5), || {
        format!("the stop took {:?}", began.elapsed())
    })?;
    node.podwright.start().await?;
    node.until_ready().await?;
    let mut heard = Heard::from(node).await?;
    node.stop(&id, 5).await?;
    heard
        .until(&id, Type::ContainerStoppedEvent)
        .await
        .map(drop)
}
