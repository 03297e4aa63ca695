//! The deadline that a request carries: past it the caller hears DEADLINE_EXCEEDED, as the gRPC specification has it.
//!
//! tonic watches the same deadline further out but answers CANCELLED, which a client whose own clock is a moment behind
//! then reports. The timer here is made before tonic's and never later, so its answer is the one that goes out.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Status;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use crate::cri::deadline;

/// Ends requests at their own deadlines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines;

impl<S> Layer<S> for Deadlines {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timed { inner }
    }
}

/// A service whose requests end at their deadlines.
#[derive(Clone, Debug)]
pub(super) struct Timed<S> {
    inner: S,
}

impl<S, I, O> Service<Request<I>> for Timed<S>
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
        let Some(limit) = of(request.headers()) else {
            return Box::pin(self.inner.call(request));
        };
        let timed = tokio::time::timeout(limit, self.inner.call(request));
        Box::pin(async move {
            timed.await.unwrap_or_else(|_elapsed| {
                let late = Status::deadline_exceeded(
                    "the deadline of the request is over; what it began may go on: ask again",
                );
                Ok(late.into_http())
            })
        })
    }
}

/// What a request's headers allow; nothing where they say nothing that can be read.
fn of(headers: &HeaderMap) -> Option<Duration> {
    deadline::parse(headers.get(deadline::HEADER)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_reply_is_deadline_exceeded_and_one_in_time_goes_out() {
        let slow = tower::service_fn(|_request: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok::<_, std::convert::Infallible>(Response::new(String::from("reply")))
        });
        let ask = async |limit: &str| {
            let request = Request::builder().header("grpc-timeout", limit).body(());
            let reply = Deadlines.layer(slow).oneshot(request.unwrap()).await;
            let reply = reply.unwrap();
            let code = reply.headers().get("grpc-status").cloned();
            (code, reply.into_body())
        };

        assert_eq!(ask("3S").await, (None, "reply".to_owned()));
        assert_eq!(ask("1S").await, (Some("4".parse().unwrap()), String::new()));
    }
}
