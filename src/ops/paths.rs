//! Threads for system calls on paths that a tenant or the kubelet chose. Such a path may hang for ever (a dead NFS or
//! FUSE server), so each pod has at most two of these threads, a job past its deadline is abandoned and shown with its
//! path and age, and no other pod notices.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::model::{Classify, Clock, Error, Kind, Result, Timestamp};

/// Threads a pod may have in such calls at once.
const THREADS_PER_POD: usize = 2;
/// Enough for stat, canonicalise, mkdir and open; nothing here recurses.
const STACK_BYTES: usize = 256 * 1024;

/// A job that runs or was abandoned and still hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathJobInfo {
    /// Whose pod.
    pub pod: String,
    /// What it does to which path.
    pub what: String,
    /// Since when.
    pub since: Timestamp,
    /// Whether its caller gave up.
    pub abandoned: bool,
}

/// The per-pod threads. Cloning gives another handle.
#[derive(Clone, Debug)]
pub struct TenantPaths {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pods: HashMap<String, Arc<Semaphore>>,
    jobs: HashMap<u64, PathJobInfo>,
}

impl TenantPaths {
    /// No threads yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// Runs `work` on a thread of `pod`'s. `what` names the call and the path, for people.
    ///
    /// # Errors
    /// The work's own; `DeadlineExceeded` naming `what` where it did not end, or no thread of the pod came free, within
    /// `limit`. The work may still end later: it must leave nothing that its caller would have to undo.
    pub async fn run<T: Send + 'static>(
        &self,
        pod: &str,
        what: String,
        limit: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let late = || {
            Error::timed_out(&what, limit)
                .context("a path of this pod does not answer; check the file system behind it")
        };
        let free = self.with(|state| {
            let made = || Arc::new(Semaphore::new(THREADS_PER_POD));
            Arc::clone(state.pods.entry(pod.to_owned()).or_insert_with(made))
        });
        let deadline = tokio::time::Instant::now() + limit;
        let seat = tokio::time::timeout_at(deadline, free.acquire_owned())
            .await
            .map_err(|_elapsed| late())?
            .classify(Kind::Internal, || {
                "tenant path threads are closed".to_owned()
            })?;
        let (job, answer) = self.spawn(pod, &what, seat, work)?;
        if let Ok(ended) = tokio::time::timeout_at(deadline, answer).await {
            ended.unwrap_or_else(|_dropped| {
                Err(Error::internal(format!("{what}: the thread panicked")))
            })
        } else {
            self.with(|state| state.jobs.get_mut(&job).map(|info| info.abandoned = true));
            Err(late())
        }
    }

    /// Jobs that run or hang now.
    pub fn snapshot(&self) -> Vec<PathJobInfo> {
        self.with(|state| state.jobs.values().cloned().collect())
    }

    fn spawn<T: Send + 'static>(
        &self,
        pod: &str,
        what: &str,
        seat: OwnedSemaphorePermit,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<(u64, oneshot::Receiver<Result<T>>)> {
        let info = PathJobInfo {
            pod: pod.to_owned(),
            what: what.to_owned(),
            since: self.clock.now(),
            abandoned: false,
        };
        let job = self.with(|state| {
            state.next += 1;
            state.jobs.insert(state.next, info);
            state.next
        });
        let (tx, rx) = oneshot::channel();
        let ended = Ended {
            table: self.clone(),
            job,
            seat: Some(seat),
        };
        std::thread::Builder::new()
            .name("tenant-path".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let ended = ended;
                let result = work();
                drop(ended);
                if tx.send(result).is_err() {
                    tracing::debug!("a path job ended after its caller had left");
                }
            })
            .classify(Kind::ResourceExhausted, || {
                format!("start a thread to {what}")
            })?;
        Ok((job, rx))
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes a job off the table and gives its seat back, also when the work panics.
struct Ended {
    table: TenantPaths,
    job: u64,
    seat: Option<OwnedSemaphorePermit>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.seat.take());
        self.table.with(|state| {
            let Some(info) = state.jobs.remove(&self.job) else {
                return;
            };
            if state
                .pods
                .get(&info.pod)
                .is_some_and(|free| free.available_permits() == THREADS_PER_POD)
            {
                state.pods.remove(&info.pod);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::clock::SystemClock;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_hung_path_stays_its_pods_own_and_is_shown() {
        let paths = TenantPaths::new(Arc::new(SystemClock));
        let mut hold = Vec::new();
        for _ in 0..THREADS_PER_POD {
            let (release, held) = std::sync::mpsc::channel::<()>();
            let hung = paths.run("a", "stat /nfs".into(), SHORT, move || {
                held.recv().classify(Kind::Internal, || "held".into())
            });
            assert_eq!(hung.await.unwrap_err().kind(), Kind::DeadlineExceeded);
            hold.push(release);
        }

        let third = paths
            .run("a", "stat /x".into(), SHORT, || Ok(()))
            .await
            .unwrap_err();
        let other = paths
            .run("b", "stat /x".into(), SHORT, || Ok(7))
            .await
            .unwrap();

        assert_eq!((third.kind(), other), (Kind::DeadlineExceeded, 7));
        assert_eq!(
            paths.snapshot().iter().filter(|job| job.abandoned).count(),
            THREADS_PER_POD
        );
        drop(hold);
        while !paths.snapshot().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
