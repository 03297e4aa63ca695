use super::*;
use crate::model::clock::ManualClock;
use crate::model::{Descriptor, Error};

fn layer(text: &str, size: u64) -> Layer {
    Layer {
        file: None,
        blob: Descriptor {
            media_type: String::new(),
            digest: Digest::sha256(text.as_bytes()),
            size,
            annotations: BTreeMap::new(),
        },
        diff_id: Digest::sha256(b"diff"),
        chain_id: Digest::sha256(b"chain"),
    }
}

fn key(reference: &str) -> PullKey {
    PullKey {
        reference: reference.into(),
        snapshotter: "overlayfs".into(),
        credentials: [0; 32],
    }
}

fn book() -> (PullBook, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp(5)));
    let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
    (PullBook::new(shared), clock)
}

#[test]
fn a_running_pull_shows_its_step_and_how_far_each_layer_is() {
    let (book, _clock) = book();
    let pull = book.begin(key("a.b/c:v1"));
    pull.step("layers");
    pull.host("https://mirror");
    pull.layers(&[layer("one", 100), layer("two", 50)]);
    let meter = pull.meter(&Digest::sha256(b"one"));
    meter.begin(40);
    meter.received(10, "https://other");

    let reports = book.reports();
    let [report] = reports.as_slice() else {
        panic!("{reports:?}")
    };
    assert_eq!(
        (report.step, report.host.as_str(), report.end.as_ref()),
        ("layers", "https://mirror", None)
    );
    let one = &report.layers[0];
    assert_eq!(
        (one.here, one.fetched, one.state, one.host.as_str()),
        (50, 10, LayerState::Fetching, "https://other")
    );
    assert_eq!(one.last_byte_at, Some(Timestamp(5)));
    assert_eq!(report.layers[1].state, LayerState::Waiting);
    assert_eq!(book.running(&key("a.b/c:v1")).as_ref(), Some(report));
    assert_eq!(book.running(&key("a.b/c:v2")), None);
}

#[test]
fn a_layer_that_was_here_counts_as_here_and_nothing_was_fetched() {
    let (book, _clock) = book();
    let pull = book.begin(key("a.b/c:v1"));
    pull.layers(&[layer("one", 100), layer("one", 100)]);
    pull.meter(&Digest::sha256(b"one")).state(LayerState::Done);

    for row in &book.reports()[0].layers {
        assert_eq!((row.here, row.fetched), (100, 0));
        assert_eq!(row.state, LayerState::Done);
    }
}

#[test]
fn ended_pulls_are_remembered_latest_first_and_not_without_end() {
    let (book, clock) = book();
    for _ in 0..REMEMBERED {
        drop(book.begin(key("old")));
    }
    clock.advance(std::time::Duration::from_nanos(4));
    book.begin(key("bad"))
        .end(&Err(Error::not_found("no such image")));
    book.begin(key("good")).end(&Ok(Digest::sha256(b"id")));
    let _running = book.begin(key("now"));

    let reports = book.reports();
    assert_eq!(reports.len(), REMEMBERED + 1);
    let names: Vec<&str> = reports.iter().map(|it| it.reference.as_str()).collect();
    assert_eq!(names[..3], ["now", "good", "bad"]);
    let ends: Vec<&PullEnd> = reports.iter().filter_map(|it| it.end.as_ref()).collect();
    assert_eq!(ends[0].at, Timestamp(9));
    assert_eq!(ends[0].outcome, Ok(Digest::sha256(b"id")));
    assert_eq!(ends[1].outcome, Err("no such image".into()));
    assert!(ends[2].outcome.as_ref().unwrap_err().starts_with("stopped"));
}

#[test]
fn the_tally_knows_every_end_and_every_byte() {
    let (book, _clock) = book();
    for _ in 0..REMEMBERED {
        book.begin(key("good")).end(&Ok(Digest::sha256(b"id")));
    }
    drop(book.begin(key("left")));
    for _ in 0..2 {
        let pull = book.begin(key("bad"));
        pull.layers(&[layer("one", 100)]);
        let meter = pull.meter(&Digest::sha256(b"one"));
        meter.received(10, "https://mirror");
        pull.end(&Err(Error::unavailable("away")));
    }
    let running = book.begin(key("now"));
    running.layers(&[layer("one", 100)]);
    let meter = running.meter(&Digest::sha256(b"one"));
    meter.received(7, "https://mirror");

    let tally = book.tally();

    assert_eq!(tally.fetched, 27);
    assert_eq!(
        tally.ended,
        [
            (Ok(()), 32),
            (Err(Kind::Cancelled), 1),
            (Err(Kind::Unavailable), 2)
        ]
    );
}
