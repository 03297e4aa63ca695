//! Each call of the Container Runtime Interface as a span of its caller's trace.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::telemetry::traces::Traces;

/// The services that are traced; our own admin service is nobody's trace.
const TRACED: &str = "/runtime.v1.";

/// Traces requests, where traces are wanted.
#[derive(Clone, Debug)]
pub(super) struct Tracing(pub(super) Option<Traces>);

impl<S> Layer<S> for Tracing {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced {
            inner,
            traces: self.0.clone(),
        }
    }
}

/// A service whose requests are traced.
#[derive(Clone, Debug)]
pub(super) struct Traced<S> {
    inner: S,
    traces: Option<Traces>,
}

impl<S, I> Service<Request<I>> for Traced<S>
where
    S: Service<Request<I>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let path = request.uri().path();
        let traces = self.traces.as_ref().filter(|_| path.starts_with(TRACED));
        let Some(traces) = traces else {
            return Box::pin(self.inner.call(request));
        };
        let call = traces.serve(path, request.headers());
        let reply = call.place().hold(self.inner.call(request));
        Box::pin(async move {
            match reply.await {
                Ok(reply) => Ok(call.replied(reply)),
                Err(error) => {
                    call.lost(&error.to_string());
                    Err(error)
                }
            }
        })
    }
}
