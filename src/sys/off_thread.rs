//! Blocking work of ours (namespaces, cgroups, records) off the async workers, on a bounded number of threads. Paths
//! that a tenant chose do not come here: they may hang, and have threads of their own per pod.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::model::{Classify, Kind, Result};

/// More of these at once would only queue in the kernel.
const AT_ONCE: usize = 32;

static SEATS: std::sync::LazyLock<Arc<Semaphore>> =
    std::sync::LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));

/// Runs blocking `work` on a thread of its own. Dropping the future lets the work run to its end.
///
/// # Errors
/// The work's own, or `Internal` where it panicked.
pub async fn off_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let seat = Arc::clone(&SEATS)
        .acquire_owned()
        .await
        .classify(Kind::Internal, || what.to_owned())?;
    let ended = tokio::task::spawn_blocking(move || {
        let _seat = seat;
        work()
    });
    ended.await.classify(Kind::Internal, || what.to_owned())?
}
