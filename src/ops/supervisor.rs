//! The one place where tasks start. It names them, carries the caller's span and trace, turns panics into errors and a
//! count, restarts what must always run, and waits for all of them at the end.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::callers::Callers;
use crate::model::{Error, Result};
use crate::telemetry::traces::Place;

/// First pause before a background task is started again.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Longest such pause.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A run this long counts as healthy and resets the pause.
const CALM: Duration = Duration::from_secs(60);

/// Starts and watches tasks. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    tracker: TaskTracker,
    background: TaskTracker,
    stop: CancellationToken,
    panics: Arc<AtomicU64>,
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `operation` to its end even when the returned future is dropped.
    ///
    /// # Errors
    /// The operation's own, or `Internal` where it panicked.
    pub async fn detached<T: Send + 'static>(
        &self,
        name: &'static str,
        operation: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (tx, rx) = oneshot::channel();
        let callers = Callers::default();
        let _waits = callers.enter();
        // Boxed, since whatever wraps it would move all of it, on a stack that has a limit.
        let operation = Box::pin(operation);
        self.start(name, async move {
            if tx.send(callers.scope(operation).await).is_err() {
                tracing::info!(task = name, "the caller left before the operation's end");
            }
        });
        rx.await.unwrap_or_else(|_dropped| {
            Err(Error::internal(format!(
                "{name}: the operation's task ended early"
            )))
        })
    }

    /// Turns a panic of `work` into an error, so that its caller can take back what was begun.
    ///
    /// # Errors
    /// Its own, or `Internal` where it panicked.
    pub async fn survive<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        // What the work touched behind locks is taken back by the caller, step by recorded step.
        let ended = AssertUnwindSafe(work).catch_unwind().await;
        ended.unwrap_or_else(|_panic| {
            self.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(task = name, "operation panicked");
            Err(Error::internal(format!(
                "{name} panicked; the log has the place"
            )))
        })
    }

    /// Starts a task that ends by itself and that a drain waits for.
    #[expect(clippy::disallowed_methods, reason = "this is where tasks start")]
    pub fn start(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let panics = Arc::clone(&self.panics);
        let work = caught(name, panics, work).map(drop).in_current_span();
        let traced = Place::here().hold(work);
        tokio::spawn(self.tracker.track_future(traced));
    }

    /// Starts a task that watches something: a drain does not wait for it, it is to end by itself when
    /// [`Self::stopping`] is cancelled.
    #[expect(clippy::disallowed_methods, reason = "this is where tasks start")]
    pub fn watch(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let panics = Arc::clone(&self.panics);
        tokio::spawn(
            self.background
                .track_future(caught(name, panics, work).map(drop)),
        );
    }

    /// Keeps a background task running until the end of the process: whenever it ends or panics it is made anew, after
    /// a pause that grows while it keeps failing. The task is dropped, wherever it is, once [`Self::stop`] is called.
    #[expect(clippy::disallowed_methods, reason = "this is where tasks start")]
    pub fn keep<F>(&self, name: &'static str, make: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, panics) = (self.stop.clone(), Arc::clone(&self.panics));
        tokio::spawn(self.background.track_future(async move {
            let mut wait = FIRST_WAIT;
            while !stop.is_cancelled() {
                let began = Instant::now();
                let ended = stop
                    .run_until_cancelled(caught(name, Arc::clone(&panics), make()))
                    .await;
                if ended.is_none() {
                    break;
                }
                wait = if began.elapsed() > CALM {
                    FIRST_WAIT
                } else {
                    (wait * 2).min(LONGEST_WAIT)
                };
                tracing::warn!(
                    task = name,
                    ?wait,
                    "background task ended; it is started again"
                );
                stop.run_until_cancelled(tokio::time::sleep(wait)).await;
            }
        }));
    }

    /// Cancelled when the process is about to end.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// How many tasks panicked so far.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// How many operations run now.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits for running operations, at most `limit`; answers how many were still running then. Afterwards background
    /// tasks are told to stop.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.tracker.close();
        let ended = tokio::time::timeout(limit, self.tracker.wait()).await;
        self.stop.cancel();
        self.background.close();
        if tokio::time::timeout(Duration::from_secs(1), self.background.wait())
            .await
            .is_err()
        {
            tracing::warn!("background tasks did not end within a second");
        }
        if ended.is_ok() { 0 } else { self.tracker.len() }
    }
}

async fn caught(
    name: &'static str,
    panics: Arc<AtomicU64>,
    work: impl Future<Output = ()>,
) -> bool {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    if ended.is_err() {
        panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = name, "task panicked");
    }
    ended.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[tokio::test]
    async fn a_survived_panic_is_an_error_and_counted() {
        let supervisor = Supervisor::new();

        let panicked = supervisor.survive::<()>("test", async { panic!("boom") });
        assert_eq!(panicked.await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(
            supervisor.survive("test", async { Ok(1) }).await.unwrap(),
            1
        );
        assert_eq!(supervisor.panics(), 1);
    }

    #[tokio::test]
    async fn a_detached_operation_ends_although_its_caller_left() {
        let supervisor = Supervisor::new();
        let (tx, rx) = oneshot::channel();
        let operation = supervisor.detached("test", async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tx.send(()).map_err(|()| Error::internal("nobody listens"))
        });

        assert!(
            tokio::time::timeout(Duration::from_millis(1), operation)
                .await
                .is_err()
        );

        rx.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error_and_is_counted() {
        let supervisor = Supervisor::new();

        let error = supervisor
            .detached::<()>("test", async { panic!("boom") })
            .await
            .unwrap_err();

        assert_eq!(error.kind(), Kind::Internal);
        assert_eq!(supervisor.panics(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_background_task_that_ends_is_made_anew_until_the_drain() {
        let supervisor = Supervisor::new();
        let runs = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&runs);
        supervisor.keep("test", move || {
            let counted = Arc::clone(&counted);
            async move {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;

        assert_eq!(supervisor.drain(Duration::from_secs(1)).await, 0);

        assert!(runs.load(Ordering::Relaxed) > 2);
    }
}
