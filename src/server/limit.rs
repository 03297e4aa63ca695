//! The cap on requests in flight over all connections: one more is refused at once instead of queueing in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tonic::Status;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// Refuses requests beyond a number in flight.
#[derive(Clone, Debug)]
pub(super) struct InFlight(Arc<Semaphore>);

impl InFlight {
    /// At most `limit` at the same time.
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Semaphore::new(limit)))
    }
}

impl<S> Layer<S> for InFlight {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Limited {
            inner,
            seats: Arc::clone(&self.0),
        }
    }
}

/// A service behind the cap.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    seats: Arc<Semaphore>,
}

impl<S, I, O> Service<Request<I>> for Limited<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = Response<O>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            let refused = Status::resource_exhausted(
                "too many requests in flight; try again, or raise server.max_requests",
            );
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        };
        let reply = self.inner.call(request);
        Box::pin(async move {
            let reply = reply.await;
            drop(seat);
            reply
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_request_beyond_the_cap_is_refused_and_the_seat_comes_back() {
        let (gate, wait) = tokio::sync::watch::channel(false);
        let slow = tower::service_fn(move |_request: Request<()>| {
            let mut wait = wait.clone();
            async move {
                wait.wait_for(|open| *open).await.unwrap();
                Ok::<_, std::convert::Infallible>(Response::new(String::new()))
            }
        });
        let limited = InFlight::new(1).layer(slow);
        let first = limited.clone().oneshot(Request::new(()));

        let refused = limited.clone();
        let (first, refused) = tokio::join!(first, async {
            let reply = refused.oneshot(Request::new(())).await.unwrap();
            gate.send(true).unwrap();
            reply
        });
        let third = limited.oneshot(Request::new(())).await.unwrap();

        let code = |reply: &Response<String>| {
            reply
                .headers()
                .get("grpc-status")
                .map(|code| code.to_str().unwrap().to_owned())
        };
        assert_eq!(code(&first.unwrap()), None);
        assert_eq!(code(&refused).as_deref(), Some("8"));
        assert_eq!(code(&third), None);
    }
}
