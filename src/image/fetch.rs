//! Fetching: documents and layers of one pull, from its registry into the content store.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::facts::Documents;
use super::labels;
use super::progress::Progress;
use super::store::Store;
use super::unpack::BringLayer;
use crate::model::{Descriptor, Error, Kind, Reference, Result};
use crate::registry::manifest::{MediaKind, decode, media_kind};
use crate::registry::{Repository, Resolved};
use crate::telemetry::traces::Place;

/// Documents and layers by way of the content store, fetched where they are missing.
pub(super) struct Fetch<'a> {
    pub(super) progress: &'a Progress,
    pub(super) store: &'a Store<'a>,
    pub(super) repository: &'a Repository,
    pub(super) resolved: &'a Resolved,
    pub(super) max_layer: u64,
}

impl Documents for Fetch<'_> {
    fn document<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        limit: u64,
    ) -> BoxFuture<'a, Result<Bytes>> {
        Box::pin(async move {
            let reference = self.repository.reference();
            let present = self.store.present(descriptor, limit).await?;
            let is_present = present.is_some();
            let at_hand = self
                .resolved
                .body
                .as_ref()
                .filter(|_| descriptor.digest == self.resolved.target.digest);
            let bytes = match (present, at_hand) {
                (Some(bytes), _) if !is_long(&bytes, descriptor.size) => {
                    return Err(Error::new(
                        Kind::Unknown,
                        format!(
                            "{}: described as {} bytes and has {}",
                            descriptor.digest,
                            descriptor.size,
                            bytes.len()
                        ),
                    ));
                }
                (Some(bytes), _) => bytes,
                (None, Some(body)) => body.clone(),
                (None, None) => self
                    .repository
                    .document(descriptor, limit)
                    .await
                    .map_err(|error| registry_error(reference, error))?,
            };
            let mut labels = match media_kind(&descriptor.media_type) {
                // Checked before it is kept: what cannot be read gets no references.
                MediaKind::Index | MediaKind::Manifest => {
                    labels::children(&decode(descriptor, &bytes)?)
                }
                MediaKind::Config | MediaKind::Layer | MediaKind::Other => BTreeMap::new(),
            };
            if !is_present {
                labels.extend(labels::source(reference, &BTreeMap::new()));
            }
            self.store.put(descriptor, bytes.clone(), labels).await?;
            if is_present {
                self.store.note_source(descriptor, reference).await?;
            }
            Ok(bytes)
        })
    }
}

fn is_long(bytes: &[u8], size: u64) -> bool {
    u64::try_from(bytes.len()).is_ok_and(|length| length == size)
}

impl BringLayer for Fetch<'_> {
    fn bring<'a>(&'a self, layer: &'a Descriptor) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if layer.size > self.max_layer {
                return Err(Error::new(
                    Kind::Aborted,
                    format!(
                        "layer {}: {} bytes, more than images.max_layer_bytes allows ({})",
                        layer.digest, layer.size, self.max_layer
                    ),
                ));
            }
            let reference = self.repository.reference();
            let meter = self.progress.meter(&layer.digest);
            let on_registry_error = |error| registry_error(reference, error);
            let span = Place::here().begin("fetch layer");
            span.note("digest", layer.digest.as_str());
            span.count("bytes", layer.size);
            let fetching = self
                .store
                .fetch(layer, self.repository, &meter, on_registry_error);
            let fetched = span.place().clone().hold(fetching).await;
            if let Err(error) = &fetched {
                span.fail(&error.chain());
            }
            fetched
        })
    }
}

/// A failure of the registry. Clients know an unavailable registry by the first word of the message and by the code
/// `Unknown`, so nothing may be put before it.
pub(super) fn registry_error(reference: &Reference, error: Error) -> Error {
    match error.kind() {
        Kind::Unavailable | Kind::DeadlineExceeded => Error::new(
            Kind::Unknown,
            format!("{UNAVAILABLE}: pull {reference}: {}", error.chain()),
        ),
        _ => error.context(format!("pull {reference}")),
    }
}

pub(super) const UNAVAILABLE: &str = "RegistryUnavailable";
