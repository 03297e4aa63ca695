//! What a reference names now: asked of the registry every time, since that also proves that the caller may have it.

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};

use super::coding::{self, Coding};
use super::endpoint::{Ask, Endpoint};
use super::failure::{Failure, shown};
use super::manifest::{ACCEPT, MAX_MANIFEST, matches};
use super::turns::Turns;
use super::{Repository, body};
use crate::model::{Descriptor, Digest, Error, Kind, Reference, Result};

/// What a reference resolved to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The manifest or index.
    pub target: Descriptor,
    /// The host that answered.
    pub host: String,
    /// The manifest's bytes, where resolving brought them along.
    pub body: Option<Bytes>,
}

impl Repository {
    /// Asks the hosts, in order, what the reference names.
    ///
    /// # Errors
    /// The most telling failure of all hosts: `NotFound`, `Unauthenticated`, `PermissionDenied`, `Unavailable` …
    pub async fn resolve(&self) -> Result<Resolved> {
        let by_tag = self.reference().digest().is_none();
        let inner = &*self.inner;
        let may = |endpoint: &Endpoint| {
            let can = endpoint.host().capabilities;
            can.pull && (can.resolve || !by_tag)
        };
        let mut failed = Turns::default();
        for &collection in collections(by_tag) {
            let turns = Turns::new(&inner.endpoints, may);
            let reference = self.reference();
            let asked = inner.in_turn(turns, |endpoint, is_last| {
                Box::pin(resolve_at(endpoint, reference, collection, is_last))
            });
            match asked.await {
                Ok(resolved) => return Ok(resolved),
                Err(turns) => failed = turns,
            }
            // Only where every host says that it does not have it, it may be somewhere else.
            if !failed.all_not_found() {
                break;
            }
        }
        Err(failed.into_error(|| {
            Error::not_found(format!(
                "{}: no configured host may resolve it; see capabilities in hosts.toml",
                self.reference()
            ))
        }))
    }
}

/// Where to look, in order: some registries serve a manifest by digest among the blobs only.
fn collections(by_tag: bool) -> &'static [&'static str] {
    if by_tag {
        &["manifests"]
    } else {
        &["manifests", "blobs"]
    }
}

async fn resolve_at(
    endpoint: &Endpoint,
    reference: &Reference,
    collection: &'static str,
    is_last: bool,
) -> Result<Resolved, Failure> {
    let mut ask = Ask {
        method: Method::HEAD,
        collection,
        version: reference.version(),
        accept: ACCEPT.to_owned(),
        range: None,
        is_ahead: false,
        is_last,
    };
    let host = endpoint.host().authority.clone();
    match endpoint.send(&ask).await {
        Ok(response) => {
            // A blob is read at once: fetching it later as the manifest that it is would not find it.
            let described = described_by_headers(&response, reference)?;
            if let Some(target) = described.filter(|_| collection == "manifests") {
                return Ok(Resolved {
                    target,
                    host,
                    body: None,
                });
            }
        }
        Err(failure) => {
            // A HEAD that is not supported, or whose refusal has its reason in a body that HEAD cannot carry.
            let worth_a_get = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::FORBIDDEN];
            if !failure
                .status
                .is_some_and(|status| worth_a_get.contains(&status))
            {
                return Err(failure);
            }
        }
    }
    ask.method = Method::GET;
    let response = endpoint.send(&ask).await?;
    let url = response.url().clone();
    let media_type = media_type(&response);
    let body = body::read_all(response, MAX_MANIFEST, endpoint.silence(is_last))
        .await
        .inspect_err(|failure| endpoint.blame(failure))?;
    let digest = match reference.digest() {
        None => Digest::sha256(&body),
        Some(digest) if matches(digest, &body) => digest.clone(),
        Some(_) => {
            return Err(Failure::transport(Error::new(
                Kind::Unknown,
                format!(
                    "{}: the answer does not have the digest asked for",
                    shown(&url)
                ),
            )));
        }
    };
    let size = u64::try_from(body.len()).unwrap_or(u64::MAX);
    Ok(Resolved {
        target: Descriptor {
            media_type,
            digest,
            size,
            annotations: Default::default(),
        },
        host,
        body: Some(body),
    })
}

/// The descriptor, where the headers of a HEAD tell all of it.
fn described_by_headers(
    response: &Response,
    reference: &Reference,
) -> Result<Option<Descriptor>, Failure> {
    let text = |name: &str| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::trim)
    };
    let size: Option<u64> = text(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
    if size.is_some_and(|size| size > MAX_MANIFEST) {
        return Err(Failure::too_large(Error::exhausted(format!(
            "{}: manifest larger than {MAX_MANIFEST} bytes",
            shown(response.url())
        ))));
    }
    // For a reference by digest the header proves nothing; the body is checked against the digest when it is fetched.
    let digest = match reference.digest() {
        Some(digest) => Some(digest.clone()),
        None => text("docker-content-digest").and_then(|digest| digest.parse().ok()),
    };
    let media_type = media_type(response);
    // An encoded answer's length is not the manifest's.
    let is_plain = coding::of(response.headers()) == Some(Coding::Identity);
    Ok(match (size, digest) {
        (Some(size), Some(digest)) if is_plain && size > 0 && !media_type.is_empty() => {
            Some(Descriptor {
                media_type,
                digest,
                size,
                annotations: Default::default(),
            })
        }
        _ => None,
    })
}

fn media_type(response: &Response) -> String {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_owned()
}
