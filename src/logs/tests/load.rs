//! Reopening and subscribing while numbered lines come at full speed.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Prints `word n` lines until told to stop; returns how many.
fn print_numbers(
    mut out: File,
    word: &'static str,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<u64> {
    tokio::task::spawn_blocking(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            out.write_all(format!("{word} {count}\n").as_bytes())
                .unwrap();
            count += 1;
        }
        count
    })
}

fn assert_all_numbers(contents: &[String], word: &str, count: u64) {
    let numbers: Vec<u64> = contents
        .iter()
        .filter_map(|content| content.strip_prefix(word)?.trim().parse().ok())
        .collect();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn reopening_at_full_speed_loses_and_tears_nothing() {
    let bed = Bed::new();
    let pump = bed.start().await;
    let (out, err) = (bed.shim_end("stdout"), bed.shim_end("stderr"));
    let stop = Arc::new(AtomicBool::new(false));
    let printed = [
        print_numbers(out.writer(), "out", Arc::clone(&stop)),
        print_numbers(err.writer(), "err", Arc::clone(&stop)),
    ];
    let mut files = Vec::new();
    for turn in 0..10 {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let old = bed.root.join(format!("{turn}.log"));
        std::fs::rename(bed.log(), &old).unwrap();
        pump.reopen(LIMIT).await.unwrap();
        assert!(bed.log().exists());
        files.push((old.clone(), std::fs::metadata(&old).unwrap().len()));
    }
    stop.store(true, Ordering::Relaxed);
    let [out_count, err_count] = printed;
    let (out_count, err_count) = (out_count.await.unwrap(), err_count.await.unwrap());
    drop((out, err));
    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    files.push((bed.log(), std::fs::metadata(bed.log()).unwrap().len()));
    let mut contents = Vec::new();
    for (path, length) in files {
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            u64::try_from(text.len()).unwrap(),
            length,
            "grew after reopen"
        );
        assert!(text.is_empty() || text.ends_with('\n'));
        for line in text.lines() {
            contents.push(String::from_utf8(Record::parse(line.as_bytes()).content).unwrap());
        }
    }
    assert_all_numbers(&contents, "out", out_count);
    assert_all_numbers(&contents, "err", err_count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_never_reads_delays_nobody() {
    let bed = Bed::new();
    let pump = bed.start().await;
    let mut deaf = pump.subscribe();
    let out = bed.shim_end("stdout");
    let mut writer = out.writer();
    let write = tokio::task::spawn_blocking(move || {
        let mut lines = vec![b'x'; 64 * 1024];
        for end in lines.iter_mut().skip(1023).step_by(1024) {
            *end = b'\n';
        }
        for _ in 0..160 {
            writer.write_all(&lines).unwrap();
        }
    });
    write.await.unwrap();
    drop(out);

    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    assert_eq!(pump.stats().records, 160 * 64);
    let end = loop {
        if let News::End(end) = deaf.next().await {
            break end;
        }
    };
    assert_eq!(end, End::TooSlow);
}
