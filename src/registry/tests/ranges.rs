//! Long blobs in pieces: what holds for one stream holds for them.

use proptest::prelude::*;

use super::*;

const PIECE: usize = 100_000;
const SIZE: usize = 1_000_003;

/// Pieces of [`PIECE`] bytes, and room for three of them.
fn split() -> Settings {
    Settings {
        range_size: PIECE as u64,
        enough_rate: None,
        range_memory: 320_000,
        ..settings()
    }
}

/// No two places look alike.
fn bytes(size: usize) -> Vec<u8> {
    let mixed = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
    (0..size).map(|at| mixed(at as u64)).collect()
}

fn shelf(size: usize) -> (Shelf, Descriptor, Vec<u8>) {
    let bytes = bytes(size);
    let mut shelf = Shelf::default();
    let digest = shelf.blob(bytes.clone());
    (shelf, layer(digest, size), bytes)
}

/// First and last byte of each request, as they were asked for; none where all was.
fn ranges(stub: &Stub) -> Vec<Option<(usize, usize)>> {
    let parse = |text: &str| {
        let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().unwrap_or(usize::MAX)))
    };
    let seen = stub.seen();
    seen.iter()
        .map(|seen| parse(seen.header("range")?))
        .collect()
}

fn start(seen: &Seen) -> usize {
    let range = seen.header("range").unwrap_or("bytes=0-");
    let start = range.trim_start_matches("bytes=").split('-').next();
    start.unwrap().parse().unwrap()
}

async fn opened(settings: Settings, stub: &Stub) -> Repository {
    open_with(settings, stub, ":v1", &Credentials::anonymous()).await
}

/// A blob of [`SIZE`] bytes is read from `stub` whole and in order.
async fn comes_whole(
    script: impl Fn(usize, &Seen, Reply) -> Reply + Send + Sync + 'static,
) -> Stub {
    let (shelf, layer, bytes) = shelf(SIZE);
    let stub = counting(shelf, script);
    let repository = opened(split(), &stub).await;
    let got = drain(repository.blob(layer, 0)).await.unwrap();
    assert!(got == bytes, "{:?}", ranges(&stub));
    assert!(room_is_free(&repository));
    stub
}

fn room_is_free(repository: &Repository) -> bool {
    repository.inner.room.is_free()
}

#[tokio::test]
async fn a_long_blob_comes_in_pieces_of_which_several_are_asked_for_at_once() {
    let stub = comes_whole(|_, _, reply| reply.after(Duration::from_millis(20))).await;

    let mut asked = ranges(&stub);
    asked.sort();
    let want: Vec<_> = (0..=10)
        .map(|nth| nth * PIECE)
        .map(|from| {
            let to = from + PIECE - 1;
            Some((from, if to < SIZE { to } else { usize::MAX }))
        })
        .collect();
    assert_eq!(asked, want);
}

#[tokio::test]
async fn a_blob_of_few_pieces_and_a_room_too_small_mean_one_stream() {
    let no_room = Settings {
        range_memory: 4096,
        ..split()
    };
    let off = Settings {
        range_size: 0,
        ..split()
    };
    for (settings, size) in [(split(), 3 * PIECE), (no_room, SIZE), (off, SIZE)] {
        let (shelf, layer, bytes) = shelf(size);
        let stub = Stub::start(move |seen| shelf.answer(seen));
        let repository = opened(settings, &stub).await;
        let got = drain(repository.blob(layer, 0)).await.unwrap();
        assert!(got == bytes);
        assert_eq!(ranges(&stub), [None]);
    }
}

#[tokio::test]
async fn a_host_that_is_fast_enough_alone_sends_all_the_rest_in_one_answer() {
    const PIECE: usize = 1 << 20;
    for (enough, requests) in [(1, 2), (1 << 50, 8)] {
        let (shelf, layer, bytes) = shelf(8 * PIECE);
        let stub = Stub::start(move |seen| shelf.answer(seen));
        let settings = Settings {
            range_size: PIECE as u64,
            range_memory: 4 * PIECE as u64,
            enough_rate: Some(enough),
            ..settings()
        };
        let repository = opened(settings, &stub).await;
        let got = drain(repository.blob(layer, 0)).await.unwrap();
        assert!(got == bytes);
        assert_eq!(stub.seen().len(), requests, "{:?}", ranges(&stub));
    }
}

#[tokio::test]
async fn a_host_that_confuses_every_part_is_asked_for_the_whole() {
    comes_whole(|_, seen, reply| match start(seen) {
        0 => reply,
        _ => Reply::new(206)
            .header("Content-Range", format!("bytes 5-14/{SIZE}"))
            .body("0123456789"),
    })
    .await;
}

#[tokio::test]
async fn what_was_begun_goes_on_at_its_offset() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let stub = Stub::start(move |seen| shelf.answer(seen));
    let repository = opened(split(), &stub).await;

    let got = drain(repository.blob(layer, 123_457)).await.unwrap();

    assert!(got == bytes[123_457..]);
    let asked = ranges(&stub);
    assert_eq!(asked[0], Some((123_457, 223_456)));
    assert!(asked.len() == 9, "{asked:?}");
}

#[tokio::test]
async fn a_host_that_sends_the_whole_is_remembered() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let stub = Stub::start(move |seen| {
        let mut whole = seen.clone();
        whole.headers.remove("range");
        shelf.answer(&whole)
    });
    let repository = opened(split(), &stub).await;
    for offset in [0, 0, 400_000_usize] {
        let blob = repository.blob(layer.clone(), offset as u64);
        let got = drain(blob).await.unwrap();
        assert!(got == bytes[offset..]);
    }
    let asked = ranges(&stub);
    assert_eq!(
        asked,
        [Some((0, PIECE - 1)), None, Some((400_000, usize::MAX))]
    );
}

#[tokio::test]
async fn a_host_that_refuses_or_confuses_ranges_sends_the_whole() {
    let other = |from: usize| {
        Reply::new(206)
            .header("Content-Range", format!("bytes {from}-{}/{SIZE}", from + 9))
            .body("0123456789")
    };
    let odd = [
        Reply::new(416),
        Reply::new(501),
        Reply::new(206).body("no range"),
        other(7),
        Reply::new(206)
            .header("Content-Encoding", "gzip")
            .header("Content-Range", format!("bytes 0-9/{SIZE}"))
            .body("0123456789"),
        Reply::new(206)
            .header("Content-Range", "bytes 0-9/10")
            .body("0123456789"),
    ];
    for odd in odd {
        let stub =
            comes_whole(move |nth, _, reply| if nth == 0 { odd.clone() } else { reply }).await;
        assert_eq!(ranges(&stub), [Some((0, PIECE - 1)), None]);
    }
}

#[tokio::test]
async fn a_piece_that_is_not_what_was_asked_for_is_asked_for_again() {
    // Behind one name there may be servers of several kinds.
    let wholes = |nth: usize, seen: &Seen, reply: Reply| match (nth, start(seen)) {
        (1..=3, 1..) => Reply::new(200).body(bytes(SIZE)),
        _ => reply,
    };
    comes_whole(wholes).await;
    comes_whole(|nth, seen, reply| match (nth, start(seen)) {
        (1..=3, 1..) => Reply::new(206)
            .header("Content-Range", format!("bytes 5-14/{SIZE}"))
            .body("0123456789"),
        _ => reply,
    })
    .await;
}

#[tokio::test]
async fn pieces_that_are_short_or_break_off_go_on_where_they_ended() {
    let short = |_: usize, seen: &Seen, reply: Reply| {
        let from = start(seen);
        if !from.is_multiple_of(PIECE) || SIZE - from <= PIECE {
            return reply;
        }
        let to = from + 70_000;
        Reply::new(206)
            .header("Content-Range", format!("bytes {from}-{}/{SIZE}", to - 1))
            .body(&bytes(SIZE)[from..to])
    };
    comes_whole(short).await;
    let stub = comes_whole(|_, seen, reply| match start(seen) % PIECE {
        0 => reply.cut_at(70_000),
        _ => reply,
    })
    .await;
    assert!(ranges(&stub).contains(&Some((370_000, 399_999))));
}

#[tokio::test]
async fn requests_that_are_too_many_become_fewer() {
    let busy = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&busy);
    let stub = comes_whole(move |nth, _, reply| match nth {
        1..=6 => {
            count.fetch_add(1, Ordering::SeqCst);
            Reply::new(429).header("Retry-After", "0")
        }
        _ => reply,
    })
    .await;

    assert!(busy.load(Ordering::SeqCst) >= 3);
    // What nobody waited for was not asked for again and again.
    let asked = ranges(&stub);
    assert!(asked.len() <= 20, "{asked:?}");
    let last = asked.last().unwrap().unwrap();
    assert_eq!(last.1, usize::MAX, "one stream in the end: {asked:?}");
}

#[tokio::test]
async fn a_piece_that_stalls_is_left_to_the_front() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let stub = counting(shelf, |nth, _, reply| match nth {
        2 => reply.stall_at(10_000),
        _ => reply,
    });
    let settings = Settings {
        idle_timeout: Duration::from_millis(200),
        ..split()
    };
    let repository = opened(settings, &stub).await;

    let reading = drain(repository.blob(layer, 0));
    let got = tokio::time::timeout(Duration::from_secs(20), reading).await;

    assert!(got.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn every_piece_may_come_from_another_host() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let upstream_shelf = shelf.clone();
    let mirror = counting(shelf, |nth, _, reply| match nth {
        0..=2 => reply,
        _ => Reply::new(500),
    });
    let upstream = Stub::start(move |seen| upstream_shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let hosts = [&mirror, &upstream].map(|stub| format!("http://{}", stub.authority()));
    let text = format!("server = {:?}\n[host.{:?}]\n", hosts[1], hosts[0]);
    let settings = Settings {
        config_paths: hosts_file(&directory, "host.tld", &text).config_paths,
        ..split()
    };
    let reference = "host.tld/team/app:v1".parse().unwrap();
    let registry = Registry::new(settings);
    let anonymous = Credentials::anonymous();
    let repository = registry.repository(&reference, &anonymous).await.unwrap();

    let mut blob = repository.blob(layer, 0);
    let mut got = Vec::new();
    while let Some(chunk) = blob.next().await.unwrap() {
        got.extend_from_slice(&chunk);
    }

    assert!(got == bytes);
    assert_eq!(blob.host(), upstream.authority());
    assert!(!ranges(&upstream).is_empty());
    assert!(mirror.lines().len() <= 10, "{:?}", mirror.lines());
}

#[tokio::test]
async fn hosts_that_keep_all_pieces_waiting_are_joined_as_seldom_as_for_one_stream() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let upstream_shelf = shelf.clone();
    let mirror = counting(shelf, |nth, _, reply| match nth {
        0 => reply,
        _ => reply.late(),
    });
    let upstream = Stub::start(move |seen| upstream_shelf.answer(seen));
    let directory = tempfile::tempdir().unwrap();
    let hosts = [&mirror, &upstream].map(|stub| format!("http://{}", stub.authority()));
    let text = format!("server = {:?}\n[host.{:?}]\n", hosts[1], hosts[0]);
    let settings = Settings {
        config_paths: hosts_file(&directory, "host.tld", &text).config_paths,
        hedge_after: Duration::from_millis(100),
        header_timeout: Duration::from_secs(1),
        ..split()
    };
    let reference = "host.tld/team/app:v1".parse().unwrap();
    let registry = Registry::new(settings);
    let anonymous = Credentials::anonymous();
    let repository = registry.repository(&reference, &anonymous).await.unwrap();

    let reading = drain(repository.blob(layer, 0));
    let got = tokio::time::timeout(Duration::from_secs(20), reading).await;

    assert!(got.unwrap().unwrap() == bytes);
    let rows = registry.hosts(Timestamp(0));
    let hedges: u64 = rows.iter().map(|row| row.hedges).sum();
    assert!((1..=3).contains(&hedges), "{rows:?}");
}

#[tokio::test]
async fn every_piece_follows_the_redirect_and_shows_no_credentials_there() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let store = Stub::start(move |seen| shelf.answer(seen));
    let target = format!("http://{}", store.authority());
    let registry = Stub::start(move |seen| match seen.header("authorization") {
        Some(_) => Reply::new(307).header("Location", format!("{target}{}?sig=1", seen.path)),
        None => Reply::new(401).header("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let repository = open_with(split(), &registry, ":v1", &password()).await;

    let got = drain(repository.blob(layer, 0)).await.unwrap();

    assert!(got == bytes);
    let seen = store.seen();
    assert_eq!(seen.len(), 11);
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_blob_that_nobody_has_any_more_fails_as_one_stream_does() {
    let (shelf, layer, _) = shelf(SIZE);
    let stub = counting(shelf, |nth, _, reply| match nth {
        0..=2 => reply,
        _ => Reply::new(404),
    });
    let repository = opened(split(), &stub).await;

    let error = drain(repository.blob(layer, 0)).await.unwrap_err();

    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(stub.lines().len() <= 12, "{:?}", stub.lines());
    assert!(room_is_free(&repository));
}

#[tokio::test]
async fn all_blobs_share_the_room_and_a_reader_that_stands_still_stops_nobody() {
    let (shelf, layer, bytes) = shelf(SIZE);
    let stub = Stub::start(move |seen| shelf.answer(seen));
    let repository = opened(split(), &stub).await;
    // It takes all the room, and then nobody reads on.
    let mut idle = repository.blob(layer.clone(), 0);
    for _ in 0..2 {
        idle.next().await.unwrap();
    }
    let filled = async {
        while !repository.inner.room.is_taken() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        never = idle.meanwhile() => match never {},
        () = filled => {}
    }

    let readers = (0..6).map(|_| drain(repository.blob(layer.clone(), 0)));
    let all = futures::future::join_all(readers);
    let all = tokio::time::timeout(Duration::from_secs(30), all).await;

    for got in all.unwrap() {
        assert!(got.unwrap() == bytes);
    }
    drop(idle);
    assert!(room_is_free(&repository));
}

#[tokio::test]
async fn pieces_longer_than_what_is_handed_on_at_a_time_stay_whole() {
    let (shelf, layer, bytes) = shelf(2_000_000);
    let stub = Stub::start(move |seen| shelf.answer(seen));
    let settings = Settings {
        range_size: 500_000,
        range_memory: 1_000_000,
        ..split()
    };
    let repository = opened(settings, &stub).await;
    let mut blob = repository.blob(layer, 0);
    let mut got = Vec::new();
    while let Some(chunk) = blob.next().await.unwrap() {
        got.extend_from_slice(&chunk);
        tokio::task::yield_now().await;
    }
    assert!(got == bytes);
    assert!(room_is_free(&repository));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever the order in which pieces arrive and however often they break off, the bytes are the same.
    #[test]
    fn any_order_of_arrival_gives_the_same_bytes(
        size in 4 * PIECE..SIZE,
        offset in 0..PIECE,
        fates in prop::collection::vec((0..40_u64, prop::option::of(66_000..PIECE)), 24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (shelf, layer, bytes) = shelf(size);
        let stub = counting(shelf, move |nth, _, reply| match fates.get(nth) {
            Some((delay, cut)) => {
                let reply = reply.after(Duration::from_millis(*delay));
                cut.map_or(reply.clone(), |at| reply.cut_at(at))
            }
            None => reply,
        });
        let got = runtime.block_on(async {
            let repository = opened(split(), &stub).await;
            drain(repository.blob(layer, offset as u64)).await
        });
        prop_assert!(got.unwrap() == bytes[offset..], "{:?}", ranges(&stub));
    }
}
