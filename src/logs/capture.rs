//! The output of a short-lived process (CRI: ExecSync): read to the end, kept up to a limit.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::outflow::{Outflow, When};
use super::pump::Fifos;
use crate::model::Result;

const CHUNK: usize = 16 * 1024;
/// Reads of one stream before the other, and the exit, are looked at again.
const READS: usize = 16;

/// Memory that all captures of the node share: a storm of probes must not take more.
#[derive(Debug)]
pub struct CaptureBudget {
    free: AtomicUsize,
}

impl CaptureBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            free: AtomicUsize::new(bytes),
        })
    }

    /// Takes up to `wanted` bytes; returns how many there were.
    fn take(&self, wanted: usize) -> usize {
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let less = |free: usize| Some(free.saturating_sub(wanted));
        let (Ok(before) | Err(before)) = self.free.fetch_update(set, fetch, less);
        before.min(wanted)
    }
}

/// Gives back to the budget when the output is let go.
#[derive(Debug)]
struct Share {
    budget: Arc<CaptureBudget>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// How much is kept, and how long is waited after the exit.
#[derive(Clone, Copy, Debug)]
pub struct CaptureLimits {
    /// Bytes of both streams together; the rest is read and thrown away, so that the process is never held up.
    pub bytes: usize,
    /// A stream that a child keeps open is left once it was silent for this long after the exit.
    pub quiet: Duration,
    /// After this time it is left even if it talks.
    pub drain: Duration,
}

impl Default for CaptureLimits {
    fn default() -> Self {
        Self {
            bytes: 15 * 1024 * 1024,
            quiet: Duration::from_millis(300),
            drain: Duration::from_millis(900),
        }
    }
}

/// What a process printed.
#[derive(Debug)]
pub struct Captured {
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
    /// Bytes beyond the limit.
    pub discarded: u64,
    /// Whether both streams ended; otherwise some child still holds one.
    pub is_complete: bool,
    share: Share,
}

/// A process's output FIFOs, open for reading. Dropping it closes them.
#[derive(Debug)]
pub struct Capture {
    stdout: Outflow,
    stderr: Outflow,
    limits: CaptureLimits,
    kept: Captured,
}

impl Captured {
    /// Adds `bytes` to one of the streams, as far as the limits go.
    fn keep(&mut self, limit: usize, is_stdout: bool, bytes: &[u8]) {
        let room = limit.saturating_sub(self.share.bytes).min(bytes.len());
        let taken = self.share.budget.take(room);
        self.share.bytes = self.share.bytes.saturating_add(taken);
        let (kept, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
        let stream = if is_stdout {
            &mut self.stdout
        } else {
            &mut self.stderr
        };
        stream.extend_from_slice(kept);
        let rest = u64::try_from(rest.len()).unwrap_or(u64::MAX);
        self.discarded = self.discarded.saturating_add(rest);
    }
}

impl Capture {
    /// Opens the FIFOs, before the process is made. Needs a runtime to be entered.
    ///
    /// # Errors
    /// `NotFound` without the FIFOs, otherwise `Internal`.
    pub fn open(fifos: &Fifos, limits: CaptureLimits, budget: &Arc<CaptureBudget>) -> Result<Self> {
        let stderr = match &fifos.stderr {
            Some(path) => Outflow::open(path)?,
            None => Outflow::none(),
        };
        Ok(Self {
            stdout: Outflow::open(&fifos.stdout)?,
            stderr,
            limits,
            kept: Captured {
                stdout: Vec::new(),
                stderr: Vec::new(),
                discarded: 0,
                is_complete: false,
                share: Share {
                    budget: Arc::clone(budget),
                    bytes: 0,
                },
            },
        })
    }

    /// Reads until `exited` is ready and the streams have ended, or were waited for long enough. Dropping the future
    /// closes the FIFOs and forgets the output.
    pub async fn until<T>(mut self, exited: impl Future<Output = T>) -> (T, Captured) {
        let exit = {
            let mut exited = std::pin::pin!(exited);
            loop {
                tokio::select! {
                    exit = &mut exited => break exit,
                    () = self.stdout.readable(), if self.stdout.is_open() => self.read(When::Announced, true),
                    () = self.stderr.readable(), if self.stderr.is_open() => self.read(When::Announced, false),
                };
            }
        };
        self.drain().await;
        self.kept.is_complete = !self.is_open();
        (exit, self.kept)
    }

    fn is_open(&self) -> bool {
        self.stdout.is_open() || self.stderr.is_open()
    }

    fn read_both(&mut self) -> bool {
        self.read(When::Exited, true) | self.read(When::Exited, false)
    }

    fn read(&mut self, when: When, is_stdout: bool) -> bool {
        let limit = self.limits.bytes;
        let half = if is_stdout {
            &mut self.stdout
        } else {
            &mut self.stderr
        };
        let mut chunk = [0; CHUNK];
        let mut has_news = false;
        for _ in 0..READS {
            let Some(bytes) = half.read(when, &mut chunk) else {
                break;
            };
            has_news = true;
            self.kept.keep(limit, is_stdout, bytes);
        }
        has_news
    }

    /// Reads on after the exit: its last words may be on their way through the shim.
    async fn drain(&mut self) {
        let deadline = Instant::now() + self.limits.drain;
        let mut last_news = Instant::now();
        // Also closes what nobody ever opened: there, a read says at once that it is over.
        let mut has_news = self.read_both();
        while self.is_open() {
            if has_news {
                last_news = Instant::now();
            }
            let until = deadline.min(last_news + self.limits.quiet);
            has_news = tokio::select! {
                () = self.stdout.readable(), if self.stdout.is_open() => self.read(When::Announced, true),
                () = self.stderr.readable(), if self.stderr.is_open() => self.read(When::Announced, false),
                () = tokio::time::sleep_until(until) => {
                    // We may have been late ourselves.
                    let is_news = self.read_both();
                    if !is_news || Instant::now() >= deadline {
                        return;
                    }
                    is_news
                }
            };
            // A stream that always has something must not outrun the clock.
            if Instant::now() >= deadline {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;

    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::*;
    use crate::sys::fifo;

    struct Bed {
        dir: tempfile::TempDir,
        budget: Arc<CaptureBudget>,
    }

    impl Bed {
        fn new() -> Self {
            let bed = Self {
                dir: tempfile::tempdir().unwrap(),
                budget: CaptureBudget::new(1 << 20),
            };
            fifo::make(&bed.path("stdout")).unwrap();
            fifo::make(&bed.path("stderr")).unwrap();
            bed
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn capture(&self, bytes: usize) -> Capture {
            let fifos = Fifos {
                stdout: self.path("stdout"),
                stderr: Some(self.path("stderr")),
            };
            let limits = CaptureLimits {
                bytes,
                ..CaptureLimits::default()
            };
            Capture::open(&fifos, limits, &self.budget).unwrap()
        }

        fn writer(&self, name: &str) -> File {
            File::options().write(true).open(self.path(name)).unwrap()
        }
    }

    #[tokio::test]
    async fn both_streams_are_returned_apart() {
        let bed = Bed::new();
        let capture = bed.capture(100);
        let (mut out, mut err) = (bed.writer("stdout"), bed.writer("stderr"));

        let printed = async move {
            out.write_all(b"hello").unwrap();
            err.write_all(b"oops").unwrap();
            7
        };
        let (code, captured) = capture.until(printed).await;

        assert_eq!(
            (code, captured.is_complete, captured.discarded),
            (7, true, 0)
        );
        assert_eq!(captured.stdout, b"hello");
        assert_eq!(captured.stderr, b"oops");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_exceeds_the_limit_is_drained_and_the_process_ends() {
        let bed = Bed::new();
        let capture = bed.capture(100_000);
        let (mut out, mut err) = (bed.writer("stdout"), bed.writer("stderr"));

        let printed = spawn_blocking(move || {
            err.write_all(&[b'e'; 40_000]).unwrap();
            out.write_all(&vec![b'o'; 3_000_000]).unwrap();
        });
        let (end, captured) = capture.until(printed).await;

        end.unwrap();
        assert_eq!(captured.stdout.len() + captured.stderr.len(), 100_000);
        assert_eq!(captured.discarded, 3_040_000 - 100_000);
    }

    #[tokio::test]
    async fn a_child_that_keeps_the_streams_open_is_not_waited_for() {
        let bed = Bed::new();
        let capture = bed.capture(100);
        let mut child = bed.writer("stdout");
        child.write_all(b"hi\n").unwrap();
        let began = Instant::now();

        let ((), captured) = capture.until(async {}).await;

        assert!(began.elapsed() < Duration::from_secs(1));
        assert_eq!(captured.stdout, b"hi\n");
        assert!(!captured.is_complete);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_child_that_talks_for_ever_is_left_at_the_drain_limit() {
        let bed = Bed::new();
        let capture = bed.capture(100);
        let mut child = bed.writer("stdout");
        let talk = spawn_blocking(move || while child.write_all(&[b'x'; 4096]).is_ok() {});

        let end = timeout(Duration::from_secs(5), capture.until(async {})).await;

        assert_eq!(end.unwrap().1.stdout.len(), 100);
        talk.await.unwrap(); // its pipe broke: nobody reads any more
    }

    #[tokio::test]
    async fn a_process_that_never_came_is_not_waited_for() {
        let bed = Bed::new();
        let began = Instant::now();

        let ((), captured) = bed.capture(100).until(async {}).await;

        assert!(captured.is_complete && captured.stdout.is_empty());
        assert!(began.elapsed() < Duration::from_millis(100));
    }

    #[tokio::test]
    async fn the_node_shares_one_budget() {
        let bed = Bed::new();
        let budget = CaptureBudget::new(10);
        let bed = Bed { budget, ..bed };
        let held = {
            bed.capture(100).until(async {
                bed.writer("stdout").write_all(b"1234567").unwrap();
            })
        }
        .await
        .1;
        assert_eq!(held.stdout, b"1234567");

        let squeezed = bed.capture(100).until(async {
            bed.writer("stdout").write_all(b"1234567").unwrap();
        });
        let squeezed = squeezed.await.1;

        assert_eq!(
            (squeezed.stdout.as_slice(), squeezed.discarded),
            (&b"123"[..], 4)
        );
        drop((held, squeezed));
        assert_eq!(bed.budget.free.load(Ordering::Relaxed), 10);
    }
}
