//! Content by digest: small documents whole and checked, blobs as a stream that mends itself.

use bytes::Bytes;
use reqwest::Method;

use super::blob::Blob;
use super::endpoint::{Ask, Endpoint};
use super::failure::{Failure, shown};
use super::manifest::{MediaKind, matches, media_kind};
use super::range::Want;
use super::{Inner, Repository, body};
use crate::model::{Descriptor, Error, Kind, Result};

impl Repository {
    /// Fetches a small document, at most `limit` bytes, and checks its size and digest.
    ///
    /// # Errors
    /// The most telling failure of all hosts.
    pub async fn document(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        if descriptor.size > limit {
            return Err(Error::exhausted(format!(
                "{}: {} bytes, more than the {limit} that are allowed for it",
                descriptor.digest, descriptor.size
            )));
        }
        let inner = &*self.inner;
        let asked = inner
            .in_turn(inner.pull_turns(), |endpoint, is_last| {
                Box::pin(document_at(endpoint, descriptor, is_last))
            })
            .await;
        asked.map_err(|turns| turns.into_error(|| no_host(inner)))
    }

    /// Opens a blob from byte `offset` on. Nothing is sent before the first [`Blob::next`].
    pub fn blob(&self, descriptor: Descriptor, offset: u64) -> Blob {
        Blob::new(&self.inner, descriptor, offset)
    }
}

async fn document_at(
    endpoint: &Endpoint,
    descriptor: &Descriptor,
    is_last: bool,
) -> Result<Bytes, Failure> {
    let all = Want {
        start: 0,
        end: descriptor.size,
        is_ahead: false,
        is_all: false,
    };
    let response = endpoint.send(&ask(descriptor, all, is_last)).await?;
    let url = response.url().clone();
    let body = body::read_all(response, descriptor.size, endpoint.silence(is_last))
        .await
        .inspect_err(|failure| endpoint.blame(failure))?;
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    endpoint.health().received(length);
    if length == descriptor.size && matches(&descriptor.digest, &body) {
        return Ok(body);
    }
    Err(Failure::transport(Error::new(
        Kind::Unknown,
        format!(
            "{}: the answer has not the size and digest of {}",
            shown(&url),
            descriptor.digest
        ),
    )))
}

/// The request for content.
pub(super) fn ask(descriptor: &Descriptor, want: Want, is_last: bool) -> Ask<'_> {
    let collection = match media_kind(&descriptor.media_type) {
        MediaKind::Index | MediaKind::Manifest => "manifests",
        MediaKind::Config | MediaKind::Layer | MediaKind::Other => "blobs",
    };
    let is_plain_text = !descriptor.media_type.is_empty()
        && descriptor
            .media_type
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b',');
    Ask {
        method: Method::GET,
        collection,
        version: descriptor.digest.as_str(),
        accept: if is_plain_text {
            format!("{}, */*", descriptor.media_type)
        } else {
            "*/*".to_owned()
        },
        range: want.header(descriptor.size),
        is_ahead: want.is_ahead,
        is_last,
    }
}

/// No host of the repository may be asked for content.
pub(super) fn no_host(inner: &Inner) -> Error {
    Error::not_found(format!(
        "{}: no configured host may be pulled from; see capabilities in hosts.toml",
        inner.reference
    ))
}
