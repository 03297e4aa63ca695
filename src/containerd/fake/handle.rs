//! One process's way into the world: the trace, the link, the hang and the faults around each call.

use std::future::pending;

use tokio::time::{sleep, timeout};

use super::{Fault, State, When, World, limit};
use crate::model::{Error, Result};

/// The call that the link's prober makes.
pub(super) const PROBE: &str = "introspection.version";

/// What each fake service holds.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) world: World,
    life: u64,
}

impl Handle {
    pub(super) fn new(world: World, life: u64) -> Self {
        Self { world, life }
    }

    /// Does one call: `work` on the state, with what may go wrong before and after it.
    pub(super) async fn call<T>(
        &self,
        call: &'static str,
        object: &str,
        work: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let fault = self.enter(call, object).await?;
        let outcome = {
            let mut state = self.world.lock();
            let outcome = work(&mut state);
            if state.eager_gc {
                state.collect();
            }
            outcome
        };
        self.leave(call, fault).await?;
        outcome
    }

    /// Everything before the work: answers which fault is to strike after it.
    pub(super) async fn enter(&self, call: &'static str, object: &str) -> Result<Option<Fault>> {
        tokio::task::yield_now().await;
        let fault = {
            let mut state = self.world.lock();
            if state.life == self.life && !*self.world.dead.borrow() {
                state
                    .trace
                    .push(format!("{call} {object}").trim_end().to_owned());
                Some(state.faults.next(call))
            } else {
                None
            }
        };
        let Some(fault) = fault else {
            return pending().await;
        };
        self.ensure_there(call)?;
        self.past_hang(call).await?;
        match fault {
            Some(Fault::Refused) => Err(Error::unavailable(format!("{call}: refused"))),
            Some(Fault::Answers(kind)) => Err(Error::new(kind, format!("{call}: as told"))),
            Some(Fault::Hangs(When::Before)) => Err(self.out_of_time(call).await),
            Some(Fault::ProcessDies(When::Before)) => self.die().await,
            Some(
                Fault::ReplyLost | Fault::Hangs(When::After) | Fault::ProcessDies(When::After),
            )
            | None => Ok(fault),
        }
    }

    /// Everything after the work.
    pub(super) async fn leave(&self, call: &'static str, fault: Option<Fault>) -> Result<()> {
        match fault {
            Some(Fault::ReplyLost) => {
                Err(Error::unavailable(format!("{call}: the reply was lost")))
            }
            Some(Fault::Hangs(_)) => Err(self.out_of_time(call).await),
            Some(Fault::ProcessDies(_)) => self.die().await,
            Some(Fault::Refused | Fault::Answers(_)) | None => Ok(()),
        }
    }

    async fn past_hang(&self, call: &'static str) -> Result<()> {
        let mut connection = self.world.connection.subscribe();
        let resumed = async {
            while self.world.lock().hung {
                if connection.changed().await.is_err() {
                    pending::<()>().await;
                }
            }
        };
        match limit(call) {
            None => resumed.await,
            Some(limit) => {
                let timed = timeout(limit, resumed).await;
                timed.map_err(|_elapsed| Error::timed_out(call, limit))?;
            }
        }
        self.ensure_there(call)
    }

    /// The link stops calls as the real client does; the probe goes past it and meets the absence itself.
    fn ensure_there(&self, call: &'static str) -> Result<()> {
        if self.world.lock().away {
            return Err(Error::unavailable(format!("{call}: connection refused")));
        }
        if call == PROBE {
            return Ok(());
        }
        self.world.link.ensure_up()
    }

    async fn out_of_time(&self, call: &'static str) -> Error {
        match limit(call) {
            None => pending().await,
            Some(limit) => {
                sleep(limit).await;
                Error::timed_out(call, limit)
            }
        }
    }

    async fn die<T>(&self) -> T {
        self.world.dead.send_replace(true);
        pending().await
    }
}
