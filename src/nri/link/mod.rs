//! A connection between runtime and plugin: calls one way, calls the other way, over one socket.
//!
//! One task reads and one writes. What waits to be written, and how many calls of the other side run at once, is bounded;
//! whoever does not read is found out by the deadline of the next call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::messages::envelope::{Request, Response, Status};
use super::mux::{self, Demux};
use super::ttrpc::{self, Frame, Frames, code};
use crate::model::{Classify as _, Kind, Result};
use crate::ops::Supervisor;

/// The service that plugins offer.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that the runtime offers.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";

/// Messages that may wait to be written.
const OUTGOING: usize = 16;
/// Calls of the other side that may run at once.
const INCOMING: usize = 16;
/// Read at once.
const CHUNK: usize = 64 << 10;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The runtime's.
    Runtime,
    /// A plugin's.
    Plugin,
}

impl Role {
    /// Where this end calls and where it serves.
    const fn connections(self) -> (u32, u32) {
        match self {
            Self::Runtime => (mux::PLUGIN, mux::RUNTIME),
            Self::Plugin => (mux::RUNTIME, mux::PLUGIN),
        }
    }

    const fn calls(self) -> &'static str {
        match self {
            Self::Runtime => PLUGIN_SERVICE,
            Self::Plugin => RUNTIME_SERVICE,
        }
    }

    const fn serves(self) -> &'static str {
        match self {
            Self::Runtime => RUNTIME_SERVICE,
            Self::Plugin => PLUGIN_SERVICE,
        }
    }
}

/// A refusal, in gRPC's codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: i32,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// Whether the other side does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == code::UNIMPLEMENTED
    }

    /// A method that does not exist.
    pub fn unimplemented(method: &str) -> Self {
        Self {
            code: code::UNIMPLEMENTED,
            message: format!("method {method} is not there"),
        }
    }

    /// What could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            code: code::UNKNOWN,
            message: message.into(),
        }
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// The other side said no.
    Refused(Refusal),
    /// It did not answer in time.
    TimedOut(Duration),
    /// The connection is gone, or what came over it made no sense.
    Lost(String),
}

/// What this end does when it is called.
pub trait Service: Send + Sync + 'static {
    /// Answers the encoded reply to `method`.
    fn call(&self, method: &str, payload: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, Refusal>>;
}

/// An open connection. Dropping every handle does not close it: [`Link::close`] does.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

/// Those who wait for an answer, by stream.
type Waiters = HashMap<u32, oneshot::Sender<Result<Vec<u8>, CallError>>>;

struct Shared {
    role: Role,
    outgoing: mpsc::Sender<Vec<u8>>,
    calls: Mutex<Waiters>,
    next: AtomicU32,
    closed: CancellationToken,
}

impl Link {
    /// Serves `service` on `stream` until either side closes it.
    ///
    /// # Errors
    /// `Internal` where the socket cannot be used.
    pub fn open(
        stream: std::os::unix::net::UnixStream,
        role: Role,
        service: Arc<dyn Service>,
        supervisor: &Supervisor,
    ) -> Result<Self> {
        let using = || "use a plugin's socket".to_owned();
        stream
            .set_nonblocking(true)
            .classify(Kind::Internal, using)?;
        let stream = UnixStream::from_std(stream).classify(Kind::Internal, using)?;
        let (read, write) = stream.into_split();
        let (outgoing, waiting) = mpsc::channel(OUTGOING);
        let shared = Arc::new(Shared {
            role,
            outgoing,
            calls: Mutex::default(),
            next: AtomicU32::new(1),
            closed: supervisor.stopping().child_token(),
        });
        let closed = shared.closed.clone();
        supervisor.watch("NRI writer", async move {
            closed.run_until_cancelled(write_all(write, waiting)).await;
            closed.cancel();
        });
        let reader = Reader {
            shared: Arc::clone(&shared),
            service,
            supervisor: supervisor.clone(),
            permits: Arc::new(Semaphore::new(INCOMING)),
        };
        supervisor.watch("NRI reader", async move {
            let closed = reader.shared.closed.clone();
            closed.run_until_cancelled(reader.run(read)).await;
            closed.cancel();
        });
        Ok(Self(shared))
    }

    /// Calls `method` of the other side and waits for its answer.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn call(
        &self,
        method: &str,
        payload: Vec<u8>,
        limit: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let request = Request {
            service: self.0.role.calls().to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX),
            metadata: Vec::new(),
        };
        let stream = self.0.next.fetch_add(2, Ordering::Relaxed);
        let frame = ttrpc::encode(stream, ttrpc::REQUEST, &request.encode_to_vec());
        let frame = frame.map_err(|error| {
            CallError::Refused(Refusal {
                code: code::RESOURCE_EXHAUSTED,
                message: error.chain(),
            })
        })?;
        let (tell, told) = oneshot::channel();
        self.0.calls().insert(stream, tell);
        let _forgotten_at_the_end = Forget(&self.0, stream);
        let (calls, _) = self.0.role.connections();
        let exchange = async {
            let sent = self.0.outgoing.send(mux::framed(calls, &frame)).await;
            if sent.is_err() {
                return Err(CallError::Lost("the connection is closed".to_owned()));
            }
            told.await.unwrap_or_else(|_dropped| {
                Err(CallError::Lost("the connection was closed".to_owned()))
            })
        };
        tokio::select! {
            // An answer that came just before the end is an answer.
            biased;
            answered = tokio::time::timeout(limit, exchange) => {
                answered.unwrap_or(Err(CallError::TimedOut(limit)))
            }
            () = self.0.closed.cancelled() => {
                Err(CallError::Lost("the connection was closed".to_owned()))
            }
        }
    }

    /// Closes the connection; calls in flight fail.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Cancelled once the connection is closed.
    pub fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, Waiters> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to whoever waits for it, if anybody still does.
    fn answered(&self, frame: Frame) {
        let Some(waiter) = self.calls().remove(&frame.stream) else {
            return;
        };
        let answer = match frame.data.as_deref().map(Response::decode) {
            Some(Ok(response)) => match response.status {
                Some(Status { code, message }) if code != 0 => {
                    Err(CallError::Refused(Refusal { code, message }))
                }
                _ => Ok(response.payload),
            },
            Some(Err(error)) => Err(CallError::Lost(format!(
                "an answer makes no sense: {error}"
            ))),
            None => Err(CallError::Lost("an answer is too long".to_owned())),
        };
        // Whoever asked may have given up just now.
        drop(waiter.send(answer));
    }

    async fn reply(&self, stream: u32, answer: Result<Vec<u8>, Refusal>) {
        let whole = |answer: Result<Vec<u8>, Refusal>| match answer {
            Ok(payload) => Response {
                status: None,
                payload,
            },
            Err(Refusal { code, message }) => Response {
                status: Some(Status { code, message }),
                payload: Vec::new(),
            },
        };
        let encoded = whole(answer).encode_to_vec();
        let frame = ttrpc::encode(stream, ttrpc::RESPONSE, &encoded).or_else(|error| {
            let refusal = whole(Err(Refusal {
                code: code::RESOURCE_EXHAUSTED,
                message: error.chain(),
            }));
            ttrpc::encode(stream, ttrpc::RESPONSE, &refusal.encode_to_vec())
        });
        let (_, serves) = self.role.connections();
        if let Ok(frame) = frame {
            // A closed connection needs no answer.
            drop(self.outgoing.send(mux::framed(serves, &frame)).await);
        }
    }
}

/// Forgets a call however it ends.
struct Forget<'a>(&'a Shared, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.calls().remove(&self.1);
    }
}

async fn write_all(mut socket: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = waiting.recv().await {
        if let Err(error) = socket.write_all(&bytes).await {
            tracing::debug!(%error, "a plugin's socket takes no more");
            return;
        }
    }
}

struct Reader {
    shared: Arc<Shared>,
    service: Arc<dyn Service>,
    supervisor: Supervisor,
    permits: Arc<Semaphore>,
}

impl Reader {
    async fn run(self, mut socket: OwnedReadHalf) {
        let mut demux = Demux::default();
        let (mut answers, mut requests) = (Frames::default(), Frames::default());
        let (calls, serves) = self.shared.role.connections();
        let mut chunk = vec![0; CHUNK];
        loop {
            let bytes = match socket.read(&mut chunk).await {
                Ok(0) => return,
                Ok(length) => chunk.get(..length).unwrap_or_default(),
                Err(error) => {
                    tracing::debug!(%error, "a plugin's socket cannot be read");
                    return;
                }
            };
            let mut asked = Vec::new();
            let fed = demux.feed(bytes, |id, part| {
                if id == calls {
                    answers.feed(part, |frame| self.shared.answered(frame));
                } else if id == serves {
                    requests.feed(part, |frame| asked.push(frame));
                }
                Ok(())
            });
            if let Err(error) = fed {
                tracing::warn!(%error, "a plugin does not keep to the protocol");
                return;
            }
            for frame in asked {
                self.serve(frame).await;
            }
        }
    }

    /// Begins to answer a call. Its task ends with the connection.
    async fn serve(&self, frame: Frame) {
        if frame.kind != ttrpc::REQUEST {
            return;
        }
        let stream = frame.stream;
        let refuse = |code: i32, message: String| Err(Refusal { code, message });
        let request = match frame.data.as_deref().map(Request::decode) {
            None => {
                let refused = refuse(code::RESOURCE_EXHAUSTED, "the request is too long".into());
                return self.shared.reply(stream, refused).await;
            }
            Some(Err(error)) => {
                let refused = refuse(code::INVALID_ARGUMENT, format!("no request: {error}"));
                return self.shared.reply(stream, refused).await;
            }
            Some(Ok(request)) => request,
        };
        if request.service != self.shared.role.serves() {
            let what = format!("service {:?} is not there", request.service);
            let refused = refuse(code::UNIMPLEMENTED, what);
            return self.shared.reply(stream, refused).await;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let refused = refuse(code::RESOURCE_EXHAUSTED, "too many calls at once".into());
            return self.shared.reply(stream, refused).await;
        };
        let work = self.service.call(&request.method, request.payload);
        let shared = Arc::clone(&self.shared);
        self.supervisor.watch("NRI call", async move {
            let answering = async { shared.reply(stream, work.await).await };
            shared.closed.run_until_cancelled(answering).await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests;
