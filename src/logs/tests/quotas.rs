//! Containers that print more than they may.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::config::{LogQuota, OverQuota};

fn rate(bytes_per_second: u64, over: OverQuota) -> LogQuota {
    LogQuota {
        bytes_per_second: NonZeroU64::new(bytes_per_second),
        file_bytes: None,
        over,
    }
}

fn size(file_bytes: u64, over: OverQuota) -> LogQuota {
    LogQuota {
        bytes_per_second: None,
        file_bytes: NonZeroU64::new(file_bytes),
        over,
    }
}

/// Lines that a reader can check: `line 0`, `line 1` and so on.
fn numbered(range: std::ops::Range<u64>) -> Vec<u8> {
    let lines: Vec<String> = range.map(|n| format!("line {n}\n")).collect();
    lines.concat().into_bytes()
}

/// Writes as a process does, which may have to wait.
fn write(out: &ShimEnd, bytes: Vec<u8>) -> tokio::task::JoinHandle<()> {
    let mut writer = out.writer();
    tokio::task::spawn_blocking(move || writer.write_all(&bytes).unwrap())
}

/// What a gap's line says: lines and bytes.
fn gap(content: &str) -> Option<(u64, u64)> {
    let rest = content.strip_prefix("podwright: ")?;
    let (lines, rest) = rest.split_once(" lines (")?;
    let (bytes, _) = rest.split_once(" bytes) dropped: over logs.")?;
    Some((lines.parse().unwrap(), bytes.parse().unwrap()))
}

/// Goes through log lines of [`numbered`] output: each is there in its turn, or a gap's line in its place counts it.
/// Returns the number of the next line, and how many are missing.
fn follow(shown: &[String], mut next: u64) -> (u64, u64) {
    let mut missing = 0;
    for line in shown {
        let content = line.strip_prefix("stdout F ").unwrap();
        if let Some((lines, bytes)) = gap(content) {
            let wanted = numbered(next..next + lines).len();
            assert_eq!(u64::try_from(wanted).unwrap(), bytes, "{line}");
            next += lines;
            missing += lines;
        } else if content != governor::FILE_IS_FULL {
            assert_eq!(content, format!("line {next}"));
            next += 1;
        }
    }
    (next, missing)
}

/// The file's length, which grows no more.
fn length(bed: &Bed) -> u64 {
    std::fs::metadata(bed.log()).unwrap().len()
}

#[tokio::test]
async fn lines_beyond_the_rate_are_dropped_and_counted_where_they_would_stand() {
    let bed = Bed::new();
    bed.pumps.govern(rate(50_000, OverQuota::Drop));
    let pump = bed.start().await;
    let mut attached = pump.subscribe();
    let out = bed.shim_end("stdout");

    write(&out, numbered(0..20_000)).await.unwrap();
    drop(out);
    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    let (count, missing) = follow(&bed.shown(), 0);
    assert_eq!(count, 20_000);
    assert!(missing > 10_000, "{missing}");
    let stats = pump.stats();
    assert_eq!((stats.records, stats.over_rate.records), (20_000, missing));
    assert_eq!((stats.dropped.records, stats.holds), (0, 0));
    assert_eq!(bed.pumps.totals().over_rate, missing);
    // Who is attached sees everything.
    let mut heard = 0;
    while let News::Output(_, bytes) = attached.next().await {
        heard += bytes.len();
    }
    assert_eq!(heard, numbered(0..20_000).len());
}

#[tokio::test]
async fn a_container_that_is_blocked_loses_nothing() {
    let bed = Bed::new();
    bed.pumps.govern(rate(1_000_000, OverQuota::Block));
    let pump = bed.start().await;
    let out = bed.shim_end("stdout");

    write(&out, numbered(0..40_000)).await.unwrap();
    drop(out);
    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    assert_eq!(follow(&bed.shown(), 0), (40_000, 0));
    let stats = pump.stats();
    assert!(stats.holds > 0);
    assert_eq!((stats.over_rate.records, stats.held_for), (0, None));
}

#[tokio::test]
async fn a_full_file_takes_no_more_until_it_is_rotated_and_the_next_says_what_is_missing() {
    let bed = Bed::new();
    bed.pumps.govern(size(10_000, OverQuota::Drop));
    let pump = bed.start().await;
    let (out, old) = (bed.shim_end("stdout"), bed.root.join("old.log"));
    write(&out, numbered(0..1_000)).await.unwrap();
    eventually("all taken", || pump.stats().records == 1_000).await;
    let shown = bed.shown();
    assert_eq!(
        shown.last().unwrap(),
        &format!("stdout F {}", governor::FILE_IS_FULL)
    );
    assert!((10_000..10_200).contains(&length(&bed)), "{}", length(&bed));
    let (next, _) = follow(&shown, 0);

    std::fs::rename(bed.log(), &old).unwrap();
    pump.reopen(LIMIT).await.unwrap();
    let first = bed.shown();
    write(&out, numbered(1_000..1_003)).await.unwrap();
    drop(out);
    pump.finish(LIMIT).await;

    let missing = 1_000 - next;
    assert_eq!(first.len(), 1);
    assert_eq!(follow(&bed.shown(), next), (1_003, missing));
    assert_eq!(pump.stats().over_size.records, missing);
}

#[tokio::test]
async fn a_full_file_blocks_the_container_until_it_is_rotated_or_the_limit_is_lifted() {
    let bed = Bed::new();
    bed.pumps.govern(size(10_000, OverQuota::Block));
    let pump = bed.start().await;
    let out = bed.shim_end("stdout");
    let lines = 60_000;
    let written = write(&out, numbered(0..lines));
    let mut next = 0;
    for turn in 0..3 {
        eventually("held", || pump.stats().holds == turn + 1).await;
        let before = pump.stats();
        assert!(before.held_for.is_some());
        assert!((10_000..10_100).contains(&length(&bed)), "{}", length(&bed));
        next = follow(&bed.shown(), next).0;
        assert_eq!(next, before.records);
        std::fs::rename(bed.log(), bed.root.join("old.log")).unwrap();
        pump.reopen(LIMIT).await.unwrap();
    }
    eventually("held", || pump.stats().holds == 4).await;
    assert!(!written.is_finished());

    bed.pumps.govern(size(100_000_000, OverQuota::Block));
    written.await.unwrap();
    drop(out);

    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);
    assert_eq!(follow(&bed.shown(), next), (lines, 0));
}

#[tokio::test]
async fn the_end_of_a_blocked_container_is_seen_with_all_that_it_had_written() {
    let bed = Bed::new();
    bed.pumps.govern(size(1_000, OverQuota::Block));
    let pump = bed.start().await;
    let out = bed.shim_end("stdout");
    write(&out, numbered(0..5_000)).await.unwrap();
    eventually("held", || pump.stats().held_for.is_some()).await;
    drop(out);

    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    assert_eq!(follow(&bed.shown(), 0), (5_000, 0));
}

#[tokio::test]
async fn a_blocked_container_is_left_as_it_is_for_a_successor() {
    let bed = Bed::new();
    bed.pumps.govern(size(1_000, OverQuota::Block));
    let first = bed.start().await;
    let out = bed.shim_end("stdout");
    write(&out, numbered(0..5_000)).await.unwrap();
    eventually("held", || first.stats().held_for.is_some()).await;
    drop(first);

    let second = bed.start().await;
    eventually("held again", || second.stats().held_for.is_some()).await;
    assert_eq!(second.stats().records, 0);
    bed.pumps.govern(size(1_000_000, OverQuota::Block));
    drop(out);
    second.finish(LIMIT).await;

    assert_eq!(follow(&bed.shown(), 0), (5_000, 0));
}

#[tokio::test]
async fn a_line_that_is_cut_by_the_quota_is_ended_for_its_readers() {
    let bed = Bed::new();
    bed.pumps.govern(rate(20_000, OverQuota::Drop));
    let pump = bed.start().await;
    let out = bed.shim_end("stdout");
    let mut lines = vec![b'x'; 200_000];
    lines.extend_from_slice(b"\nnext\n");

    write(&out, lines).await.unwrap();
    drop(out);
    pump.finish(LIMIT).await;

    let records = bed.records();
    let (last, line) = records.split_last().unwrap();
    let (end, pieces) = line.split_last().unwrap();
    assert!(pieces.iter().all(|piece| piece.tag == "P"));
    assert_eq!((end.tag.as_str(), end.content.len()), ("F", 0));
    let text = String::from_utf8(last.content.clone()).unwrap();
    let kept: usize = pieces.iter().map(|piece| piece.content.len()).sum();
    let missing = u64::try_from(200_006 - kept).unwrap();
    assert_eq!((last.tag.as_str(), gap(&text)), ("F", Some((2, missing))));
}

#[tokio::test]
async fn a_line_that_a_predecessor_began_is_ended_before_the_rest_is_dropped() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.log().parent().unwrap()).unwrap();
    let time = "2024-01-31T12:00:00.000000042Z";
    let begun = format!("{time} stdout P begun\n{time} stderr F whole\n");
    std::fs::write(bed.log(), begun).unwrap();
    bed.pumps.govern(size(10, OverQuota::Drop));
    let pump = bed.start().await;
    let (out, err) = (bed.shim_end("stdout"), bed.shim_end("stderr"));

    write(&out, b"rest\n".to_vec()).await.unwrap();
    eventually("the rest", || pump.stats().records == 1).await;
    write(&err, b"more\n".to_vec()).await.unwrap();
    eventually("more", || pump.stats().records == 2).await;

    let full = governor::FILE_IS_FULL;
    let wanted = [
        "stdout P begun".to_owned(),
        "stderr F whole".to_owned(),
        "stdout F ".to_owned(),
        format!("stdout F {full}"),
        format!("stderr F {full}"),
    ];
    assert_eq!(bed.shown(), wanted);
    drop((out, err));
}

#[tokio::test]
async fn a_file_is_said_to_be_full_once_however_often_we_start_anew() {
    let bed = Bed::new();
    bed.pumps.govern(size(10_000, OverQuota::Drop));
    let out = bed.shim_end("stdout");
    for life in 0..3_u64 {
        let pump = bed.start().await;
        let lines = life * 1_000..(life + 1) * 1_000;
        write(&out, numbered(lines)).await.unwrap();
        eventually("all taken", || pump.stats().records == 1_000).await;
        drop(pump);
        let gaps = |line: &String| line.contains(" dropped: over ");
        let told = || bed.shown().iter().filter(|line| gaps(line)).count();
        eventually("the gap", || u64::try_from(told()).unwrap() == life + 1).await;
    }

    let shown = bed.shown();
    let full = format!("stdout F {}", governor::FILE_IS_FULL);
    assert_eq!(shown.iter().filter(|line| **line == full).count(), 1);
    assert_eq!(follow(&shown, 0).0, 3_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_starves_nobody_in_the_same_pod() {
    for over in [None, Some(OverQuota::Drop), Some(OverQuota::Block)] {
        let (bed, other) = (Bed::new(), Bed::new());
        if let Some(over) = over {
            bed.pumps.govern(rate(4_000_000, over));
        }
        let flooded = bed.start().await;
        let (fifos, options) = (other.fifos(), PumpOptions::default());
        let started = bed.pumps.start(&bed.pod, other.target(), &fifos, options);
        let quiet = started.await.unwrap();
        let (flood, drip) = (bed.shim_end("stdout"), other.shim_end("stdout"));
        let (stop, printed) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (until, count, mut writer) = (Arc::clone(&stop), Arc::clone(&printed), flood.writer());
        let flooding = tokio::task::spawn_blocking(move || {
            while !until.load(Ordering::Relaxed) {
                writer.write_all(&b"y\n".repeat(2_048)).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });

        // Each line is printed when the one before is in the log, and more of the flood came in between.
        let mut out = drip.writer();
        for n in 0..50_u64 {
            let before = printed.load(Ordering::Relaxed);
            eventually("flood", || printed.load(Ordering::Relaxed) > before).await;
            out.write_all(&numbered(n..n + 1)).unwrap();
            eventually("a line", || quiet.stats().records == n + 1).await;
        }

        assert_eq!(follow(&other.shown(), 0), (50, 0));
        stop.store(true, Ordering::Relaxed);
        bed.pumps.govern(rate(0, OverQuota::Drop));
        flooding.await.unwrap();
        drop((flood, drip, out));
        flooded.finish(LIMIT).await;
        quiet.finish(LIMIT).await;
    }
}
