//! The reports of the rooms as metrics. What people are shown object by object is summed here, or told apart by labels of
//! closed sets: nothing is called after a pod or an image. Registry hosts are, as many as the registry room keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{logs, network, process};
use crate::container::Containers;
use crate::containerd::{Link, LinkState};
use crate::image::{Images, LayerState, PullReport, PullTally};
use crate::index::{Following, Index};
use crate::model::{Clock, Timestamp};
use crate::network::Cni;
use crate::ops::{LiveTable, OpInfo, Supervisor, TenantPaths};
use crate::recovery::Recovery;
use crate::registry::{BreakerState, HostReport};
use crate::sandbox::Sandboxes;
use crate::streaming::Streaming;
use crate::telemetry::{Number, Page, Series, Source};

/// The rooms that have something to say.
pub(in crate::server) struct Reports {
    pub(in crate::server) clock: Arc<dyn Clock>,
    pub(in crate::server) images: Images,
    pub(in crate::server) live: LiveTable,
    pub(in crate::server) paths: TenantPaths,
    pub(in crate::server) supervisor: Supervisor,
    pub(in crate::server) link: Link,
    pub(in crate::server) streaming: Streaming,
    pub(in crate::server) sandboxes: Sandboxes,
    pub(in crate::server) containers: Containers,
    pub(in crate::server) recovery: Recovery,
    pub(in crate::server) cni: Arc<Cni>,
    pub(in crate::server) index: Arc<Index>,
    pub(in crate::server) started_at: Timestamp,
}

impl Source for Reports {
    fn read_blocking(&self, page: &mut Page) {
        let now = self.clock.now();
        page.gauge(
            "build_info",
            "Always 1; the label says which version runs.",
            [Series::of(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64)],
        );
        containerd(page, &self.link.state());
        page.counter(
            "task_panics",
            "Tasks of the server that panicked.",
            [Series::plain(self.supervisor.panics())],
        );
        operations(page, &self.live.snapshot(), now);
        let paths = self.paths.snapshot();
        page.gauge(
            "path_calls_abandoned",
            "Calls on paths of pods that were given up and hang still.",
            [Series::plain(
                paths.iter().filter(|job| job.abandoned).count(),
            )],
        );
        pulls(page, &self.images.pulls(), now);
        tally(page, &self.images.pull_tally());
        mirrors(page, &self.images.mirrors());
        logs::write(page, &self.containers.log_totals());
        events(page, &self.index.following());
        network::write(page, &self.cni.plugin_calls().report());
        let leftovers = [
            ("sandbox", self.sandboxes.stuck_steps().counts()),
            ("container", self.containers.stuck_steps().counts()),
            ("orphan", self.recovery.orphans()),
        ];
        leaks(page, &leftovers);
        page.gauge(
            "streaming_open_streams",
            "Exec, attach and port-forward connections that are open.",
            [Series::plain(self.streaming.open_streams())],
        );
        page.gauge(
            "streaming_waiting_urls",
            "URLs that were given out and wait for their client.",
            [Series::plain(self.streaming.waiting_urls())],
        );
        process::write_blocking(page, now.since(self.started_at));
    }
}

fn containerd(page: &mut Page, state: &LinkState) {
    let down_for = match state {
        LinkState::Untried | LinkState::Up { .. } => Duration::ZERO,
        LinkState::Down { since, .. } => since.elapsed(),
    };
    let version = match state {
        LinkState::Up { version, .. } => Some(version.text.as_str()),
        LinkState::Untried | LinkState::Down { .. } => None,
    };
    page.gauge(
        "containerd_up",
        "Whether containerd answers.",
        [Series::plain(version.is_some())],
    );
    page.gauge(
        "containerd_down_seconds",
        "How long containerd has not answered; 0 where it does.",
        [Series::plain(down_for)],
    );
    page.gauge(
        "containerd_info",
        "Always 1 while containerd answers; the label says which version it is.",
        version.map(|version| Series::of(&[("version", version)], 1_u64)),
    );
}

fn leaks(page: &mut Page, leftovers: &[(&str, BTreeMap<&'static str, u64>)]) {
    let each = leftovers
        .iter()
        .flat_map(|(owner, counts)| counts.iter().map(move |(kind, count)| (owner, kind, count)));
    page.gauge(
        "leftovers",
        "What should be gone, would not go and is tried again, by kind: of sandboxes and containers, and what the janitor's last round found without either.",
        each.map(|(owner, kind, count)| Series::of(&[("owner", owner), ("kind", kind)], *count)),
    );
}

fn events(page: &mut Page, following: &Following) {
    page.gauge(
        "events_followers",
        "Clients that follow the events of pods.",
        [Series::plain(following.followers)],
    );
    page.counter(
        "events_sent",
        "Events that were put into the queues of followers.",
        [Series::plain(following.sent)],
    );
    page.counter(
        "events_followers_lost",
        "Followers whose stream was ended because they were too far behind.",
        [Series::plain(following.lost)],
    );
}

fn operations(page: &mut Page, running: &[OpInfo], now: Timestamp) {
    let mut kinds: BTreeMap<&str, (u64, Duration)> = BTreeMap::new();
    let mut stuck: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in running {
        let count = stuck.entry(operation.kind).or_default();
        *count = count.saturating_add(u64::from(operation.is_stuck(now)));
        let (count, oldest) = kinds.entry(operation.kind).or_default();
        *count = count.saturating_add(1);
        *oldest = now.since(operation.started_at).max(*oldest);
    }
    page.gauge(
        "operations_in_flight",
        "Operations that run, by kind.",
        kinds
            .iter()
            .map(|(kind, (count, _oldest))| Series::of(&[("kind", kind)], *count)),
    );
    page.gauge(
        "operations_oldest_age_seconds",
        "Age of the oldest operation that runs, by kind.",
        kinds
            .iter()
            .map(|(kind, (_count, oldest))| Series::of(&[("kind", kind)], *oldest)),
    );
    page.gauge(
        "operations_stuck",
        "Operations that run and have been in one step for more than a minute that ought to be short, by kind.",
        stuck
            .iter()
            .map(|(kind, count)| Series::of(&[("kind", kind)], *count)),
    );
}

fn pulls(page: &mut Page, all: &[PullReport], now: Timestamp) {
    let running: Vec<&PullReport> = all.iter().filter(|pull| pull.end.is_none()).collect();
    let layers = || running.iter().flat_map(|pull| &pull.layers);
    let here: u64 = layers().map(|layer| layer.here).sum();
    let size: u64 = layers().map(|layer| layer.size).sum();
    let age = running.iter().map(|pull| now.since(pull.started_at)).max();
    let silence = running.iter().filter_map(|pull| silence(pull, now)).max();
    page.gauge(
        "image_pulls_in_flight",
        "Pulls that run.",
        [Series::plain(running.len())],
    );
    page.gauge(
        "image_pulls_in_flight_here_bytes",
        "Bytes of the layers of running pulls that are on this node.",
        [Series::plain(here)],
    );
    page.gauge(
        "image_pulls_in_flight_size_bytes",
        "Bytes of all layers of running pulls, as far as they are known.",
        [Series::plain(size)],
    );
    page.gauge(
        "image_pulls_in_flight_oldest_age_seconds",
        "Age of the oldest pull that runs; 0 where none does.",
        [Series::plain(age.unwrap_or_default())],
    );
    page.gauge(
        "image_pulls_in_flight_silent_seconds",
        "How long the running pull that fetches and has waited longest has waited for a byte; 0 where none fetches.",
        [Series::plain(silence.unwrap_or_default())],
    );
}

/// How long ago a byte came of any layer that is being fetched; `None` where none is.
fn silence(pull: &PullReport, now: Timestamp) -> Option<Duration> {
    let fetching = pull
        .layers
        .iter()
        .filter(|layer| layer.state == LayerState::Fetching);
    // Before the first byte it is the step that has lasted in silence.
    fetching
        .map(|layer| now.since(layer.last_byte_at.unwrap_or(pull.step_started_at)))
        .min()
}

fn tally(page: &mut Page, tally: &PullTally) {
    let ended = tally.ended.iter().map(|(how, count)| {
        let outcome = match how {
            Ok(()) => "OK".to_owned(),
            Err(kind) => format!("{kind:?}"),
        };
        Series::of(&[("outcome", &outcome)], *count)
    });
    page.counter(
        "image_pulls_ended",
        "Pulls that ended, by outcome: OK, or the kind of error; Cancelled where nobody waited any more.",
        ended,
    );
    page.counter(
        "image_pulls_fetched_bytes",
        "Bytes of layers that pulls fetched.",
        [Series::plain(tally.fetched)],
    );
}

fn mirrors(page: &mut Page, hosts: &[HostReport]) {
    const STATES: [BreakerState; 3] = [
        BreakerState::Closed,
        BreakerState::Open,
        BreakerState::HalfOpen,
    ];
    let states = hosts.iter().flat_map(|host| {
        STATES.into_iter().map(|state| {
            let labels = [("host", host.host.as_str()), ("state", state.name())];
            Series::of(&labels, host.state == state)
        })
    });
    page.gauge(
        "registry_host_state",
        "1 for the state of the registry host's circuit breaker: closed is asked, open is passed over, half-open is tried.",
        states,
    );
    let each = |value: fn(&HostReport) -> u64| -> Vec<Series<Number>> {
        let hosts = hosts.iter();
        hosts
            .map(|host| Series::of(&[("host", &host.host)], value(host)))
            .collect()
    };
    page.counter(
        "registry_host_answers",
        "Requests that the registry host answered, be it with a refusal.",
        each(|host| host.successes),
    );
    page.counter(
        "registry_host_failures",
        "Requests that it did not answer, or with a server error.",
        each(|host| host.failures),
    );
    page.counter(
        "registry_host_skips",
        "Requests that passed it over because its circuit breaker was open.",
        each(|host| host.skips),
    );
    page.counter(
        "registry_host_hedges",
        "Requests that asked another host as well because it kept them waiting.",
        each(|host| host.hedges),
    );
    page.counter(
        "registry_host_received_bytes",
        "Bytes of bodies that came from it.",
        each(|host| host.bytes),
    );
    page.gauge(
        "registry_host_median_latency_seconds",
        "From a request to the head of its answer, the median of the last ones.",
        hosts.iter().filter_map(|host| {
            let latency = host.median_latency?;
            Some(Series::of(&[("host", &host.host)], latency))
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{LayerReport, PullEnd};
    use crate::model::{Digest, Kind};
    use crate::telemetry::Sources;

    struct Written(fn(&mut Page));

    impl Source for Written {
        fn read_blocking(&self, page: &mut Page) {
            (self.0)(page);
        }
    }

    /// The samples that `write` makes, without what describes them.
    fn samples(write: fn(&mut Page)) -> Vec<String> {
        let text = Sources::new(vec![Box::new(Written(write))])
            .scrape_blocking()
            .unwrap();
        let lines = text.lines();
        lines
            .filter(|line| !line.starts_with('#') && !line.contains("left_out"))
            .map(|line| line.trim_start_matches("podwright_").to_owned())
            .collect()
    }

    fn pull(started_at: i64, layers: &[(LayerState, u64, Option<i64>)]) -> PullReport {
        let layers = layers
            .iter()
            .map(|(state, here, last_byte_at)| LayerReport {
                digest: Digest::sha256(b"layer"),
                size: 100,
                here: *here,
                fetched: *here,
                state: *state,
                host: String::new(),
                last_byte_at: last_byte_at.map(seconds),
            });
        PullReport {
            id: 1,
            reference: "registry.example/secret:1".into(),
            snapshotter: "overlayfs".into(),
            started_at: seconds(started_at),
            step: "layers",
            step_started_at: seconds(started_at),
            host: String::new(),
            layers: layers.collect(),
            end: None,
        }
    }

    fn seconds(count: i64) -> Timestamp {
        Timestamp::from_parts(count, 0)
    }

    #[test]
    fn running_pulls_are_summed_and_the_oldest_and_the_most_silent_stand_for_all() {
        use LayerState::{Done, Fetching, Waiting};
        let shown = samples(|page| {
            let mut ended = pull(1, &[(Done, 100, None)]);
            ended.end = Some(PullEnd {
                at: seconds(2),
                outcome: Ok(Digest::sha256(b"id")),
            });
            let all = [
                pull(10, &[(Done, 100, Some(12)), (Fetching, 7, Some(90))]),
                pull(30, &[(Fetching, 3, Some(50)), (Fetching, 0, Some(70))]),
                pull(95, &[(Waiting, 0, None)]),
                ended,
            ];
            pulls(page, &all, seconds(100));
        });

        assert_eq!(
            shown,
            [
                "image_pulls_in_flight 3",
                "image_pulls_in_flight_here_bytes 110",
                "image_pulls_in_flight_size_bytes 500",
                "image_pulls_in_flight_oldest_age_seconds 90.0",
                "image_pulls_in_flight_silent_seconds 30.0",
            ]
        );
    }

    #[test]
    fn without_pulls_there_are_zeros_and_ends_are_told_apart_by_kind() {
        let shown = samples(|page| {
            pulls(page, &[], seconds(100));
            let ended = vec![(Ok(()), 5), (Err(Kind::NotFound), 2)];
            tally(page, &PullTally { ended, fetched: 9 });
        });

        assert_eq!(
            shown[..2],
            [
                "image_pulls_in_flight 0",
                "image_pulls_in_flight_here_bytes 0"
            ]
        );
        assert_eq!(
            shown[5..],
            [
                "image_pulls_ended_total{outcome=\"OK\"} 5",
                "image_pulls_ended_total{outcome=\"NotFound\"} 2",
                "image_pulls_fetched_bytes_total 9",
            ]
        );
    }

    #[test]
    fn operations_are_told_apart_by_kind_and_never_by_object() {
        let shown = samples(|page| {
            let operation = |kind, started_at| OpInfo {
                id: 1,
                kind,
                object: "secret".into(),
                step: "begin",
                started_at: seconds(started_at),
                step_started_at: seconds(started_at),
                waits_on: None,
                process: None,
                is_patient: kind == "StopContainer",
                waiters: 0,
                steps: Vec::new(),
                pod: None,
                carried: None,
            };
            let running = [
                operation("StopContainer", 50),
                operation("RunPodSandbox", 20),
                operation("StopContainer", 40),
            ];
            operations(page, &running, seconds(100));
        });

        assert_eq!(
            shown,
            [
                "operations_in_flight{kind=\"RunPodSandbox\"} 1",
                "operations_in_flight{kind=\"StopContainer\"} 2",
                "operations_oldest_age_seconds{kind=\"RunPodSandbox\"} 80.0",
                "operations_oldest_age_seconds{kind=\"StopContainer\"} 60.0",
                "operations_stuck{kind=\"RunPodSandbox\"} 1",
                "operations_stuck{kind=\"StopContainer\"} 0",
            ]
        );
    }

    #[test]
    fn a_host_is_in_one_state_and_has_no_latency_before_it_answered() {
        let shown = samples(|page| {
            let host = HostReport {
                host: "http://a.b:5000".into(),
                state: BreakerState::Open,
                since: seconds(1),
                last_error: None,
                successes: 1,
                failures: 2,
                skips: 3,
                hedges: 4,
                median_latency: None,
                bytes: 5,
                next_trial: None,
            };
            mirrors(page, &[host]);
        });

        let host = "host=\"http://a.b:5000\"";
        assert_eq!(
            shown,
            [
                format!("registry_host_state{{{host},state=\"closed\"}} 0"),
                format!("registry_host_state{{{host},state=\"open\"}} 1"),
                format!("registry_host_state{{{host},state=\"half-open\"}} 0"),
                format!("registry_host_answers_total{{{host}}} 1"),
                format!("registry_host_failures_total{{{host}}} 2"),
                format!("registry_host_skips_total{{{host}}} 3"),
                format!("registry_host_hedges_total{{{host}}} 4"),
                format!("registry_host_received_bytes_total{{{host}}} 5"),
            ]
        );
    }
}
