use std::num::NonZeroU64;

use rstest::rstest;

use super::*;

const RATE: usize = 1_000;

fn quota(over: OverQuota) -> LogQuota {
    LogQuota {
        bytes_per_second: NonZeroU64::new(1_000),
        file_bytes: NonZeroU64::new(1_000_000),
        over,
    }
}

/// A governor whose bucket is full at an instant.
fn governor(over: OverQuota) -> (Governor, Instant) {
    let now = Instant::now() + Duration::from_secs(60);
    (Governor::new(Some(quota(over)), now), now)
}

fn record(tag: Tag, length: usize) -> Candidate {
    Candidate {
        stream: Stream::Stdout,
        tag,
        output: length,
    }
}

/// Asks, and pays for what is written.
fn next(governor: &mut Governor, tag: Tag, length: usize, now: Instant) -> Ruling {
    let ruling = governor.rule(record(tag, length), false, now);
    if matches!(ruling, Ruling::Write(_)) {
        governor.pay(length, now);
    }
    ruling
}

fn is_written(ruling: Ruling) -> bool {
    matches!(ruling, Ruling::Write(_))
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_burst_passes_and_then_lines_are_dropped_until_the_bucket_is_full_again() {
    let (mut governor, now) = governor(OverQuota::Drop);
    for _ in 0..10 {
        assert!(is_written(next(&mut governor, Tag::Full, RATE / 10, now)));
    }
    // Exactly empty: one more passes, on credit.
    assert!(is_written(next(&mut governor, Tag::Full, RATE / 10, now)));
    for at in [0, 500, 1_099] {
        let ruling = next(&mut governor, Tag::Full, 10, now + millis(at));
        assert!(matches!(ruling, Ruling::Drop(_)), "{at}: {ruling:?}");
    }

    let ruling = next(&mut governor, Tag::Full, 10, now + millis(1_100));

    let Ruling::Write(Some(gap)) = ruling else {
        panic!("{ruling:?}")
    };
    assert_eq!(
        gap.to_string(),
        "podwright: 3 lines (30 bytes) dropped: over logs.max_bytes_per_second"
    );
    assert_eq!(governor.take_tally().0.records, 3);
    let after = next(&mut governor, Tag::Full, 10, now + millis(1_100));
    assert_eq!(after, Ruling::Write(None));
}

#[test]
fn over_a_long_time_the_rate_is_what_was_set() {
    for over in [OverQuota::Drop, OverQuota::Block] {
        let (mut governor, start) = governor(over);
        let written = (0..100_000)
            .filter(|ms| is_written(next(&mut governor, Tag::Full, 50, start + millis(*ms))))
            .count();
        let expected = 50 * written / 100;
        assert!(expected.abs_diff(RATE) < RATE / 20, "{over:?}: {expected}");
    }
}

#[test]
fn blocked_output_goes_on_once_a_tenth_of_a_second_is_in_the_bucket() {
    let (mut governor, now) = governor(OverQuota::Block);
    assert!(is_written(next(&mut governor, Tag::Full, RATE + 50, now)));

    let ruling = next(&mut governor, Tag::Full, 10, now);

    assert_eq!(ruling, Ruling::Wait(now + millis(150)));
    let early = next(&mut governor, Tag::Full, 10, now + millis(149));
    assert_eq!(early, ruling);
    assert!(is_written(next(
        &mut governor,
        Tag::Full,
        10,
        now + millis(150)
    )));
    assert_eq!(governor.take_gap(Stream::Stdout), None);
}

#[test]
fn a_line_that_has_begun_is_ended_and_the_rest_of_it_is_dropped() {
    let (mut governor, now) = governor(OverQuota::Drop);
    assert!(is_written(next(&mut governor, Tag::Partial, 2 * RATE, now)));

    let cut = |is_open| {
        Ruling::Drop(Cut {
            is_open: Some(is_open),
            is_full: false,
        })
    };
    assert_eq!(next(&mut governor, Tag::Partial, 10, now), cut(true));
    // The bucket is full again, and yet the rest of the line goes nowhere.
    let later = now + Duration::from_secs(10);
    assert_eq!(next(&mut governor, Tag::Full, 10, later), cut(false));
    let Ruling::Write(Some(gap)) = next(&mut governor, Tag::Full, 10, later) else {
        panic!("no gap")
    };
    assert_eq!((gap.lines, gap.bytes), (1, 20));
}

#[test]
fn only_the_file_knows_whether_a_predecessor_left_a_line_open() {
    let (mut governor, now) = governor(OverQuota::Drop);
    let full = |governor: &mut Governor| governor.rule(record(Tag::Full, 10), true, now);
    let cut = |is_open, is_full| Ruling::Drop(Cut { is_open, is_full });
    assert_eq!(full(&mut governor), cut(None, true));
    assert_eq!(full(&mut governor), cut(Some(false), false));
    let gap = governor.take_gap(Stream::Stdout).unwrap();
    assert_eq!(
        gap.to_string(),
        "podwright: 2 lines (20 bytes) dropped: over logs.max_file_bytes"
    );
    assert_eq!(governor.take_tally().1.bytes, 20);
}

#[test]
fn a_flood_is_dropped_at_a_bounded_rate_that_no_quota_comes_near() {
    let (mut governor, start) = governor(OverQuota::Drop);
    let (mut now, mut read) = (start, 0_u64);
    while now < start + Duration::from_secs(10) {
        match next(&mut governor, Tag::Full, 64 * 1024, now) {
            Ruling::Wait(until) => {
                assert!(until > now && until <= now + 2 * AFTER_FEAST);
                now = until;
            }
            _ => read += 64 * 1024,
        }
    }
    // Ten seconds, and the burst before.
    assert!(read.abs_diff(11 * APPETITE) < APPETITE / 10, "{read}");

    // Whoever ends waits for nothing.
    governor.begin_ending(std::iter::once(64 * 1024));
    let ruling = next(&mut governor, Tag::Full, 10, now);
    assert!(matches!(ruling, Ruling::Drop(_)), "{ruling:?}");
}

#[test]
fn streams_share_the_bucket_and_each_has_its_own_gap() {
    let (mut governor, now) = governor(OverQuota::Drop);
    assert!(is_written(next(&mut governor, Tag::Full, 2 * RATE, now)));
    let mut other = record(Tag::Full, 10);
    other.stream = Stream::Stderr;
    assert!(!is_written(governor.rule(other, false, now)));
    assert_eq!(governor.take_gap(Stream::Stdout), None);
    assert!(governor.take_gap(Stream::Stderr).is_some());
}

#[test]
fn last_words_are_written_beyond_the_quota_up_to_a_limit() {
    let (mut governor, now) = governor(OverQuota::Block);
    assert!(is_written(next(&mut governor, Tag::Full, 2 * RATE, now)));
    governor.begin_ending([1_000, 2_000].into_iter());
    let half = usize::try_from(BEFORE_FIFO).unwrap() + 1_500;
    assert!(is_written(next(&mut governor, Tag::Full, half, now)));
    assert!(is_written(next(&mut governor, Tag::Full, half, now)));
    let ruling = next(&mut governor, Tag::Full, 1, now);
    assert!(matches!(ruling, Ruling::Drop(_)), "{ruling:?}");
}

#[rstest]
#[case(OverQuota::Drop)]
#[case(OverQuota::Block)]
fn another_quota_takes_effect_at_once(#[case] over: OverQuota) {
    let (mut governor, now) = governor(over);
    assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
    assert!(!is_written(next(&mut governor, Tag::Full, 9, now)));

    let none = LogQuota {
        bytes_per_second: None,
        ..quota(over)
    };
    governor.govern(quota(over), now);
    assert!(!is_written(next(&mut governor, Tag::Full, 9, now)));
    governor.govern(none, now);

    assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
    assert!(is_written(next(&mut governor, Tag::Full, 9, now)));
}

#[test]
fn only_a_stream_without_limits_and_traces_is_idle() {
    let (mut governor, now) = governor(OverQuota::Drop);
    assert!(!governor.is_idle(Stream::Stdout, Tag::Full));
    assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
    assert!(!is_written(next(&mut governor, Tag::Partial, 9, now)));
    let none = LogQuota {
        bytes_per_second: None,
        file_bytes: None,
        over: OverQuota::Drop,
    };
    governor.govern(none, now);

    assert!(governor.is_idle(Stream::Stderr, Tag::Full));
    assert!(!governor.is_idle(Stream::Stdout, Tag::Full));
    assert!(!is_written(next(&mut governor, Tag::Full, 9, now)));
    assert!(!governor.is_idle(Stream::Stdout, Tag::Partial));
    let told = next(&mut governor, Tag::Partial, 9, now);
    assert!(matches!(told, Ruling::Write(Some(_))), "{told:?}");
    assert!(governor.is_idle(Stream::Stdout, Tag::Partial));

    // A line that began meanwhile is known to be open.
    governor.govern(quota(OverQuota::Drop), now);
    let Ruling::Drop(cut) = governor.rule(record(Tag::Full, 9), true, now) else {
        panic!("it was not dropped")
    };
    assert_eq!(cut.is_open, Some(true));
}

#[test]
fn output_that_is_not_kept_is_not_governed() {
    let now = Instant::now();
    let mut governor = Governor::new(None, now);
    governor.govern(quota(OverQuota::Block), now);
    assert!(is_written(next(&mut governor, Tag::Full, 9 * RATE, now)));
    assert!(is_written(next(&mut governor, Tag::Full, 9, now)));
    assert_eq!(governor.file_limit(), None);
}
