//! The HTTP side: connections, requests, upgrades. Without a good token every request gets the same answer.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::io::{InspectReader, InspectWriter};
use tokio_util::sync::CancellationToken;

use crate::model::{Classify as _, Kind, Result};
use crate::ops::Traffic;
use crate::sys;

use super::protocol::{self, Agreed, Refusal};
use super::session::Remote;
use super::tokens::{Path, Ticket};
use super::{Place, Streaming, attach, exec, forward, websocket};

/// How long a client may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of that head.
const HEAD_BYTES: usize = 32 * 1024;
/// Connections that have not been upgraded; one more closes the oldest.
const STRANGERS: usize = 256;

/// Accepts connections until the server stops.
pub(super) async fn serve(streaming: Streaming) -> Result<()> {
    let listener = streaming
        .inner
        .listener
        .try_clone()
        .and_then(TcpListener::from_std)
        .classify(Kind::Internal, || {
            "hand the streaming listener to the runtime".into()
        })?;
    let strangers = Arc::new(Strangers::default());
    let stopping = streaming.inner.stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.cancelled() => return Ok(()),
        };
        match accepted {
            Ok((socket, _)) => welcome(&streaming, socket, &strangers),
            Err(error) if sys::sockets::is_passing(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "the streaming listener cannot accept; trying again");
                tokio::time::sleep(sys::sockets::AFTER_ERROR).await;
            }
        }
    }
}

/// Connections that have shown no token yet, oldest first.
#[derive(Debug, Default)]
struct Strangers(Mutex<(u64, BTreeMap<u64, CancellationToken>)>);

impl Strangers {
    /// Lets one more in, at the cost of the oldest where there are too many.
    fn enter(self: &Arc<Self>) -> Stranger {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, present) = &mut *known;
        if present.len() >= STRANGERS
            && let Some((_, oldest)) = present.pop_first()
        {
            oldest.cancel();
        }
        *next = next.wrapping_add(1);
        let shown_out = CancellationToken::new();
        present.insert(*next, shown_out.clone());
        Stranger {
            number: *next,
            shown_out,
            home: Arc::clone(self),
        }
    }
}

struct Stranger {
    number: u64,
    shown_out: CancellationToken,
    home: Arc<Strangers>,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut known = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.1.remove(&self.number);
    }
}

/// Serves one connection in a task of its own.
fn welcome(streaming: &Streaming, socket: TcpStream, strangers: &Arc<Strangers>) {
    // A peer that vanished is noticed, and small frames are not held back.
    if let Err(error) = sys::sockets::keep_alive(&socket).and_then(|()| socket.set_nodelay(true)) {
        tracing::debug!(%error, "a streaming connection is already gone");
        return;
    }
    let stranger = strangers.enter();
    let streaming = streaming.clone();
    let tasks = streaming.inner.tasks.clone();
    tasks.run("streaming connection", async move {
        let shown_out = stranger.shown_out.clone();
        let served = async {
            match &streaming.inner.tls {
                None => http(&streaming, socket).await,
                Some(tls) => {
                    match tokio::time::timeout(HEAD_LIMIT, Arc::clone(tls).accept(socket)).await {
                        Ok(Ok(stream)) => http(&streaming, stream).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_elapsed) => tracing::debug!("a TLS handshake took too long"),
                    }
                }
            }
        };
        shown_out.run_until_cancelled(served).await;
        drop(stranger);
    });
}

/// One request and its answer. An upgraded connection goes on in a task of its own.
async fn http<T>(streaming: &Streaming, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(streaming, request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a streaming connection ended early");
    }
}

fn answer(streaming: &Streaming, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let ticket = Path::parse(request.uri().path())
        .and_then(|(path, token)| streaming.inner.tokens.take(path, token));
    let Some(ticket) = ticket else {
        // Unknown, used and expired tokens, and every other path.
        return plain(StatusCode::NOT_FOUND, "not found\n".to_owned());
    };
    let place = match streaming.place() {
        Ok(place) => place,
        Err(error) => return plain(StatusCode::TOO_MANY_REQUESTS, error.chain()),
    };
    let agreed = protocol::agree(ticket.path(), request.method(), request.headers());
    let (agreed, headers) = match agreed {
        Ok(agreed) => agreed,
        Err(refusal) => return refused(refusal),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = streaming.inner.tasks.clone();
    tasks.run(
        "stream",
        session(streaming.clone(), ticket, agreed, upgrade, place),
    );
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    // Nobody gets a second guess on the same connection.
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = plain(refusal.status, refusal.text);
    for (name, value) in refusal.headers {
        response.headers_mut().append(name, value);
    }
    response
}

/// Runs what the ticket is for, once the connection is the client's and ours alone.
async fn session(
    streaming: Streaming,
    ticket: Ticket,
    agreed: Agreed,
    upgrade: OnUpgrade,
    place: Place,
) {
    match upgrade.await {
        Ok(io) => converse(&streaming, ticket, agreed, TokioIo::new(io)).await,
        Err(error) => tracing::debug!(%error, "a client left before its upgrade"),
    }
    drop(place);
}

async fn converse(streaming: &Streaming, ticket: Ticket, agreed: Agreed, io: TokioIo<Upgraded>) {
    let inner = &streaming.inner;
    let stopping = &inner.stopping;
    let (kind, object) = match &ticket {
        Ticket::Exec { container, .. } => ("Exec", container.short()),
        Ticket::Attach { container, .. } => ("Attach", container.short()),
        Ticket::PortForward { sandbox, .. } => ("PortForward", sandbox.short()),
    };
    let shown = inner.live.begin(kind, object);
    shown.step("open");
    shown.patiently();
    let io = counted(io, shown.carries());
    match ticket {
        Ticket::Exec {
            container,
            command,
            asked,
        } => {
            tracing::debug!(container.id = %container, "exec");
            if let Some(remote) = remote(streaming, asked, agreed, io).await {
                exec::run(
                    &inner.containers,
                    &container,
                    command,
                    asked.tty,
                    remote,
                    stopping,
                )
                .await;
            }
        }
        Ticket::Attach { container, asked } => {
            tracing::debug!(container.id = %container, "attach");
            if let Some(remote) = remote(streaming, asked, agreed, io).await {
                attach::run(&inner.containers, &container, remote, stopping).await;
            }
        }
        Ticket::PortForward { sandbox, ports } => {
            tracing::debug!(sandbox.id = %sandbox, "port-forward");
            let (limits, tasks) = (streaming.limits(), &inner.tasks);
            let pods = &inner.sandboxes;
            match agreed {
                Agreed::WebSocketForward(coding) => {
                    let end = (tasks, stopping);
                    forward::over_channels(io, coding, (pods, &sandbox), &ports, &limits, end)
                        .await;
                }
                Agreed::Tunnel => {
                    let (io, driver) = websocket::tunnel(io).await;
                    tasks.run("tunnel", driver);
                    forward::over_spdy(io, pods, &sandbox, &limits, tasks, stopping).await;
                }
                Agreed::SpdyForward | Agreed::Spdy(_) | Agreed::WebSocket(..) => {
                    forward::over_spdy(io, pods, &sandbox, &limits, tasks, stopping).await;
                }
            }
        }
    }
}

/// `io`, all of whose bytes count.
fn counted<T>(io: T, traffic: Traffic) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let received = traffic.clone();
    let io = InspectReader::new(io, move |bytes: &[u8]| received.received(bytes.len()));
    InspectWriter::new(io, move |bytes: &[u8]| traffic.sent(bytes.len()))
}

async fn remote<T>(
    streaming: &Streaming,
    asked: super::Asked,
    agreed: Agreed,
    io: T,
) -> Option<Remote>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (limits, tasks) = (streaming.limits(), &streaming.inner.tasks);
    match agreed {
        Agreed::Spdy(version) => Remote::over_spdy(io, version, asked, &limits, tasks).await,
        Agreed::WebSocket(version, coding) => {
            Some(Remote::over_websocket(io, (version, coding), asked, &limits, tasks).await)
        }
        // Agreed on for port-forward only.
        Agreed::SpdyForward | Agreed::Tunnel | Agreed::WebSocketForward(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::model::Timestamp;
    use crate::model::clock::ManualClock;
    use crate::ops::{Carried, LiveTable};

    #[tokio::test]
    async fn bytes_of_a_connection_count_in_the_direction_that_they_take() {
        let live = LiveTable::new(Arc::new(ManualClock::at(Timestamp(0))));
        let shown = live.begin("Exec", "web");
        let (mut client, io) = tokio::io::duplex(64);
        let mut io = counted(io, shown.carries());
        let mut taken = [0; 4];

        client.write_all(b"four").await.unwrap();
        io.read_exact(&mut taken).await.unwrap();
        io.write_all(b"answer").await.unwrap();

        let (received, sent) = (4, 6);
        let carried = live.snapshot()[0].carried;
        assert_eq!(carried, Some(Carried { received, sent }));
    }
}
