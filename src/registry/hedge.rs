//! Impatience: a host that keeps a request waiting is joined by the next one, and the first to deliver wins.

use std::pin::pin;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};

use super::Inner;
use super::endpoint::Endpoint;
use super::failure::Failure;
use super::health::Fault;
use super::turns::{Turn, Turns};
use crate::model::{Error, Result};

/// Who ended a race.
pub(super) enum Raced<T, R> {
    /// The host that was asked first, or nobody else.
    Own(Result<T, Failure>),
    /// Its rival.
    Rival(R),
}

/// Waits for `own`; after `patience` also for what `rival` starts, where it starts anything. A rival that fails changes
/// nothing; an own failure waits for a rival that is under way.
pub(super) async fn race<T, R, F>(
    own: impl Future<Output = Result<T, Failure>>,
    patience: Duration,
    rival: impl FnOnce() -> Option<F>,
) -> Raced<T, R>
where
    F: Future<Output = Result<R, Failure>>,
{
    let mut own = pin!(own);
    if patience.is_zero() {
        return Raced::Own(own.await);
    }
    if let Ok(done) = tokio::time::timeout(patience, &mut own).await {
        return Raced::Own(done);
    }
    let Some(rival) = rival() else {
        return Raced::Own(own.await);
    };
    match select(own, pin!(rival)).await {
        Either::Left((Ok(done), _)) => Raced::Own(Ok(done)),
        Either::Left((Err(failure), rival)) => match rival.await {
            Ok(won) => Raced::Rival(won),
            Err(_noted_by_its_host) => Raced::Own(Err(failure)),
        },
        Either::Right((Ok(won), _)) => Raced::Rival(won),
        Either::Right((Err(_noted_by_its_host), own)) => Raced::Own(own.await),
    }
}

impl Inner {
    /// The rival of `waiting`, with leave to ask it.
    pub(super) fn rival<A, F>(
        &self,
        turns: &Turns,
        waiting: Turn,
        ask: A,
    ) -> Option<impl Future<Output = F::Output> + use<A, F>>
    where
        A: FnOnce(Turn) -> F,
        F: Future,
    {
        let rival = turns.rival(&self.endpoints, waiting)?;
        let leave = self.health.hedge()?;
        if let (Some(slow), Some(next)) =
            (self.endpoints.get(waiting.at), self.endpoints.get(rival.at))
        {
            slow.health().hedged();
            tracing::info!(
                host = slow.host().name(),
                rival = next.host().name(),
                "registry host keeps a request waiting: the next is asked as well"
            );
        }
        let asking = ask(rival);
        Some(async move {
            let answer = asking.await;
            drop(leave);
            answer
        })
    }

    /// Asks one host after the other until one delivers.
    ///
    /// # Errors
    /// The turns, for the most telling failure of all.
    pub(super) async fn in_turn<'a, T: Send + 'a>(
        &'a self,
        mut turns: Turns,
        ask: impl Fn(&'a Endpoint, bool) -> BoxFuture<'a, Result<T, Failure>>,
    ) -> Result<T, Turns> {
        // Boxed: two of them in one future would be more than a worker's stack should have to carry.
        let asked = |turn: Turn| match self.endpoints.get(turn.at) {
            Some(endpoint) => ask(endpoint, turn.is_last),
            None => {
                let failure = Failure::transport(Error::internal("no such host"));
                Box::pin(std::future::ready(Err(failure)))
            }
        };
        while let Some(turn) = turns.next(&self.endpoints) {
            let patience = self.settings.hedge_after;
            match race(asked(turn), patience, || self.rival(&turns, turn, asked)).await {
                Raced::Own(Ok(done)) => return Ok(done),
                Raced::Own(Err(failure)) => turns.failed(turn, failure),
                Raced::Rival(won) => {
                    self.outrun(turn);
                    return Ok(won);
                }
            }
        }
        Err(turns)
    }

    /// Remembers that a rival was faster than a host that kept us waiting.
    pub(super) fn outrun(&self, slow: Turn) {
        if let Some(slow) = self.endpoints.get(slow.at) {
            let what = "keeps us waiting: another host was faster".to_owned();
            slow.health().failed(Fault::Stalling, what);
        }
    }
}
