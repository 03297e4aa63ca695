//! What is remembered of hosts between pulls, and what impatience does.

use rstest::rstest;

use super::*;
use crate::registry::health::Fault;

const SHORT: Duration = Duration::from_millis(200);

/// Hosts in their order, the last one `server`; those over TLS are not verified.
fn mirrored(directory: &tempfile::TempDir, hosts: &[&str]) -> Settings {
    let (server, mirrors) = hosts.split_last().unwrap();
    let mut text = format!("server = \"{server}\"\n");
    if server.starts_with("https") {
        text.push_str("skip_verify = true\n");
    }
    for mirror in mirrors {
        text.push_str(&format!("[host.\"{mirror}\"]\n"));
        if mirror.starts_with("https") {
            text.push_str("skip_verify = true\n");
        }
    }
    Settings {
        dial_timeout: 2 * SHORT,
        mirror_dial_timeout: SHORT,
        ..hosts_file(directory, "host.tld", &text)
    }
}

async fn repository(registry: &Registry) -> Repository {
    let reference = "host.tld/team/app:v1".parse().unwrap();
    let anonymous = Credentials::anonymous();
    registry.repository(&reference, &anonymous).await.unwrap()
}

async fn resolve(registry: &Registry) -> Result<Resolved> {
    repository(registry).await.resolve().await
}

fn http(stub: &Stub) -> String {
    format!("http://{}", stub.authority())
}

fn https(mute: &Mute) -> String {
    format!("https://{}", mute.authority())
}

fn row(registry: &Registry, host: &str) -> HostReport {
    let rows = registry.hosts(Timestamp(0));
    rows.into_iter().find(|row| row.host == host).unwrap()
}

/// A shelf with `v1` and a layer of `size` bytes.
fn shelf(size: usize) -> (Shelf, Descriptor, Vec<u8>) {
    let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
    let mut shelf = Shelf::default();
    shelf.manifest(Some("v1"), MANIFEST, "{}");
    let digest = shelf.blob(bytes.clone());
    (shelf, layer(digest, size), bytes)
}

/// Lets a minute pass without waiting for it.
async fn a_minute_later() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_dead_mirror_costs_one_short_connect_and_then_nothing() {
    let dead = Mute::start();
    let (shelf, layer, bytes) = shelf(100_000);
    let stub = Stub::start(move |seen| shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(mirrored(&directory, &[&https(&dead), &http(&stub)]));

    let began = std::time::Instant::now();
    for _ in 0..3 {
        let repository = repository(&registry).await;
        let resolved = repository.resolve().await.unwrap();
        repository.document(&resolved.target, 1_000).await.unwrap();
        assert_eq!(
            drain(repository.blob(layer.clone(), 0)).await.unwrap(),
            bytes
        );
    }

    assert_eq!(dead.connects(), 1);
    assert!(began.elapsed() < 10 * SHORT, "{:?}", began.elapsed());
    let dead = row(&registry, &https(&dead));
    assert_eq!((dead.state, dead.skips), (BreakerState::Open, 8));
    assert!(dead.next_trial.is_some());
    let alive = row(&registry, &http(&stub));
    assert_eq!((alive.successes, alive.failures), (9, 0));
    assert_eq!(alive.bytes, 3 * (2 + 100_000));
    assert!(alive.median_latency.is_some());
}

#[tokio::test]
async fn the_last_host_is_given_more_time_to_connect() {
    let dead = Mute::start();
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(mirrored(&directory, &[&https(&dead)]));

    let began = std::time::Instant::now();
    let error = resolve(&registry).await.unwrap_err();

    assert!(began.elapsed() >= 2 * SHORT, "{:?}", began.elapsed());
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_host_that_answers_its_trial_is_asked_again() {
    let (shelf, ..) = shelf(1);
    let is_up = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (up, mirror_shelf) = (Arc::clone(&is_up), shelf.clone());
    let mirror = Stub::start(move |seen| match up.load(Ordering::SeqCst) {
        true => mirror_shelf.answer(seen),
        false => Reply::new(500),
    });
    let upstream = Stub::start(move |seen| shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let hosts = [http(&mirror), http(&upstream)];
    let registry = Registry::new(mirrored(&directory, &[&hosts[0], &hosts[1]]));
    for _ in 0..5 {
        resolve(&registry).await.unwrap();
    }
    assert_eq!(mirror.lines().len(), 3, "the third server error opens");
    assert_eq!(row(&registry, &hosts[0]).state, BreakerState::Open);

    is_up.store(true, Ordering::SeqCst);
    a_minute_later().await;
    let closed = async {
        while row(&registry, &hosts[0]).state != BreakerState::Closed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = registry.clone().keep_probing() => {}
        () = closed => {}
    }

    assert_eq!(mirror.lines()[3], "GET /v2/");
    assert_eq!(mirror.seen()[3].header("authorization"), None);
    assert_eq!(resolve(&registry).await.unwrap().host, mirror.authority());
}

#[tokio::test]
async fn a_trial_that_fails_leaves_the_host_open() {
    let dead = Mute::start();
    let (shelf, ..) = shelf(1);
    let upstream = Stub::start(move |seen| shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(mirrored(&directory, &[&https(&dead), &http(&upstream)]));
    resolve(&registry).await.unwrap();

    a_minute_later().await;
    let probing = registry.clone().keep_probing();
    let tried = tokio::time::timeout(5 * SHORT, probing).await;

    assert!(tried.is_err(), "probing never ends");
    assert_eq!(dead.connects(), 2, "one connect each");
    let row = row(&registry, &https(&dead));
    assert_eq!((row.state, row.failures), (BreakerState::Open, 2));
    assert!(row.last_error.unwrap().0.starts_with("cannot connect"));
}

#[tokio::test]
async fn a_mirror_that_keeps_a_request_waiting_is_joined_by_the_next() {
    let (shelf, layer, bytes) = shelf(70_000);
    let slow_shelf = shelf.clone();
    let slow = Stub::start(move |seen| slow_shelf.answer(seen).late());
    let upstream = Stub::start(move |seen| shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        hedge_after: SHORT,
        ..mirrored(&directory, &[&http(&slow), &http(&upstream)])
    };
    let registry = Registry::new(settings);
    let repository = repository(&registry).await;

    let began = std::time::Instant::now();
    let resolved = repository.resolve().await.unwrap();
    repository.document(&resolved.target, 1_000).await.unwrap();
    let got = drain(repository.blob(layer, 0)).await.unwrap();

    assert_eq!(got, bytes);
    assert_eq!(resolved.host, upstream.authority());
    assert!(began.elapsed() < 12 * SHORT, "{:?}", began.elapsed());
    let slow = row(&registry, &http(&slow));
    assert_eq!((slow.hedges, slow.failures), (3, 3));
    assert_eq!(slow.state, BreakerState::Open, "it has stalled three times");
}

#[tokio::test]
async fn a_mirror_that_stalls_in_a_blob_is_relieved_at_the_byte_reached() {
    let (shelf, layer, bytes) = shelf(100_000);
    let slow_shelf = shelf.clone();
    let slow = Stub::start(move |seen| slow_shelf.answer(seen).stall_at(30_000));
    let upstream = Stub::start(move |seen| shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        hedge_after: SHORT,
        ..mirrored(&directory, &[&http(&slow), &http(&upstream)])
    };
    let registry = Registry::new(settings);

    let blob = repository(&registry).await.blob(layer, 0);
    let got = drain(blob).await.unwrap();

    assert_eq!(got, bytes);
    let ranges: Vec<Option<String>> = upstream
        .seen()
        .iter()
        .map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [Some("bytes=30000-".to_owned())]);
    assert_eq!(row(&registry, &http(&slow)).bytes, 30_000);
}

#[tokio::test]
async fn a_rival_that_has_nothing_leaves_a_slow_host_its_time() {
    let (shelf, layer, _) = shelf(100_000);
    let count = AtomicUsize::new(0);
    let slow = Stub::start(move |seen| match count.fetch_add(1, Ordering::SeqCst) {
        0 => shelf.answer(seen).stall_at(30_000),
        _ => shelf.answer(seen),
    });
    let empty = Stub::start(|_| Reply::new(404));
    let directory = tempfile::tempdir().unwrap();
    let third = Stub::start(|_| Reply::new(404));
    let settings = Settings {
        hedge_after: SHORT,
        header_timeout: 4 * SHORT,
        ..mirrored(&directory, &[&http(&empty), &http(&slow), &http(&third)])
    };
    let registry = Registry::new(settings);

    let got = drain(repository(&registry).await.blob(layer, 0)).await;

    // The slow host was given up after its time, and nobody else had the blob.
    assert_eq!(got.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(row(&registry, &http(&slow)).hedges, 1);
}

/// The reference's own registry would be shown credentials that the mirror before it has not seen.
#[tokio::test]
async fn impatience_carries_no_credentials_where_none_were_shown() {
    let (shelf, ..) = shelf(1);
    let slow = Stub::start(|_| Reply::new(200).late());
    let own = Stub::start(move |seen| match seen.header("authorization") {
        Some(_) => shelf.answer(seen),
        None => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let directory = tempfile::tempdir().unwrap();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", http(&own), http(&slow));
    let settings = Settings {
        hedge_after: SHORT,
        header_timeout: 5 * SHORT,
        ..hosts_file(&directory, &own.authority(), &text)
    };
    let reference = format!("{}/team/app:v1", own.authority()).parse().unwrap();
    let registry = Registry::new(settings);
    let began = std::time::Instant::now();

    for (credentials, hedges, least) in [
        (password(), 0, 5 * SHORT),
        (Credentials::anonymous(), 1, SHORT),
    ] {
        let repository = registry.repository(&reference, &credentials).await.unwrap();
        let resolved = repository.resolve().await;
        assert_eq!(resolved.is_ok(), !credentials.is_anonymous());
        assert_eq!(row(&registry, &http(&slow)).hedges, hedges);
        assert!(began.elapsed() >= least);
    }
}

#[tokio::test]
async fn where_all_is_dead_each_is_asked_each_time_and_the_error_names_one() {
    let dead = [Mute::start(), Mute::start()];
    let directory = tempfile::tempdir().unwrap();
    let hosts = dead.each_ref().map(https);
    let registry = Registry::new(mirrored(&directory, &[&hosts[0], &hosts[1]]));

    for round in 1..=2 {
        let error = resolve(&registry).await.unwrap_err();

        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.chain().contains(&hosts[0]), "{error}");
        assert!(dead.iter().all(|host| host.connects() >= round));
    }
}

#[tokio::test]
async fn a_refusal_by_the_upstream_ends_it_and_names_who_was_passed_over() {
    let dead = Mute::start();
    let upstream = Stub::start(|_| Reply::new(404));
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(mirrored(&directory, &[&https(&dead), &http(&upstream)]));
    resolve(&registry).await.unwrap_err();

    let error = resolve(&registry).await.unwrap_err();

    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(dead.connects(), 1);
    let text = error.chain();
    let without = format!(
        "without {} (out of order for 0 s: cannot connect",
        https(&dead)
    );
    assert!(text.starts_with(&without), "{text}");
    assert!(text.contains("404"), "{text}");
    let skipped = text.split(')').next().unwrap();
    assert!(!skipped.contains("team/app"), "{text}");

    a_minute_later().await;
    resolve(&registry).await.unwrap_err();
    assert_eq!(dead.connects(), 2, "what failed long ago may be back");
}

#[tokio::test]
async fn an_upstream_out_of_order_is_asked_where_its_mirror_has_nothing() {
    let dead = Mute::start();
    let mirror = Stub::start(|_| Reply::new(404));
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(mirrored(&directory, &[&http(&mirror), &https(&dead)]));
    resolve(&registry).await.unwrap_err();
    let before = dead.connects();

    resolve(&registry).await.unwrap_err();

    assert!(dead.connects() > before);
}

#[rstest]
#[case(401)]
#[case(403)]
#[case(404)]
#[case(429)]
#[tokio::test]
async fn a_refusal_is_no_failure_of_the_host(#[case] status: u16) {
    let refusing = Stub::start(move |_| {
        Reply::new(status)
            .header("WWW-Authenticate", "Basic realm=\"r\"")
            .header("Retry-After", "3600")
    });
    let directory = tempfile::tempdir().unwrap();
    let (shelf, ..) = shelf(1);
    let upstream = Stub::start(move |seen| shelf.answer(seen));
    let registry = Registry::new(mirrored(&directory, &[&http(&refusing), &http(&upstream)]));

    for _ in 0..5 {
        resolve(&registry).await.unwrap();
    }

    let row = row(&registry, &http(&refusing));
    assert_eq!((row.state, row.failures), (BreakerState::Closed, 0));
}

#[tokio::test]
async fn the_last_resort_brings_a_host_back() {
    let (shelf, ..) = shelf(1);
    let mirror = Stub::start(move |seen| shelf.answer(seen));
    let dead = Mute::start();
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::new(mirrored(&directory, &[&http(&mirror), &https(&dead)]));
    let known = repository(&registry).await;
    let health = known.inner.endpoints[0].health();
    health.failed(Fault::Unreachable, "cannot connect".into());

    assert_eq!(resolve(&registry).await.unwrap().host, mirror.authority());

    assert_eq!(row(&registry, &http(&mirror)).state, BreakerState::Closed);
    assert!(dead.connects() > 0, "the one in order was asked first");
}
