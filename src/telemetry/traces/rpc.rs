//! A call over gRPC as a span: from its headers to its status, whichever side we are on.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use opentelemetry::trace::SpanKind;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Response};
use tonic::{Code, Status};

use super::super::codes;
use super::place::{Place, Span};

/// Longest name of a service or method.
const NAME_BYTES: usize = 128;

/// A call that goes on. Where it is dropped before its status is known, its caller left.
#[derive(Debug)]
pub struct Rpc(Option<Span>);

impl Rpc {
    /// The call that is being served, of the method at `path`, below the caller that `place` tells of.
    pub(super) fn served(place: &Place, path: &str) -> Self {
        Self::begin(place, path, SpanKind::Server)
    }

    /// A call of ours of the method at `path`.
    pub fn made(place: &Place, path: &str) -> Self {
        if place.is_taken() {
            Self::begin(place, path, SpanKind::Client)
        } else {
            Self(Some(place.begin("")))
        }
    }

    fn begin(place: &Place, path: &str, kind: SpanKind) -> Self {
        let name = name(path);
        let span = place.open(name.clone(), kind, None);
        span.note("rpc.system.name", "grpc");
        span.note("rpc.method", &name);
        Self(Some(span))
    }

    /// The place that it makes.
    pub fn place(&self) -> Place {
        self.0
            .as_ref()
            .map_or_else(Place::default, |span| span.place().clone())
    }

    /// It has this `reply`, which is its end where there is a status in front, and otherwise once all of it has passed.
    pub fn replied(mut self, reply: Response<Body>) -> Response<Body> {
        if !self.0.as_ref().is_some_and(Span::is_taken) {
            self.0 = None;
            return reply;
        }
        if let Some(status) = Status::from_header_map(reply.headers()) {
            self.end(&status);
            return reply;
        }
        reply.map(|body| Body::new(Watched { body, call: self }))
    }

    /// It never got a reply.
    pub fn lost(mut self, why: &str) {
        self.end(&Status::unavailable(why));
    }

    fn end(&mut self, status: &Status) {
        let Some(span) = self.0.take() else {
            return;
        };
        span.note("rpc.response.status_code", codes::spelling(status.code()));
        let number = u64::try_from(i32::from(status.code())).unwrap_or_default();
        span.count("rpc.grpc.status_code", number);
        if is_failure(status.code()) {
            span.fail(status.message());
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = Status::from_header_map(trailers) {
            self.end(&status);
        }
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        self.end(&Status::cancelled(""));
    }
}

/// `service/method` of a path that a client chose.
fn name(path: &str) -> Cow<'static, str> {
    let name = path.strip_prefix('/').unwrap_or(path);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'_');
    if name.len() > NAME_BYTES || !name.bytes().all(is_plain) {
        return Cow::Borrowed("_OTHER");
    }
    Cow::Owned(name.to_owned())
}

/// Whether a code says that something went wrong: that a thing is not there, or that the caller left, is no failure of
/// the call.
fn is_failure(code: Code) -> bool {
    !matches!(code, Code::Ok | Code::NotFound | Code::Cancelled)
}

/// The body of a reply, at whose end the call's status stands.
struct Watched {
    body: Body,
    call: Rpc,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.trailers(trailers);
                }
            }
            Some(Err(status)) => self.call.end(status),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
