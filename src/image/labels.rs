//! Labels and names that we share with containerd's CRI plugin, `ctr` and `nerdctl` (contract A15). Only digests and
//! checked repository names ever get into them; nothing else that an image or a registry says does.

use std::collections::BTreeMap;

use crate::model::{Descriptor, Digest, Reference};
use crate::registry::manifest::{Document, MediaKind, media_kind};

/// Marks a record as one that a CRI server keeps.
pub(super) const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");
/// Marks a record that garbage collection leaves alone.
pub(super) const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");
/// On a layer blob: what it unpacks to.
pub(super) const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// On a snapshot: the committed snapshot that it is for.
pub(super) const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

const GC_CONTENT: &str = "containerd.io/gc.ref.content";
const GC_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot";
const SOURCE: &str = "containerd.io/distribution.source";
/// containerd refuses labels whose key and value are longer together.
const MAX_LABEL: usize = 4096;

/// The references from a manifest or index to its children, all of them, also those of platforms not fetched.
pub(super) fn children(document: &Document) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut manifests = 0_usize;
    let mut layers = 0_usize;
    let mut others = 0_usize;
    let mut add = |descriptor: &Descriptor, kind: MediaKind| {
        let (key, count) = match kind {
            MediaKind::Manifest => ("m.", &mut manifests),
            MediaKind::Layer => ("l.", &mut layers),
            MediaKind::Config => {
                let key = format!("{GC_CONTENT}.config");
                labels.insert(key, descriptor.digest.to_string());
                return;
            }
            MediaKind::Index | MediaKind::Other => ("", &mut others),
        };
        labels.insert(
            format!("{GC_CONTENT}.{key}{count}"),
            descriptor.digest.to_string(),
        );
        *count = count.saturating_add(1);
    };
    match document {
        Document::Index(index) => {
            for child in &index.manifests {
                add(&child.descriptor, media_kind(&child.descriptor.media_type));
            }
        }
        Document::Manifest(manifest) => {
            for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
                add(blob, media_kind(&blob.media_type));
            }
        }
    }
    labels
}

/// On the configuration blob: the snapshot chain that the image needs in `snapshotter`.
pub(super) fn snapshot_of(snapshotter: &str, chain_id: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([(format!("{GC_SNAPSHOT}.{snapshotter}"), chain_id.to_string())])
}

/// Where a blob was fetched from, added to what `present` says already. Empty where that would be too long.
pub(super) fn source(
    reference: &Reference,
    present: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let domain = reference.domain();
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => domain,
    };
    let key = format!("{SOURCE}.{host}");
    let mut repositories: Vec<&str> = present
        .get(&key)
        .map(|held| held.split(',').filter(|held| !held.is_empty()).collect())
        .unwrap_or_default();
    repositories.push(reference.repository());
    repositories.sort_unstable();
    repositories.dedup();
    let value = repositories.join(",");
    if key.len().saturating_add(value.len()) > MAX_LABEL {
        return BTreeMap::new();
    }
    BTreeMap::from([(key, value)])
}

/// The labels of an image record.
pub(super) fn record(pinned: bool) -> BTreeMap<String, String> {
    let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let mut labels = BTreeMap::from([pair(MANAGED)]);
    if pinned {
        labels.extend([pair(PINNED)]);
    }
    labels
}

/// The name of the ingest of a blob, the same that other clients use, so that they wait for each other.
pub(super) fn ingest(descriptor: &Descriptor) -> String {
    let kind = match media_kind(&descriptor.media_type) {
        MediaKind::Index => "index",
        MediaKind::Manifest => "manifest",
        MediaKind::Config => "config",
        MediaKind::Layer => "layer",
        MediaKind::Other if descriptor.media_type == "application/vnd.in-toto+json" => {
            "attestation"
        }
        MediaKind::Other => "unknown",
    };
    format!("{kind}-{}", descriptor.digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::manifest::{Child, Index, Manifest};

    fn blob(media_type: &str, text: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest: Digest::sha256(text.as_bytes()),
            size: 1,
            annotations: BTreeMap::new(),
        }
    }

    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    #[test]
    fn every_child_is_referred_to_and_counted_by_its_kind() {
        let manifest = Document::Manifest(Manifest {
            config: blob(CONFIG, "c"),
            layers: vec![blob(LAYER, "a"), blob("x/y", "o"), blob(LAYER, "b")],
            annotations: BTreeMap::new(),
        });
        let keys: Vec<String> = children(&manifest).into_keys().collect();
        assert_eq!(
            keys,
            [
                "containerd.io/gc.ref.content.0",
                "containerd.io/gc.ref.content.config",
                "containerd.io/gc.ref.content.l.0",
                "containerd.io/gc.ref.content.l.1",
            ]
        );

        let child = |media_type: &str, text: &str| Child {
            descriptor: blob(media_type, text),
            platform: None,
        };
        let index = Document::Index(Index {
            manifests: vec![
                child(MANIFEST, "1"),
                child(INDEX, "2"),
                child(MANIFEST, "3"),
            ],
            annotations: BTreeMap::new(),
        });
        let labels = children(&index);
        assert_eq!(labels.len(), 3);
        assert_eq!(
            labels["containerd.io/gc.ref.content.m.1"],
            Digest::sha256(b"3").to_string()
        );
    }

    #[test]
    fn sources_are_merged_sorted_and_limited() {
        let reference: Reference = "host.tld:5000/team/b:1".parse().unwrap();
        let key = "containerd.io/distribution.source.host.tld".to_owned();

        let present = BTreeMap::from([(key.clone(), "team/c,team/a,team/b".to_owned())]);
        assert_eq!(source(&reference, &present)[&key], "team/a,team/b,team/c");

        let long = BTreeMap::from([(key, "x".repeat(4090))]);
        assert!(source(&reference, &long).is_empty());
    }

    #[test]
    fn ingests_are_named_as_other_clients_name_them() {
        let digest = Digest::sha256(b"a");
        assert_eq!(ingest(&blob(LAYER, "a")), format!("layer-{digest}"));
        assert_eq!(ingest(&blob("x/y", "a")), format!("unknown-{digest}"));
    }
}
