//! kill -9 of the pumping process, again and again, while lines come at full speed.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const KILLS: u32 = 20;
/// Tells a copy of this test program to be the pump, and where.
const CHILD: &str = "PODWRIGHT_TEST_PUMP";

/// The process that is killed; does nothing unless it is started as such.
#[tokio::test]
async fn pump_child() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    let bed = Bed::at(Path::new(&root));
    let pump = bed.start().await;
    let mut attached = pump.subscribe();
    while !matches!(attached.next().await, News::End(_)) {}
    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);
}

fn start_child(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "logs::tests::kill::pump_child"])
        .env(CHILD, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Prints numbered lines of changing length until told to stop, in writes that cut lines anywhere.
fn print_lines(mut out: File, stop: &AtomicBool) -> u64 {
    let mut text = Vec::new();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        text.extend_from_slice(format!("{count} ").as_bytes());
        let length = usize::try_from(count % 97).unwrap();
        text.extend(std::iter::repeat_n(b'.', length));
        text.push(b'\n');
        count += 1;
        if text.len() > 5_000 {
            out.write_all(&text[..4_999]).unwrap();
            text.drain(..4_999);
        }
    }
    out.write_all(&text).unwrap();
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_leave_no_gap_and_no_torn_record() {
    let bed = Bed::new();
    let out = bed.shim_end("stdout");
    let err = bed.shim_end("stderr");
    let stop = Arc::new(AtomicBool::new(false));
    let mut child = start_child(&bed.root);
    let (writer, until) = (out.writer(), Arc::clone(&stop));
    let printed = tokio::task::spawn_blocking(move || print_lines(writer, &until));

    let mut length = 0;
    let log = bed.log();
    let size = || std::fs::metadata(&log).map_or(0, |meta| meta.len());
    for nth in 0..KILLS {
        eventually("the log grows", || size() > length).await;
        tokio::time::sleep(Duration::from_millis(u64::from(nth * 7 % 13))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        length = size();
        child = start_child(&bed.root);
    }
    // The last one must hold the FIFO before the shim's side lets go of it.
    eventually("the log grows", || size() > length).await;
    stop.store(true, Ordering::Relaxed);
    let count = printed.await.unwrap();
    drop((out, err));
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert!(status.success());

    let mut next = 0;
    for record in bed.records() {
        assert_eq!(record.tag, "F");
        let content = String::from_utf8(record.content).unwrap();
        let (number, dots) = content.split_once(' ').unwrap();
        let number: u64 = number.parse().unwrap();
        assert_eq!(u64::try_from(dots.len()).unwrap(), number % 97);
        assert!(number <= next, "lines {next} to {number} are missing");
        next = next.max(number + 1);
    }
    assert_eq!(next, count);
}
