//! What becomes of ended spans: a queue that nobody waits for, and a thread of its own that empties it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::{Page, Series, Source};

/// Spans that wait to be sent; one more is dropped. The starts of a node's worth of pods.
const WAITING: usize = 8_192;
/// Spans sent at once.
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const GATHER: Duration = Duration::from_secs(1);
/// At most one line of log about failures in this time.
const COMPLAIN: Duration = Duration::from_secs(60);

/// What became of spans.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<Numbers>);

#[derive(Debug, Default)]
struct Numbers {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Source for Counts {
    fn read_blocking(&self, page: &mut Page) {
        let Self(numbers) = self;
        let outcomes = [
            ("sent", &numbers.sent),
            ("failed", &numbers.failed),
            ("dropped", &numbers.dropped),
        ];
        page.counter(
            "trace_spans",
            "Spans by what became of them: sent to the collector, refused by it or not delivered, dropped because too many waited.",
            outcomes.map(|(outcome, count)| {
                Series::of(&[("outcome", outcome)], count.load(Ordering::Relaxed))
            }),
        );
    }
}

/// The end of the queue at which spans come in.
#[derive(Debug)]
pub(super) struct Inlet {
    to: mpsc::Sender<SpanData>,
    counts: Counts,
}

/// The end at which they go out.
#[derive(Debug)]
pub(super) struct Outlet {
    from: mpsc::Receiver<SpanData>,
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    counts: Counts,
    complained: Option<Instant>,
}

/// Has everything sent that waits.
#[derive(Clone, Debug)]
pub(super) struct Flush(mpsc::Sender<oneshot::Sender<()>>);

impl Flush {
    /// Waits until what has ended before is sent, or given up, at most `limit`. Answers whether it was in time.
    pub(super) async fn within(&self, limit: Duration) -> bool {
        let flushed = async {
            let (tell, told) = oneshot::channel();
            self.0.send(tell).await.ok()?;
            told.await.ok()
        };
        matches!(tokio::time::timeout(limit, flushed).await, Ok(Some(())))
    }
}

/// An empty queue.
pub(super) fn queue(counts: &Counts) -> (Inlet, Outlet, Flush) {
    let (to, from) = mpsc::channel(WAITING);
    let (flush, flushes) = mpsc::channel(1);
    let inlet = Inlet {
        to,
        counts: counts.clone(),
    };
    let outlet = Outlet {
        from,
        flushes,
        counts: counts.clone(),
        complained: None,
    };
    (inlet, outlet, Flush(flush))
}

impl SpanProcessor for Inlet {
    fn on_start(&self, _span: &mut Span, _cx: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.to.try_send(span).is_err() {
            self.counts.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _limit: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Outlet {
    /// Sends what comes in by `send`, until the other end is gone.
    pub(super) async fn empty<F>(mut self, send: impl Fn(Vec<SpanData>) -> F)
    where
        F: Future<Output = OTelSdkResult>,
    {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                Some(flushed) = self.flushes.recv() => {
                    while let Ok(span) = self.from.try_recv() {
                        batch.push(span);
                        if batch.len() >= BATCH {
                            self.deliver(std::mem::take(&mut batch), &send).await;
                        }
                    }
                    self.deliver(batch, &send).await;
                    // Who asked may have stopped waiting.
                    flushed.send(()).unwrap_or_default();
                }
                came = self.from.recv_many(&mut batch, BATCH) => {
                    if came == 0 {
                        return;
                    }
                    self.gather(&mut batch).await;
                    self.deliver(batch, &send).await;
                }
            }
        }
    }

    /// Waits for more spans to go with those of `batch`; not when somebody is in a hurry.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH && self.flushes.is_empty() {
            let room = BATCH.saturating_sub(batch.len());
            // A flush that comes meanwhile waits for the rest of a moment.
            let more = self.from.recv_many(batch, room);
            match tokio::time::timeout_at(until, more).await {
                Ok(came) if came > 0 => {}
                _ => break,
            }
        }
    }

    async fn deliver<F>(&mut self, batch: Vec<SpanData>, send: &impl Fn(Vec<SpanData>) -> F)
    where
        F: Future<Output = OTelSdkResult>,
    {
        let Ok(spans @ 1..) = u64::try_from(batch.len()) else {
            return;
        };
        let numbers = &self.counts.0;
        let Err(error) = send(batch).await else {
            numbers.sent.fetch_add(spans, Ordering::Relaxed);
            return;
        };
        let failed = numbers.failed.fetch_add(spans, Ordering::Relaxed) + spans;
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN) {
            self.complained = Some(Instant::now());
            let dropped = numbers.dropped.load(Ordering::Relaxed);
            tracing::warn!(%error, failed, dropped, "traces do not reach their collector; spans are lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

    use super::super::super::Sources;
    use super::*;

    fn tracer(inlet: Inlet) -> SdkTracer {
        let provider = SdkTracerProvider::builder().with_span_processor(inlet);
        provider.build().tracer("test")
    }

    fn shown(counts: &Counts) -> String {
        Sources::new(vec![Box::new(counts.clone())])
            .scrape_blocking()
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn spans_go_out_together_and_are_counted() {
        let counts = Counts::default();
        let (inlet, outlet, _flush) = queue(&counts);
        let tracer = tracer(inlet);
        let batches = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&batches);
        let emptying = outlet.empty(move |batch| {
            noted.lock().unwrap().push(batch.len());
            std::future::ready(Ok(()))
        });
        let ending = async {
            for _ in 0..BATCH + 2 {
                drop(tracer.start("span"));
            }
            tokio::time::sleep(GATHER * 3).await;
        };

        tokio::select! {
            () = emptying => panic!("the queue is open"),
            () = ending => {}
        }

        assert_eq!(*batches.lock().unwrap(), [BATCH, 2]);
        let text = shown(&counts);
        assert!(
            text.contains("podwright_trace_spans_total{outcome=\"sent\"} 514\n"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_drops_and_nobody_waits() {
        let counts = Counts::default();
        let (inlet, _outlet, _flush) = queue(&counts);
        let tracer = tracer(inlet);

        for _ in 0..WAITING + 5 {
            drop(tracer.start("span"));
        }

        let text = shown(&counts);
        assert!(
            text.contains("podwright_trace_spans_total{outcome=\"dropped\"} 5\n"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_sends_at_once_and_does_not_wait_for_ever() {
        let counts = Counts::default();
        let (inlet, outlet, flush) = queue(&counts);
        let tracer = tracer(inlet);
        let refused = || OTelSdkError::InternalFailure("connection refused".into());
        let emptying = outlet.empty(move |_batch| std::future::ready(Err(refused())));
        let flushing = async {
            drop(tracer.start("span"));
            flush.within(GATHER / 2).await
        };

        tokio::select! {
            () = emptying => panic!("the queue is open"),
            in_time = flushing => assert!(in_time),
        }

        assert!(shown(&counts).contains("podwright_trace_spans_total{outcome=\"failed\"} 1\n"));
        let (_inlet, _outlet, flush) = queue(&counts);
        assert!(!flush.within(GATHER).await);
    }
}
