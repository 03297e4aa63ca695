//! Shared operations: equal requests wait for one piece of work. It outlives a caller for a grace time, in which a
//! retry finds it running, and stops when nobody wants it any more.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::{Error, Kind, Result};
use crate::ops::Supervisor;

/// How long work goes on without anybody waiting for it.
const GRACE: Duration = Duration::from_secs(10);

type Outcome<T> = Option<Result<T, Arc<Error>>>;

/// Work in flight by key.
pub(super) struct Joined<K, T> {
    table: Arc<Mutex<Table<K, T>>>,
    supervisor: Supervisor,
}

struct Table<K, T> {
    works: HashMap<K, Work<T>>,
    next_serial: u64,
}

struct Work<T> {
    serial: u64,
    outcome: watch::Receiver<Outcome<T>>,
    cancel: CancellationToken,
    waiters: usize,
    /// How often a caller left: only the grace time that the last leaving began counts.
    left: u64,
}

/// Names one work, also after another has taken its key.
struct Ticket<K: Eq + Hash, T> {
    table: Arc<Mutex<Table<K, T>>>,
    key: K,
    serial: u64,
}

impl<K: Eq + Hash, T> Ticket<K, T> {
    /// Does something with the work, if it still stands in the table.
    fn with<R>(&self, act: impl FnOnce(&mut Work<T>) -> R) -> Option<R> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let work = table.works.get_mut(&self.key)?;
        (work.serial == self.serial).then(|| act(work))
    }

    /// Stops the work and takes it off the table, if it was last left at the count `left` and nobody came back: in one
    /// step, so that nobody joins what is being stopped.
    fn abandon(&self, left: u64) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let is_idle =
            |work: &Work<T>| work.serial == self.serial && work.waiters == 0 && work.left == left;
        if table.works.get(&self.key).is_some_and(is_idle)
            && let Some(work) = table.works.remove(&self.key)
        {
            work.cancel.cancel();
        }
    }

    fn remove(&self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table
            .works
            .get(&self.key)
            .is_some_and(|work| work.serial == self.serial)
        {
            table.works.remove(&self.key);
        }
    }
}

/// The work leaves the table however its task ends, a panic included.
struct Leaving<K: Eq + Hash, T>(Ticket<K, T>);

impl<K: Eq + Hash, T> Drop for Leaving<K, T> {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// One caller's place in the queue.
struct Waiter<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + Sync + 'static,
{
    ticket: Option<Ticket<K, T>>,
    supervisor: Supervisor,
}

impl<K, T> Drop for Waiter<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + Sync + 'static,
{
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let emptied = ticket.with(|work| {
            work.waiters = work.waiters.saturating_sub(1);
            work.left = work.left.wrapping_add(1);
            (work.waiters == 0).then_some(work.left)
        });
        let Some(left) = emptied.flatten() else {
            return;
        };
        self.supervisor
            .start("stop what nobody waits for", async move {
                let ended = ticket.with(|work| work.outcome.clone());
                let Some(mut ended) = ended else { return };
                // The work's end, or the end of the task behind it, ends this wait early.
                if tokio::time::timeout(GRACE, ended.wait_for(Option::is_some))
                    .await
                    .is_ok()
                {
                    return;
                }
                ticket.abandon(left);
            });
    }
}

impl<K, T> Joined<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new(supervisor: Supervisor) -> Self {
        Self {
            table: Arc::new(Mutex::new(Table {
                works: HashMap::new(),
                next_serial: 0,
            })),
            supervisor,
        }
    }

    /// Waits for the work under `key`, beginning it by `make` where it does not run. Dropping the future leaves; the
    /// last to leave lets the work stop after the grace time.
    ///
    /// # Errors
    /// The work's own, `Cancelled` where it was stopped, `Internal` where it panicked.
    pub(super) async fn run<F>(
        &self,
        name: &'static str,
        key: K,
        make: impl FnOnce() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (mut outcome, _waiter) = self.enter(name, key, make);
        let ended = outcome.wait_for(Option::is_some).await;
        match ended.as_deref() {
            Ok(Some(Ok(value))) => Ok(value.clone()),
            Ok(Some(Err(error))) => Err(Error::new(error.kind(), error.chain())),
            _ => Err(Error::internal(format!("{name}: its task ended early"))),
        }
    }

    fn enter<F>(
        &self,
        name: &'static str,
        key: K,
        make: impl FnOnce() -> F,
    ) -> (watch::Receiver<Outcome<T>>, Waiter<K, T>)
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = |serial| Ticket {
            table: Arc::clone(&self.table),
            key: key.clone(),
            serial,
        };
        let waiter = |serial| Waiter {
            ticket: Some(ticket(serial)),
            supervisor: self.supervisor.clone(),
        };
        if let Some(work) = table.works.get_mut(&key) {
            work.waiters = work.waiters.saturating_add(1);
            return (work.outcome.clone(), waiter(work.serial));
        }
        let serial = table.next_serial;
        table.next_serial = serial.wrapping_add(1);
        let (report, outcome) = watch::channel(None);
        let cancel = CancellationToken::new();
        let work = Work {
            serial,
            outcome: outcome.clone(),
            cancel: cancel.clone(),
            waiters: 1,
            left: 0,
        };
        table.works.insert(key.clone(), work);
        let (leaving, operation) = (Leaving(ticket(serial)), make());
        self.supervisor.start(name, async move {
            let result = match cancel.run_until_cancelled(operation).await {
                Some(result) => result,
                None => Err(Error::new(
                    Kind::Cancelled,
                    format!("{name}: stopped, since nobody waited for it any more"),
                )),
            };
            // A caller from here on begins anew, so that it never gets an older answer.
            drop(leaving);
            report.send_replace(Some(result.map_err(Arc::new)));
        });
        (outcome, waiter(serial))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counts {
        begun: AtomicUsize,
        ended: AtomicUsize,
    }

    async fn work(counts: Arc<Counts>, takes: Duration) -> Result<u32> {
        counts.begun.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        counts.ended.fetch_add(1, Ordering::SeqCst);
        Ok(7)
    }

    fn joined() -> (Joined<&'static str, u32>, Arc<Counts>) {
        (Joined::new(Supervisor::new()), Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn equal_requests_share_one_work_and_later_ones_begin_anew() {
        let (joined, counts) = joined();
        let ask = || {
            let counts = Arc::clone(&counts);
            joined.run("test", "key", move || work(counts, Duration::from_secs(1)))
        };

        let (one, two) = tokio::join!(ask(), ask());
        assert_eq!((one.unwrap(), two.unwrap()), (7, 7));
        assert_eq!(counts.begun.load(Ordering::SeqCst), 1);

        ask().await.unwrap();
        assert_eq!(counts.begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_within_the_grace_time_finds_the_work_and_later_it_has_stopped() {
        let (joined, counts) = joined();
        let ask = || {
            let counts = Arc::clone(&counts);
            joined.run("test", "key", move || work(counts, Duration::from_secs(30)))
        };

        let gone = tokio::time::timeout(Duration::from_secs(1), ask()).await;
        assert!(gone.is_err());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(ask().await.unwrap(), 7);
        assert_eq!(counts.begun.load(Ordering::SeqCst), 1);

        let gone = tokio::time::timeout(Duration::from_secs(1), ask()).await;
        assert!(gone.is_err());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(counts.begun.load(Ordering::SeqCst), 2);
        assert_eq!(
            counts.ended.load(Ordering::SeqCst),
            1,
            "the second was stopped"
        );
        assert_eq!(ask().await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_key() {
        let (joined, counts) = joined();
        let failed = joined
            .run("test", "key", || async { panic!("as planned") })
            .await;
        assert_eq!(failed.unwrap_err().kind(), Kind::Internal);

        let made = joined
            .run("test", "key", move || work(counts, Duration::ZERO))
            .await;
        assert_eq!(made.unwrap(), 7);
    }
}
