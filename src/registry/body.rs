//! Reading bodies within limits.

use bytes::{Bytes, BytesMut};
use reqwest::Response;

use super::coding::{self, Coding, Decoder};
use super::failure::{Failure, shown};
use crate::model::Error;

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// Too large, or the connection failed.
pub(super) async fn read_all(mut response: Response, limit: u64) -> Result<Bytes, Failure> {
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
        let chunk = match response.chunk().await {
            Ok(None) => return Ok(body.freeze()),
            Ok(Some(chunk)) => chunk,
            Err(error) => return Err(Failure::sent(error, &url)),
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
