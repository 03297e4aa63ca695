//! A scripted HTTP server on loopback for tests. It remembers every request, answers what the script says, and closes
//! the connection after each answer. It runs on threads of its own, so that a test may pause tokio's clock.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::model::Digest;

/// One request as it arrived; header names in lower case.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What to answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    cut_at: Option<usize>,
    /// Then keep the connection open and send nothing more, so long.
    stall: std::time::Duration,
    /// Wait so long before the first byte.
    delay: std::time::Duration,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn cut_at(mut self, at: usize) -> Self {
        self.cut_at = Some(at);
        self
    }

    /// Sends `at` bytes of the body, then nothing for a minute.
    pub(crate) fn stall_at(mut self, at: usize) -> Self {
        self.stall = std::time::Duration::from_secs(60);
        self.cut_at(at)
    }

    /// Says nothing for a minute, then answers.
    pub(crate) fn late(self) -> Self {
        self.after(std::time::Duration::from_secs(60))
    }

    /// Says nothing for so long, then answers.
    pub(crate) fn after(mut self, delay: std::time::Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// The server. It lives until the process ends; tests are short.
pub(crate) struct Stub {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stub {
    /// A plain server.
    pub(crate) fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(script, |stream, script, log| {
            let done = serve(&stream, script, log);
            if done.is_some() {
                stream.shutdown(std::net::Shutdown::Write).ok();
            }
        })
    }

    /// A server that speaks TLS, with a certificate for 127.0.0.1 of the CA in `tests/tls/ca.pem`.
    pub(crate) fn start_tls(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let config = tls_config();
        Self::listen(script, move |mut stream, script, log| {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream.try_clone().unwrap());
            if serve(&mut tls, script, log).is_some() {
                tls.conn.send_close_notify();
                tls.flush().ok();
                stream.flush().ok();
            }
        })
    }

    fn listen(
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
        serve: impl Fn(TcpStream, &Script, &Mutex<Vec<Seen>>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let serve = Arc::new(serve);
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream, &*script, &log));
            }
        });
        Self { address, seen }
    }

    /// `127.0.0.1:port`
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD path` of every request.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen()
            .iter()
            .map(|seen| format!("{} {}", seen.method, seen.path))
            .collect()
    }
}

/// Takes connections, counts them, and says nothing: whoever wants TLS of it cannot connect.
pub(crate) struct Mute {
    address: SocketAddr,
    connects: Arc<AtomicUsize>,
}

impl Mute {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connects = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connects);
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                held.push(stream);
            }
        });
        Self { address, connects }
    }

    /// `127.0.0.1:port`
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// How often it was connected to.
    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }
}

fn tls_config() -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    super::install_crypto_provider();
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tests/tls/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tests/tls/key.pem")).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.unwrap())
}

fn serve(stream: impl Read + Write, script: &Script, log: &Mutex<Vec<Seen>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    // A TLS hello begins with this byte; a plain server says that it does not understand.
    if reader.fill_buf().ok()?.first() == Some(&0x16) {
        let refusal = b"HTTP/1.0 400 Bad Request\r\n\r\nplain HTTP only";
        reader.get_mut().write_all(refusal).ok()?;
        return None;
    }
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut seen = Seen {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        ..Seen::default()
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        seen.headers
            .insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = seen
        .header("content-length")
        .and_then(|text| text.parse().ok());
    seen.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut seen.body).ok()?;
    let reply = script(&seen);
    let is_head = seen.method == "HEAD";
    log.lock().unwrap().push(seen);
    let has_length = reply
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut head = format!(
        "HTTP/1.1 {} Scripted\r\nConnection: close\r\n",
        reply.status
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !has_length {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    std::thread::park_timeout(reply.delay);
    let stream = reader.get_mut();
    stream.write_all(head.as_bytes()).ok()?;
    if !is_head {
        let end = reply
            .cut_at
            .unwrap_or(reply.body.len())
            .min(reply.body.len());
        stream.write_all(&reply.body[..end]).ok()?;
        stream.flush().ok()?;
        #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
        std::thread::sleep(reply.stall);
    }
    stream.flush().ok()
}

/// Blobs and manifests of one repository, answered as a registry would.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Shelf {
    /// Adds a blob and returns its digest.
    pub(crate) fn blob(&mut self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        self.blobs.insert(digest.to_string(), bytes);
        digest
    }

    /// Adds a manifest under its digest and, where given, a tag.
    pub(crate) fn manifest(
        &mut self,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Vec<u8>>,
    ) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::sha256(&bytes);
        for name in [Some(digest.as_str()), tag].into_iter().flatten() {
            self.manifests
                .insert(name.to_owned(), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Answers a request, with ranges.
    pub(crate) fn answer(&self, seen: &Seen) -> Reply {
        let mut parts = seen.path.rsplitn(3, '/');
        let (Some(version), Some(collection)) = (parts.next(), parts.next()) else {
            return Reply::new(404);
        };
        match collection {
            "manifests" => match self.manifests.get(version) {
                Some((media_type, bytes)) => Reply::new(200)
                    .header("Content-Type", media_type)
                    .header("Docker-Content-Digest", Digest::sha256(bytes).to_string())
                    .body(bytes.clone()),
                None => Reply::new(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            },
            "blobs" => match self.blobs.get(version) {
                Some(bytes) => ranged(bytes, seen.header("range")),
                None => Reply::new(404).body(r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
            },
            _ => Reply::new(404),
        }
    }
}

fn ranged(bytes: &[u8], range: Option<&str>) -> Reply {
    let asked = range.and_then(|range| {
        let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
        let to = to.parse().map_or(bytes.len(), |last: usize| last + 1);
        Some((from.parse::<usize>().ok()?, to.min(bytes.len())))
    });
    match asked {
        None => Reply::new(200).body(bytes),
        Some((from, to)) => Reply::new(206)
            .header(
                "Content-Range",
                format!("bytes {from}-{}/{}", to - 1, bytes.len()),
            )
            .body(&bytes[from..to]),
    }
}
