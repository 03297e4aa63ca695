//! Joining of equal requests: a retry meets the operation that its first try began, or is handed the result that the
//! first try never got.
//!
//! A key names what is made (a pod's name tuple), a fingerprint how (a digest of the whole request). Running and equal:
//! join. Finished and never delivered: hand it out. Delivered, or another fingerprint: `AlreadyExists` naming the
//! object. There is no "name is reserved".

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::{Digest, Error, Result};

use super::Supervisor;
use super::callers::Callers;

type Outcome<T> = Option<std::result::Result<T, Arc<Error>>>;

enum Slot<T> {
    Running {
        fingerprint: Digest,
        outcome: watch::Receiver<Outcome<T>>,
        callers: Callers,
    },
    Landed(Landing<T>),
}

/// A finished creation whose object still exists.
#[derive(Clone, Debug)]
pub struct Landing<T> {
    /// Digest of the request that made it.
    pub fingerprint: Digest,
    /// What was made.
    pub value: T,
    /// Whether some caller got the reply.
    pub delivered: bool,
}

/// Creations by key: those in flight and those whose object exists. Cloning gives another handle.
pub struct Flights<K, T> {
    slots: Arc<Mutex<HashMap<K, Slot<T>>>>,
}

impl<K, T> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self {
            slots: Arc::clone(&self.slots),
        }
    }
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            slots: Arc::default(),
        }
    }
}

enum Seat<T> {
    Join(watch::Receiver<Outcome<T>>, Callers),
    Fly(
        watch::Sender<Outcome<T>>,
        watch::Receiver<Outcome<T>>,
        Callers,
    ),
    HandOut(T),
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Display + Send + 'static,
    T: Clone + Display + Send + Sync + 'static,
{
    /// Answers the object of `key`, making it by `make` in a task of its own where no equal request did so before.
    /// Dropping this future leaves the operation running; a later equal call joins it.
    ///
    /// # Errors
    /// The operation's own (the key is free again then), or `AlreadyExists` as the module says.
    pub async fn join<F>(
        &self,
        supervisor: &Supervisor,
        name: &'static str,
        key: K,
        fingerprint: Digest,
        make: impl FnOnce() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (mut outcome, callers) = match self.seat(&key, &fingerprint)? {
            Seat::HandOut(value) => return Ok(value),
            Seat::Join(outcome, callers) => (outcome, callers),
            Seat::Fly(report, outcome, callers) => {
                // Boxed, since whatever wraps it would move all of it, on a stack that has a limit.
                let (flights, key, operation) = (self.clone(), key.clone(), Box::pin(make()));
                let failsafe = Failsafe {
                    flights: self.clone(),
                    key: key.clone(),
                    armed: true,
                };
                let counted = callers.clone();
                supervisor.start(name, async move {
                    let mut failsafe = failsafe;
                    let result = counted.scope(operation).await;
                    // Once the key is free, the next operation under it may have begun: it is not ours to take away.
                    failsafe.armed = false;
                    flights.land(&key, fingerprint, &result);
                    report.send_replace(Some(result.map_err(Arc::new)));
                });
                (outcome, callers)
            }
        };
        let _waits = callers.enter();
        let landed = outcome.wait_for(Option::is_some).await;
        let result = match landed.as_deref() {
            Ok(Some(Ok(value))) => Ok(value.clone()),
            Ok(Some(Err(error))) => Err(Error::new(error.kind(), error.chain())),
            _ => Err(Error::internal(format!(
                "{name} of {key}: the operation's task ended early"
            ))),
        };
        drop(landed);
        if result.is_ok() {
            self.with(|slots| {
                if let Some(Slot::Landed(landing)) = slots.get_mut(&key) {
                    landing.delivered = true;
                }
            });
        }
        result
    }

    /// Enters an object that was made before this process started; an equal request is handed it once more, since
    /// nobody knows whether the first reply arrived.
    pub fn restore(&self, key: K, fingerprint: Digest, value: T) {
        self.with(|slots| {
            slots.insert(
                key,
                Slot::Landed(Landing {
                    fingerprint,
                    value,
                    delivered: false,
                }),
            )
        });
    }

    /// Frees `key`: its object is gone. A creation in flight keeps it.
    pub fn forget(&self, key: &K) {
        self.with(|slots| {
            if matches!(slots.get(key), Some(Slot::Landed(_))) {
                slots.remove(key);
            }
        });
    }

    /// The finished creation under `key`, if its object exists.
    pub fn landing(&self, key: &K) -> Option<Landing<T>> {
        self.with(|slots| match slots.get(key) {
            Some(Slot::Landed(landing)) => Some(landing.clone()),
            _ => None,
        })
    }

    fn seat(&self, key: &K, fingerprint: &Digest) -> Result<Seat<T>> {
        self.with(|slots| match slots.get_mut(key) {
            None => {
                let (report, outcome) = watch::channel(None);
                let callers = Callers::default();
                let seat = Slot::Running {
                    fingerprint: fingerprint.clone(),
                    outcome: outcome.clone(),
                    callers: callers.clone(),
                };
                slots.insert(key.clone(), seat);
                Ok(Seat::Fly(report, outcome, callers))
            }
            Some(Slot::Running { fingerprint: running, outcome, callers }) if running == fingerprint => {
                Ok(Seat::Join(outcome.clone(), callers.clone()))
            }
            Some(Slot::Running { .. }) => Err(Error::already_exists(format!(
                "{key} is being created with another configuration; wait for that request or use another attempt"
            ))),
            Some(Slot::Landed(landing)) if !landing.delivered && landing.fingerprint == *fingerprint => {
                landing.delivered = true;
                Ok(Seat::HandOut(landing.value.clone()))
            }
            Some(Slot::Landed(landing)) => {
                Err(Error::already_exists(format!("{key} exists already as {}", landing.value)))
            }
        })
    }

    fn land(&self, key: &K, fingerprint: Digest, result: &Result<T>) {
        self.with(|slots| match result {
            Ok(value) => {
                let landing = Landing {
                    fingerprint,
                    value: value.clone(),
                    delivered: false,
                };
                slots.insert(key.clone(), Slot::Landed(landing));
            }
            Err(_failed) => {
                slots.remove(key);
            }
        });
    }
}

impl<K: Eq + Hash, T> Flights<K, T> {
    fn with<R>(&self, work: impl FnOnce(&mut HashMap<K, Slot<T>>) -> R) -> R {
        work(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Frees the key of an operation that panicked.
struct Failsafe<K: Eq + Hash, T> {
    flights: Flights<K, T>,
    key: K,
    armed: bool,
}

impl<K: Eq + Hash, T> Drop for Failsafe<K, T> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        self.flights.with(|slots| {
            if matches!(slots.get(&self.key), Some(Slot::Running { .. })) {
                slots.remove(&self.key);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::model::Kind;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    async fn slow(runs: Arc<AtomicU32>) -> Result<String> {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(format!("object-{run}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_joins_the_running_operation_and_later_ones_are_told_what_exists() {
        let (flights, supervisor) = (Flights::<String, String>::default(), Supervisor::new());
        let runs = Arc::new(AtomicU32::new(0));
        let call = |text: &'static str| {
            let runs = Arc::clone(&runs);
            flights.join(
                &supervisor,
                "test",
                "pod".to_owned(),
                digest(text),
                move || slow(runs),
            )
        };

        let first = tokio::time::timeout(Duration::from_millis(10), call("a")).await;
        let retry = call("a").await.unwrap();
        let again = call("a").await.unwrap_err();
        let other = call("b").await.unwrap_err();

        assert!(first.is_err());
        assert_eq!(
            (retry.as_str(), runs.load(Ordering::SeqCst)),
            ("object-0", 1)
        );
        assert_eq!(
            (again.kind(), other.kind()),
            (Kind::AlreadyExists, Kind::AlreadyExists)
        );
        assert!(again.chain().contains("object-0"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_was_never_delivered_is_handed_out_once() {
        let (flights, supervisor) = (Flights::<String, String>::default(), Supervisor::new());
        let runs = Arc::new(AtomicU32::new(0));
        let call = || {
            let runs = Arc::clone(&runs);
            flights.join(
                &supervisor,
                "test",
                "pod".to_owned(),
                digest("a"),
                move || slow(runs),
            )
        };

        assert!(
            tokio::time::timeout(Duration::from_millis(10), call())
                .await
                .is_err()
        );
        tokio::time::sleep(Duration::from_secs(1)).await;

        assert_eq!(call().await.unwrap(), "object-0");
        assert_eq!(call().await.unwrap_err().kind(), Kind::AlreadyExists);
        flights.forget(&"pod".to_owned());
        assert_eq!(call().await.unwrap(), "object-1");
    }

    #[tokio::test]
    async fn a_failure_or_a_panic_frees_the_key() {
        let (flights, supervisor) = (Flights::<String, String>::default(), Supervisor::new());
        let key = || "pod".to_owned();

        let failed = flights
            .join(&supervisor, "test", key(), digest("a"), || async {
                Err(Error::unavailable("away"))
            })
            .await
            .unwrap_err();
        let panicked = flights
            .join(&supervisor, "test", key(), digest("a"), || async {
                panic!("boom")
            })
            .await
            .unwrap_err();
        let made = flights
            .join(&supervisor, "test", key(), digest("b"), || async {
                Ok("x".to_owned())
            })
            .await;

        assert_eq!(
            (failed.kind(), panicked.kind()),
            (Kind::Unavailable, Kind::Internal)
        );
        assert_eq!(made.unwrap(), "x");
    }
}
