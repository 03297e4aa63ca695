use super::*;

fn probe() -> Probe {
    crate::registry::install_crypto_provider();
    Probe {
        client: reqwest::Client::builder()
            .tls_certs_only([])
            .build()
            .unwrap(),
        urls: vec!["http://127.0.0.1:1/v2/".parse().unwrap()],
    }
}

fn names(health: &Health) -> Vec<String> {
    let rows = health.report(Timestamp(0));
    rows.into_iter().map(|row| row.host).collect()
}

#[tokio::test(start_paused = true)]
async fn the_table_has_a_limit_and_forgets_hosts_of_mere_references_first() {
    let health = Health::default();
    health.host("https://mirror.tld", Some(probe()));
    for n in 0..2 * HOSTS {
        tokio::time::advance(Duration::from_millis(1)).await;
        health.host(&format!("https://{n}.hostile.tld"), None);
    }

    let names = names(&health);
    assert_eq!(names.len(), HOSTS);
    assert!(names.contains(&"https://mirror.tld".to_owned()));
    let last = format!("https://{}.hostile.tld", 2 * HOSTS - 1);
    assert!(names.contains(&last));
}

#[tokio::test(start_paused = true)]
async fn a_host_of_a_mere_reference_is_tried_by_a_request_and_never_in_the_background() {
    let health = Health::default();
    let host = health.host("https://hostile.tld", None);
    host.failed(Fault::Unreachable, "cannot connect".into());

    assert!(host.admits().unwrap_err().is_fresh);
    tokio::time::timeout(Duration::from_secs(600), health.keep_probing())
        .await
        .unwrap_err();
    assert_eq!(host.report(Timestamp(0)).failures, 1);
    assert!(host.admits().is_ok(), "the request is the trial");
    assert!(host.admits().is_err(), "one is enough");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_nobody_wants_any_more_is_left_alone() {
    let health = Health::default();
    let host = health.host("http://127.0.0.1:1", Some(probe()));
    host.failed(Fault::Unreachable, "cannot connect".into());

    tokio::time::timeout(Duration::from_secs(7200), health.keep_probing())
        .await
        .unwrap_err();
    let tried = host.report(Timestamp(0)).failures;
    assert!((10..60).contains(&tried), "{tried}");
    tokio::time::timeout(Duration::from_secs(7200), health.keep_probing())
        .await
        .unwrap_err();
    assert_eq!(host.report(Timestamp(0)).failures, tried);
    assert!(host.admits().is_ok(), "the next request is the trial");
}

#[tokio::test(start_paused = true)]
async fn the_report_reckons_times_from_now() {
    let health = Health::default();
    let host = health.host("https://mirror.tld", Some(probe()));
    host.answered(Duration::from_millis(20));
    host.received(7);
    host.failed(Fault::Unreachable, "cannot connect".into());
    tokio::time::advance(Duration::from_secs(2)).await;

    let rows = health.report(Timestamp(10_000_000_000));

    let row = &rows[0];
    assert_eq!(row.state, BreakerState::Open);
    assert_eq!(row.since, Timestamp(8_000_000_000));
    assert_eq!(
        row.last_error,
        Some(("cannot connect".to_owned(), Timestamp(8_000_000_000)))
    );
    assert!(row.next_trial.unwrap() > Timestamp(10_000_000_000));
    assert_eq!(row.median_latency, Some(Duration::from_millis(20)));
    assert_eq!((row.successes, row.failures, row.bytes), (1, 1, 7));
}
