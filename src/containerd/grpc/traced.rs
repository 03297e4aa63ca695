//! The caller's trace on its way through us: each call of ours is a span of it, and tells containerd so, which goes on.

use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Error};
use tower::Service;

use crate::telemetry::traces::{Place, Rpc};

/// A channel whose calls are parts of traces, where those who make them are.
#[derive(Clone, Debug)]
pub(super) struct Traced(Channel);

impl Traced {
    pub(super) fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Service<Request<Body>> for Traced {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Either<
        <Channel as Service<Request<Body>>>::Future,
        BoxFuture<'static, Result<Response<Body>, Error>>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let here = Place::here();
        if !here.is_somewhere() {
            return Either::Left(self.0.call(request));
        }
        let call = Rpc::made(&here, request.uri().path());
        call.place().write(request.headers_mut());
        let reply = self.0.call(request);
        Either::Right(Box::pin(async move {
            match reply.await {
                Ok(reply) => Ok(call.replied(reply)),
                Err(error) => {
                    call.lost(&error.to_string());
                    Err(error)
                }
            }
        }))
    }
}
