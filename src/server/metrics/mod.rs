//! The endpoint that Prometheus scrapes: one path, one request a connection, few connections. It is not needed to serve
//! pods: where its address cannot be had, that is logged, and tried again.

mod logs;
mod network;
mod process;
mod reports;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};

pub(super) use reports::Reports;

use super::sockets::{self, Admission};
use crate::config::settings::MetricsAddress;
use crate::model::{Classify as _, Kind, Result};
use crate::ops::Supervisor;
use crate::sys;
use crate::telemetry::{self, Sources};

/// Connections at the same time; one more is closed at once.
const CONNECTIONS: usize = 16;
/// How long a client may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take for everything.
const WHOLE_LIMIT: Duration = Duration::from_secs(30);
/// Bytes and lines of the head.
const HEAD_BYTES: usize = 16 * 1024;
const HEAD_LINES: usize = 64;
/// Pause between two tries to get the address.
const RETRY: Duration = Duration::from_secs(30);
const PATH: &str = "/metrics";

/// Answers scrapes of `sources` at `address` until the server stops.
pub(super) async fn listen(address: MetricsAddress, sources: Sources, supervisor: Supervisor) {
    let stop = supervisor.stopping().clone();
    let endpoint = Endpoint {
        sources,
        supervisor,
        places: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    let serving = async {
        let mut last = None;
        loop {
            let why = match endpoint.serve(&address).await {
                Ok(()) => return,
                Err(error) => error.chain(),
            };
            if last.as_ref() != Some(&why) {
                tracing::warn!(why, "metrics cannot be scraped; it is tried again");
            }
            last = Some(why);
            tokio::time::sleep(RETRY).await;
        }
    };
    stop.run_until_cancelled_owned(serving).await;
}

struct Endpoint {
    sources: Sources,
    supervisor: Supervisor,
    places: Arc<Semaphore>,
}

impl Endpoint {
    async fn serve(&self, address: &MetricsAddress) -> Result<()> {
        match address {
            MetricsAddress::Tcp(address) => {
                let listener = bind(*address).await?;
                tracing::info!(%address, "metrics can be scraped");
                self.accept(TcpListenerStream::new(listener)).await;
            }
            MetricsAddress::Unix(path) => {
                let at = path.clone();
                let listener = sys::off_thread("bind the metrics socket", move || bind_unix(&at));
                let listener = UnixListener::from_std(listener.await?)
                    .classify(Kind::Internal, || "hand over the metrics socket".into())?;
                let _made = Made(path.clone());
                tracing::info!(socket = %path.display(), "metrics can be scraped");
                self.accept(UnixListenerStream::new(listener)).await;
            }
        }
        Ok(())
    }

    /// Takes connections for ever.
    async fn accept<T>(&self, mut incoming: impl Stream<Item = io::Result<T>> + Unpin)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        while let Some(next) = incoming.next().await {
            let stream = match next {
                Ok(stream) => stream,
                Err(error) if sys::sockets::is_passing(&error) => continue,
                Err(error) => {
                    tracing::debug!(%error, "a connection for metrics was not taken");
                    tokio::time::sleep(sys::sockets::AFTER_ERROR).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
                tracing::debug!("too many connections for metrics");
                continue;
            };
            let sources = self.sources.clone();
            let stop = self.supervisor.stopping().clone();
            self.supervisor.watch("metrics connection", async move {
                let served = tokio::time::timeout(WHOLE_LIMIT, http(stream, &sources));
                if let Some(Err(_elapsed)) = stop.run_until_cancelled(served).await {
                    tracing::debug!("a scrape of metrics took too long");
                }
                drop(place);
            });
        }
    }
}

/// The path of a socket, which goes with the listener.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(socket = %self.0.display(), %error, "the metrics socket was left behind");
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .classify(Kind::Unavailable, || {
            format!("metrics.address: listen on {address}")
        })
}

fn bind_unix(path: &Path) -> Result<StdUnixListener> {
    let listener = sockets::bind_blocking("metrics.address", path, &Admission::default())?;
    listener
        .set_nonblocking(true)
        .classify(Kind::Internal, || "make the metrics socket ready".into())?;
    Ok(listener)
}

/// One request and its answer.
async fn http<T: AsyncRead + AsyncWrite + Unpin>(io: T, sources: &Sources) {
    let service = service_fn(|request: Request<Incoming>| {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        async move { Ok::<_, Infallible>(answer(&method, &path, sources).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_LINES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a scrape of metrics ended early");
    }
}

async fn answer(method: &Method, path: &str, sources: &Sources) -> Response<Full<Bytes>> {
    if path != PATH {
        return plain(StatusCode::NOT_FOUND, "not found\n".to_owned());
    }
    if method != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        let get = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, get);
        return response;
    }
    let sources = sources.clone();
    match sys::off_thread("read the metrics", move || sources.scrape_blocking()).await {
        Ok(text) => typed(StatusCode::OK, telemetry::CONTENT_TYPE, text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be shown");
            plain(StatusCode::INTERNAL_SERVER_ERROR, error.chain())
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", text)
}

fn typed(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    /// What a server that got `request` on a connection of its own says.
    async fn asked(request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(request.as_bytes()).await.unwrap();
        http(server, &Sources::new(Vec::new())).await;
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn one_path_answers_one_method() {
        let good = asked("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(good.starts_with("HTTP/1.1 200 "), "{good}");
        assert!(good.contains("application/openmetrics-text; version=1.0.0"));
        assert!(good.ends_with("podwright_metrics_left_out 0\n# EOF\n"));

        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            ("GET /metrics/x HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            (
                "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
                "405",
            ),
        ] {
            let said = asked(request).await;
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{said}");
        }
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let line = format!("X-Long: {}\r\n", "x".repeat(HEAD_BYTES));
        let long = asked(&format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{line}\r\n")).await;
        let lines = "X-Many: x\r\n".repeat(HEAD_LINES);
        let many = asked(&format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;

        assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
        assert!(many.starts_with("HTTP/1.1 431 "), "{many}");
    }

    #[tokio::test]
    async fn the_socket_is_for_root_and_takes_so_many_connections_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.sock");
        let supervisor = Supervisor::new();
        let address = MetricsAddress::Unix(path.clone());
        let sources = Sources::new(Vec::new());
        supervisor.watch("test", listen(address, sources, supervisor.clone()));
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(UnixStream::connect(&path).await.unwrap());
        }
        let mut further = UnixStream::connect(&path).await.unwrap();
        assert_eq!(further.read(&mut [0]).await.unwrap(), 0);

        supervisor.drain(Duration::from_secs(1)).await;
        assert!(!path.exists());
    }
}
