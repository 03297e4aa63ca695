//! A registry that misbehaves on demand: the repository's name says how. It counts what it is asked.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use podwright::model::Digest;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::case::Outcome;

/// Bytes of the file in an image's layer: more than one write to the content store.
const FILE: usize = 3 << 20;
/// The same of the repository `slow`, which takes seconds for it.
const SLOW_FILE: usize = 24 << 20;
/// Between two pieces of it.
const PAUSE: Duration = Duration::from_millis(15);
/// What a connection that is cut delivers before.
const CUT: usize = 1 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An image of one layer.
struct Image {
    manifest: Vec<u8>,
    blobs: BTreeMap<String, Vec<u8>>,
    layer: String,
}

impl Image {
    /// One whose layer holds a file that does not compress, and another for each `seed`: pulls that wait for each
    /// other's blobs would tell nothing.
    fn new(seed: &str) -> Outcome<Self> {
        let size = if seed == "slow" { SLOW_FILE } else { FILE };
        let mut noise = Vec::with_capacity(size);
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in seed.bytes() {
            word = word.rotate_left(7) ^ u64::from(byte);
        }
        while noise.len() < size {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            noise.extend_from_slice(&word.to_le_bytes());
        }
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(noise.len())?);
        header.set_mode(0o644);
        tar.append_data(&mut header, "noise", noise.as_slice())?;
        let layer = tar.into_inner()?;
        let layer_digest = Digest::sha256(&layer);
        let config = serde_json::to_vec(&json!({
            "os": "linux", "architecture": "amd64", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest.as_str()]},
        }))?;
        let config_digest = Digest::sha256(&config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest.as_str(), "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest.as_str(), "size": layer.len(),
            }],
        }))?;
        let layer_name = layer_digest.to_string();
        Ok(Self {
            manifest,
            layer: layer_name.clone(),
            blobs: BTreeMap::from([(config_digest.to_string(), config), (layer_name, layer)]),
        })
    }

    /// Bytes of the layer's blob.
    fn layer_size(&self) -> usize {
        self.blobs.get(&self.layer).map_or(0, Vec::len)
    }
}

/// An image for each repository.
pub(super) struct Shelf(BTreeMap<String, Image>);

impl Shelf {
    /// Images for the repositories `names`.
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Outcome<Self> {
        let made = names.map(|name| Ok((name.to_owned(), Image::new(name)?)));
        Ok(Self(made.collect::<Outcome<_>>()?))
    }

    /// Bytes of the layer of `name`.
    pub(super) fn layer_size(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, Image::layer_size)
    }
}

/// What was asked of one repository.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) requests: usize,
    /// Bytes of layer bodies that were sent.
    pub(super) layer_bytes: usize,
    /// Requests that showed credentials where none belong.
    pub(super) leaks: usize,
}

/// The registry's counts, by repository.
pub(super) type Counts = Arc<Mutex<BTreeMap<String, Asked>>>;

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, shelf: Arc<Shelf>, counts: Counts) -> Outcome {
    let mut open = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let (shelf, counts) = (Arc::clone(&shelf), Arc::clone(&counts));
        open.spawn(async move {
            // A client that goes away in the middle is what half of this is about.
            drop(answer(stream, &shelf, &counts).await);
        });
        while open.try_join_next().is_some() {}
    }
}

struct Request {
    method: String,
    /// What the repository's name says.
    how: String,
    /// Below the repository: `manifests/1`, `blobs/sha256:…`.
    what: String,
    offset: usize,
    authorization: Option<String>,
}

async fn read(stream: &mut TcpStream) -> Outcome<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 << 10 {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?;
    let mut lines = head.lines();
    let first = lines.next().unwrap_or_default();
    let (method, target) = first.split_once(' ').unwrap_or_default();
    let path = target.split([' ', '?']).next().unwrap_or_default();
    let rest = path.trim_start_matches("/v2/").trim_start_matches('/');
    let (how, what) = rest.split_once('/').unwrap_or((rest, ""));
    let header = |name: &str| {
        lines.clone().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let offset = header("range").and_then(|range| {
        let from = range.strip_prefix("bytes=")?.split('-').next()?;
        from.parse().ok()
    });
    Ok(Request {
        method: method.to_owned(),
        how: how.to_owned(),
        what: what.to_owned(),
        offset: offset.unwrap_or(0),
        authorization: header("authorization"),
    })
}

async fn answer(mut stream: TcpStream, shelf: &Shelf, counts: &Counts) -> Outcome {
    let request = read(&mut stream).await?;
    note(counts, &request.how, |asked| {
        asked.requests += 1;
        // Only the realm of `evil-realm` asks for credentials, and it is none of ours.
        asked.leaks += usize::from(request.authorization.is_some() && request.how == "token");
    });
    match request.how.as_str() {
        "hang" => std::future::pending::<()>().await,
        "500" => return head(&mut stream, 500, &[], 0).await,
        "429" => return head(&mut stream, 429, &[("Retry-After", "1")], 0).await,
        "redirects" => {
            let to = [("Location", "/v2/redirects/manifests/1")];
            return head(&mut stream, 307, &to, 0).await;
        }
        "unauthorized" => {
            let challenge = [("WWW-Authenticate", "Basic realm=\"r\"")];
            return head(&mut stream, 401, &challenge, 0).await;
        }
        "evil-realm" => {
            let realm = "Bearer realm=\"http://127.0.0.2:5012/token/evil\",service=\"s\"";
            return head(&mut stream, 401, &[("WWW-Authenticate", realm)], 0).await;
        }
        "endless-manifest" => return endless(&mut stream).await,
        _ => {}
    }
    let Some(image) = shelf.0.get(&request.how) else {
        return head(&mut stream, 404, &[], 0).await;
    };
    if request.what.starts_with("manifests/") {
        return body(&mut stream, &request, MANIFEST, &image.manifest).await;
    }
    let name = request.what.trim_start_matches("blobs/");
    match image.blobs.get(name) {
        Some(blob) if name == image.layer => layer(&mut stream, &request, blob, counts).await,
        Some(blob) => body(&mut stream, &request, "application/octet-stream", blob).await,
        None => head(&mut stream, 404, &[], 0).await,
    }
}

/// The layer, sent as the repository's name says.
async fn layer(stream: &mut TcpStream, request: &Request, blob: &[u8], counts: &Counts) -> Outcome {
    let rest = blob.get(request.offset..).unwrap_or_default();
    let range = format!("bytes {}-{}/{}", request.offset, blob.len() - 1, blob.len());
    let partial = [("Content-Range", range.as_str())];
    let (status, headers) = match request.offset {
        0 => (200, &[][..]),
        _ => (206, &partial[..]),
    };
    let mut bytes = rest.to_vec();
    let mut length = bytes.len();
    match request.how.as_str() {
        "wrong-digest" => bytes.iter_mut().for_each(|byte| *byte ^= 1),
        "too-long" => {
            bytes.extend_from_slice(&[0; 4096]);
            length = bytes.len();
        }
        "too-short" => {
            bytes.truncate(bytes.len() / 2);
            length = bytes.len();
        }
        "cut" | "hang-mid-blob" => bytes.truncate(CUT),
        "drip" => bytes.truncate(1000),
        _ => {}
    }
    head(stream, status, headers, length).await?;
    for piece in bytes.chunks(64 << 10) {
        stream.write_all(piece).await?;
        note(counts, &request.how, |asked| {
            asked.layer_bytes += piece.len()
        });
        if request.how == "slow" {
            tokio::time::sleep(PAUSE).await;
        }
    }
    match request.how.as_str() {
        "hang-mid-blob" => std::future::pending().await,
        "drip" => loop {
            stream.write_all(b".").await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        },
        _ => Ok(stream.shutdown().await?),
    }
}

async fn body(stream: &mut TcpStream, request: &Request, kind: &str, bytes: &[u8]) -> Outcome {
    let digest = Digest::sha256(bytes);
    let headers = [
        ("Content-Type", kind),
        ("Docker-Content-Digest", digest.as_str()),
    ];
    head(stream, 200, &headers, bytes.len()).await?;
    if request.method != "HEAD" {
        stream.write_all(bytes).await?;
    }
    Ok(stream.shutdown().await?)
}

/// A manifest without end or length.
async fn endless(stream: &mut TcpStream) -> Outcome {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {MANIFEST}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let piece = [b' '; 64 << 10];
    loop {
        stream.write_all(&piece).await?;
    }
}

async fn head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    length: usize,
) -> Outcome {
    let mut text = format!(
        "HTTP/1.1 {status} As planned\r\nContent-Length: {length}\r\nConnection: close\r\n"
    );
    for (key, value) in headers {
        write!(text, "{key}: {value}\r\n")?;
    }
    text.push_str("\r\n");
    Ok(stream.write_all(text.as_bytes()).await?)
}

fn note(counts: &Counts, how: &str, change: impl FnOnce(&mut Asked)) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    change(counts.entry(how.to_owned()).or_default());
}
