//! Reading bodies within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::coding::{self, Coding, Decoder};
use super::failure::{Failure, shown};
use crate::model::Error;

/// How long a document may take in all, however steadily it trickles: it is 8 MiB at the most.
const WHOLE: Duration = Duration::from_secs(120);

/// Reads a whole body of at most `limit` bytes, each part of which arrives within `idle`.
///
/// # Errors
/// Too large, too slow, or the connection failed.
pub(super) async fn read_all(
    response: Response,
    limit: u64,
    idle: Duration,
) -> Result<Bytes, Failure> {
    let url = response.url().clone();
    match tokio::time::timeout(WHOLE, read_steadily(response, limit, idle)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(slow(&url, "the whole answer", WHOLE)),
    }
}

fn slow(url: &reqwest::Url, what: &str, limit: Duration) -> Failure {
    let text = format!("{}: {what} did not arrive within {limit:?}", shown(url));
    Failure::stalled(Error::unavailable(text))
}

async fn read_steadily(
    mut response: Response,
    limit: u64,
    idle: Duration,
) -> Result<Bytes, Failure> {
    let url = response.url().clone();
    let too_large = || {
        Failure::too_large(Error::exhausted(format!(
            "{}: the answer is larger than {limit} bytes",
            shown(&url)
        )))
    };
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let mut decoder = Decoder::new(coding::of(response.headers()).unwrap_or(Coding::Identity));
    let mut body = BytesMut::new();
    let add = |bytes: &[u8], body: &mut BytesMut| {
        let total = u64::try_from(body.len().saturating_add(bytes.len()));
        if total.map_or(true, |total| total > limit) {
            return Err(too_large());
        }
        body.extend_from_slice(bytes);
        Ok(())
    };
    loop {
        let chunk = match tokio::time::timeout(idle, response.chunk()).await {
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Err(error)) => return Err(Failure::sent(error, &url)),
            Err(_elapsed) => return Err(slow(&url, "the next part", idle)),
        };
        if let Some(plain) = decoder.feed(chunk) {
            add(&plain, &mut body)?;
        }
        while let Some(piece) = decoder
            .next()
            .map_err(|error| Failure::undecodable(error, &url))?
        {
            add(&piece, &mut body)?;
        }
    }
}

/// Reads the beginning of an error body; whatever goes wrong only shortens it.
pub(super) async fn read_some(mut response: Response, limit: usize) -> Bytes {
    let mut body = BytesMut::new();
    while body.len() < limit {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    body.truncate(limit);
    body.freeze()
}
