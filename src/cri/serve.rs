//! What happens around every method.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use futures::Stream;
use tonic::{Response, Status};
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::model::{Error, Kind, Result};

use super::Service;

/// A server stream of replies.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Items of a list in one message of a streaming list; far below the clients' message limit.
const BATCH: usize = 500;

/// How a method's outcome is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Polled all the time: success is a debug line.
    Read,
    /// Changes something: one info line at its end.
    Write,
    /// As `Read`, and answered even while the node recovers.
    Always,
}

impl Service {
    /// Runs one method: span, readiness, outcome.
    pub(super) async fn serve<T>(
        &self,
        method: &'static str,
        weight: Weight,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Response<T>, Status> {
        let span = tracing::info_span!(
            "rpc",
            rpc.method = method,
            sandbox.id = Empty,
            container.id = Empty,
            image.ref = Empty,
            k8s.namespace = Empty,
            k8s.pod = Empty
        );
        let began = tokio::time::Instant::now();
        async {
            let result = match weight == Weight::Always || self.recovered.load(Ordering::Acquire) {
                true => work.await,
                false => Err(Error::unavailable(
                    "podwright is recovering the state of this node; try again shortly",
                )),
            };
            let elapsed_ms = began.elapsed().as_millis();
            match &result {
                Ok(_) if weight == Weight::Write => tracing::info!(elapsed_ms, "done"),
                Ok(_) => tracing::debug!(elapsed_ms, "done"),
                Err(error) if weight != Weight::Write && error.kind() == Kind::NotFound => {
                    tracing::debug!(elapsed_ms, %error, "not found");
                }
                Err(error) => tracing::warn!(elapsed_ms, kind = ?error.kind(), %error, "failed"),
            }
            result.map(Response::new).map_err(Status::from)
        }
        .instrument(span)
        .await
    }
}

/// A method that is not there yet says so.
pub(super) fn unimplemented<T>(method: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!(
        "method {method} not implemented"
    )))
}

/// A list as a stream of batches; nothing at all for an empty list (behaviour §1.5).
pub(super) fn batches<I: Send + 'static, T: Send + 'static>(
    items: Vec<I>,
    message: impl Fn(Vec<I>) -> T + Send + 'static,
) -> Replies<T> {
    let mut items = items.into_iter();
    let messages = std::iter::from_fn(move || {
        let batch: Vec<I> = items.by_ref().take(BATCH).collect();
        (!batch.is_empty()).then(|| Ok(message(batch)))
    });
    Box::pin(futures::stream::iter(messages))
}
