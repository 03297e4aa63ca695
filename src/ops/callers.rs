//! Who waits for an operation that runs in a task of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

tokio::task_local! {
    /// The callers of the task that runs.
    static CALLERS: Callers;
}

/// Counts the callers that wait for one operation. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub(super) struct Callers(Arc<AtomicU32>);

impl Callers {
    /// Counts one more until the guard is dropped.
    pub(super) fn enter(&self) -> Caller {
        self.0.fetch_add(1, Ordering::Relaxed);
        Caller(self.clone())
    }

    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Runs `work` as what they wait for.
    pub(super) async fn scope<T>(&self, work: impl Future<Output = T>) -> T {
        CALLERS.scope(self.clone(), work).await
    }

    /// Those who wait for what runs here; `None` where nobody counts them.
    pub(super) fn of_this_task() -> Option<Self> {
        CALLERS.try_with(Self::clone).ok()
    }
}

/// A caller that waits.
#[derive(Debug)]
pub(super) struct Caller(Callers);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
