//! The pump on real FIFOs, written to as a shim does.

mod kill;
mod load;
mod quotas;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::config::Config;
use crate::model::clock::SystemClock;
use crate::model::{Kind, SandboxId};
use crate::sys::fifo;

const LIMIT: Duration = Duration::from_secs(20);

/// A pod's directory with one container's FIFOs and log.
struct Bed {
    root: PathBuf,
    pumps: Pumps,
    pod: SandboxId,
    _dir: Option<tempfile::TempDir>,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        fifo::make(&root.join("stdout")).unwrap();
        fifo::make(&root.join("stderr")).unwrap();
        Self {
            _dir: Some(dir),
            ..Self::at(&root)
        }
    }

    fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            pumps: Pumps::new(Arc::new(SystemClock), Config::default().logs.quota),
            pod: SandboxId::generate().unwrap(),
            _dir: None,
        }
    }

    fn log(&self) -> PathBuf {
        self.root.join("logs/app/0.log")
    }

    fn target(&self) -> LogTarget {
        let logs = self.root.join("logs");
        LogTarget::new(logs.to_str().unwrap(), "app/0.log").unwrap()
    }

    fn fifos(&self) -> Fifos {
        Fifos {
            stdout: self.root.join("stdout"),
            stderr: Some(self.root.join("stderr")),
        }
    }

    async fn start_with(&self, options: PumpOptions) -> LogPump {
        let fifos = self.fifos();
        let started = self.pumps.start(&self.pod, self.target(), &fifos, options);
        started.await.unwrap()
    }

    async fn start(&self) -> LogPump {
        self.start_with(PumpOptions::default()).await
    }

    /// A shim's write end; it opens both ends of both FIFOs, and so do we until the pair is dropped.
    fn shim_end(&self, stream: &str) -> ShimEnd {
        let path = self.root.join(stream);
        ShimEnd {
            _keeper: fifo::hold_open(&path).unwrap(),
            path,
        }
    }

    fn records(&self) -> Vec<Record> {
        let text = std::fs::read(self.log()).unwrap();
        assert!(text.is_empty() || text.ends_with(b"\n"), "torn end");
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(Record::parse)
            .collect()
    }

    /// Streams, tags and contents, as text.
    fn shown(&self) -> Vec<String> {
        let show = |record: Record| {
            let content = String::from_utf8(record.content).unwrap();
            format!("{} {} {content}", record.stream, record.tag)
        };
        self.records().into_iter().map(show).collect()
    }
}

struct ShimEnd {
    path: PathBuf,
    _keeper: std::os::fd::OwnedFd,
}

impl ShimEnd {
    /// A blocking writer.
    fn writer(&self) -> File {
        File::options().write(true).open(&self.path).unwrap()
    }
}

struct Record {
    stream: String,
    tag: String,
    content: Vec<u8>,
}

impl Record {
    fn parse(line: &[u8]) -> Self {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let mut text = || String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
        let time = text();
        assert!(
            time.len() == 30 && time.ends_with('Z'),
            "torn record: {time}"
        );
        let (stream, tag) = (text(), text());
        assert!(tag == "F" || tag == "P", "torn record");
        let content = parts.next().unwrap().to_vec();
        Self {
            stream,
            tag,
            content,
        }
    }
}

/// Waits for `fact`, which another thread brings about.
async fn eventually(what: &str, mut fact: impl FnMut() -> bool) {
    let began = Instant::now();
    while !fact() {
        assert!(began.elapsed() < LIMIT, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn both_streams_are_in_the_log_when_finish_returns() {
    let bed = Bed::new();
    let pump = bed.start().await;
    let (out, err) = (bed.shim_end("stdout"), bed.shim_end("stderr"));
    out.writer().write_all(b"one\r\n\ntwo\n").unwrap();
    eventually("stdout", || bed.records().len() == 3).await;
    err.writer().write_all(b"no newline").unwrap();
    drop((out, err));

    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    let wanted = [
        "stdout F one",
        "stdout F ",
        "stdout F two",
        "stderr P no newline",
    ];
    assert_eq!(bed.shown(), wanted);
    assert_eq!(pump.stats().records, 4);
    assert_eq!(pump.stats().bytes, 20);
}

#[tokio::test]
async fn an_incomplete_line_is_seen_by_subscribers_at_once_and_logged_when_complete() {
    let bed = Bed::new();
    let pump = bed.start().await;
    let mut attached = pump.subscribe();
    let out = bed.shim_end("stdout");

    out.writer().write_all(b"$ ").unwrap();
    let prompt = News::Output(Stream::Stdout, "$ ".into());
    assert_eq!(attached.next().await, prompt);
    assert!(bed.shown().is_empty());
    out.writer().write_all(b"ls\n").unwrap();
    let typed = News::Output(Stream::Stdout, "ls\n".into());
    assert_eq!(attached.next().await, typed);

    eventually("the line", || bed.shown() == ["stdout F $ ls"]).await;
    drop(out);
    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);
    assert_eq!(attached.next().await, News::End(End::Finished));
}

#[tokio::test]
async fn a_successor_finds_what_was_not_logged() {
    let bed = Bed::new();
    let out = bed.shim_end("stdout");
    let first = bed.start().await;
    out.writer().write_all(b"one\ntw").unwrap();
    eventually("the first line", || bed.shown().len() == 1).await;
    drop(first);
    out.writer().write_all(b"o\n").unwrap();

    let second = bed.start().await;
    drop(out);
    second.finish(LIMIT).await;

    assert_eq!(bed.shown(), ["stdout F one", "stdout F two"]);
}

#[tokio::test]
async fn a_stream_that_someone_keeps_open_is_not_waited_for() {
    let bed = Bed::new();
    let pump = bed.start().await;
    let out = bed.shim_end("stdout");
    out.writer().write_all(b"last words").unwrap();
    let began = Instant::now();

    assert_eq!(pump.finish(LIMIT).await, Drained::WriterRemains);

    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(bed.shown(), ["stdout P last words"]);
    // A process that never stops talking ends with the limit.
    let pump = bed.start().await;
    let mut chatty = out.writer();
    std::thread::spawn(move || while chatty.write_all(b"and more\n").is_ok() {});
    let began = Instant::now();
    let drained = pump.finish(Duration::from_millis(400)).await;
    assert_eq!(drained, Drained::WriterRemains);
    assert!(began.elapsed() < Duration::from_secs(2));
    let mut rest = File::open(bed.root.join("stdout")).unwrap();
    drop(out);
    // Lets the thread end: it writes until its pipe breaks.
    std::io::Read::read_exact(&mut rest, &mut [0; 9]).unwrap();
}

#[tokio::test]
async fn a_line_without_end_is_cut_and_nothing_of_it_is_lost() {
    let bed = Bed::new();
    for (limit, longest) in [(16_384, 16_384), (0, 128 * 1024), (100_000, 100_000)] {
        let pump = bed
            .start_with(PumpOptions {
                line_limit: LineLimit::new(limit),
                ..PumpOptions::default()
            })
            .await;
        let out = bed.shim_end("stdout");
        let line: Vec<u8> = (0..1_000_000_u32)
            .map(|n| b'a' + u8::try_from(n % 26).unwrap())
            .collect();
        let (mut writer, written) = (out.writer(), line.clone());
        let write = tokio::task::spawn_blocking(move || writer.write_all(&written).unwrap());
        write.await.unwrap();
        drop(out);
        assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

        let records = bed.records();
        assert!(records.iter().all(|record| record.tag == "P"));
        assert!(records.iter().all(|record| record.content.len() <= longest));
        let joined: Vec<u8> = records
            .into_iter()
            .flat_map(|record| record.content)
            .collect();
        assert!(joined == line);
        std::fs::remove_file(bed.log()).unwrap();
    }
}

#[tokio::test]
async fn without_a_log_path_the_output_is_drained() {
    let bed = Bed::new();
    let (nowhere, options) = (LogTarget::discard(), PumpOptions::default());
    let fifos = bed.fifos();
    let start = bed.pumps.start(&bed.pod, nowhere, &fifos, options);
    let pump = start.await.unwrap();
    let out = bed.shim_end("stdout");

    let mut writer = out.writer();
    let write = tokio::task::spawn_blocking(move || writer.write_all(&[b'x'; 1 << 20]).unwrap());
    write.await.unwrap();
    pump.reopen(LIMIT).await.unwrap();
    drop(out);
    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    assert_eq!(pump.stats().bytes, 1 << 20);
    assert!(!bed.root.join("logs").exists());
}

#[tokio::test]
async fn a_log_path_that_leads_elsewhere_fails_the_start_or_is_tried_again() {
    let bed = Bed::new();
    std::fs::create_dir_all(bed.root.join("logs/app")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", bed.log()).unwrap();
    let (fifos, mut options) = (bed.fifos(), PumpOptions::default());

    let started = bed.pumps.start(&bed.pod, bed.target(), &fifos, options);
    let refused = started.await;
    assert_eq!(refused.unwrap_err().kind(), Kind::FailedPrecondition);

    options.requires_file = false;
    let pump = bed.start_with(options).await;
    let out = bed.shim_end("stdout");
    out.writer().write_all(b"dropped\n").unwrap();
    eventually("dropped", || pump.stats().dropped.records == 1).await;
    std::fs::remove_file(bed.log()).unwrap();
    pump.reopen(LIMIT).await.unwrap();
    out.writer().write_all(b"kept\n").unwrap();
    drop(out);
    pump.finish(LIMIT).await;
    assert_eq!(bed.shown(), ["stdout F kept"]);
}

#[tokio::test]
async fn threads_and_descriptors_go_with_the_last_pump() {
    let bed = Bed::new();
    let own_threads = || {
        let name = format!("log-{}", &bed.pod.as_str()[..8]);
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .filter(|comm| comm.trim() == name)
            .count()
    };
    let first = bed.start().await;
    let second = bed.start().await;
    eventually("one thread for both", || own_threads() == 1).await;

    drop(first);
    assert_eq!(second.finish(LIMIT).await, Drained::Complete);
    drop(second);

    eventually("no thread", || own_threads() == 0).await;
}

#[tokio::test]
async fn a_fifo_of_tiny_pieces_does_not_stall_its_writer() {
    let bed = Bed::new();
    let pump = bed.start().await;
    let out = bed.shim_end("stdout");
    let writer = out.writer();
    // Spliced bytes take a page each: the FIFO has no room long before a line is complete.
    let splice = tokio::task::spawn_blocking(move || {
        use nix::fcntl::{SpliceFFlags, splice};
        let (read, write) = nix::unistd::pipe().unwrap();
        for _ in 0..200 {
            nix::unistd::write(&write, b"x").unwrap();
            let moved = splice(&read, None, &writer, None, 1, SpliceFFlags::empty());
            assert_eq!(moved, Ok(1));
        }
    });
    splice.await.unwrap();
    drop(out);

    assert_eq!(pump.finish(LIMIT).await, Drained::Complete);

    let contents = bed.records().into_iter().flat_map(|record| record.content);
    assert_eq!(contents.count(), 200);
}
