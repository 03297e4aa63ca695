//! Manifests and indexes: decoded from hostile bytes within limits. The declared type and the body must agree, so that
//! one document can never be read as two (the class of CVE-2021-41190).

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::Digest as _;

use super::platform::Platform;
use crate::model::{Classify, Descriptor, Digest, Error, Kind, Result};

/// Largest manifest or index.
pub const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// Largest image configuration.
pub const MAX_CONFIG: u64 = 8 * 1024 * 1024;
/// How deep indexes may nest.
pub const MAX_DEPTH: usize = 4;
const MAX_CHILDREN: usize = 1000;
const MAX_LAYERS: usize = 512;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// The one `Accept` value of resolve requests.
pub(super) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, */*";

/// What a media type says a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// A list of manifests.
    Index,
    /// One image's manifest.
    Manifest,
    /// An image configuration.
    Config,
    /// A layer.
    Layer,
    /// Anything else: an attestation, an artifact, an unknown type.
    Other,
}

/// Sorts a media type.
pub fn media_kind(media_type: &str) -> MediaKind {
    const DOCKER_LAYERS: [&str; 2] = [
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    let base = media_type.split('+').next().unwrap_or(media_type);
    match media_type {
        OCI_INDEX | DOCKER_LIST => MediaKind::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => MediaKind::Manifest,
        "application/vnd.oci.image.config.v1+json"
        | "application/vnd.docker.container.image.v1+json" => MediaKind::Config,
        _ if base.starts_with("application/vnd.oci.image.layer.")
            || DOCKER_LAYERS.iter().any(|known| {
                base.strip_prefix(known)
                    .is_some_and(|rest| matches!(rest, "" | ".gzip" | ".zstd"))
            }) =>
        {
            MediaKind::Layer
        }
        _ => MediaKind::Other,
    }
}

/// A decoded manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Several manifests to choose from.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

/// The children of an index, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Every child, also those of other platforms.
    pub manifests: Vec<Child>,
    /// Annotations of the index itself.
    pub annotations: BTreeMap<String, String>,
}

/// One child of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// What it is.
    pub descriptor: Descriptor,
    /// What it runs on, where the index says so.
    pub platform: Option<Platform>,
}

/// One image: its configuration and its layers, bottom first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// Layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// Annotations of the manifest itself.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

impl RawDescriptor {
    fn into_descriptor(self) -> Result<Descriptor> {
        if self.size == 0 || i64::try_from(self.size).is_err() {
            return Err(Error::invalid(format!(
                "{}: its descriptor's size {} is not possible",
                self.digest, self.size
            )));
        }
        Ok(Descriptor {
            media_type: self.media_type,
            digest: self.digest,
            size: self.size,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// Decodes the bytes of `descriptor`, whose media type decides what they must be.
///
/// # Errors
/// `InvalidArgument` for schema 1, for a body that disagrees with its type, and beyond the limits.
pub fn decode(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document> {
    let bad = |why: &str| Error::invalid(format!("manifest {}: {why}", descriptor.digest));
    let schema1 = || {
        bad(
            "it is of Docker schema 1, which is no longer supported; push the image again with a current tool",
        )
    };
    if descriptor.media_type.starts_with(DOCKER_SCHEMA1) {
        return Err(schema1());
    }
    let kind = media_kind(&descriptor.media_type);
    if !matches!(kind, MediaKind::Index | MediaKind::Manifest) {
        return Err(bad(&format!(
            "unexpected media type {:?}; it is neither an image nor an index",
            super::failure::cut(&descriptor.media_type, 100)
        )));
    }
    let raw: RawDocument = serde_json::from_slice(bytes).classify(Kind::InvalidArgument, || {
        format!("manifest {}: not the JSON of a manifest", descriptor.digest)
    })?;
    if raw.fs_layers.is_some() {
        return Err(schema1());
    }
    let disagrees = raw
        .media_type
        .as_deref()
        .is_some_and(|named| !named.is_empty() && named != descriptor.media_type);
    if disagrees {
        return Err(bad(
            "its mediaType differs from the type it was announced with",
        ));
    }
    match (kind, raw) {
        (
            MediaKind::Index,
            RawDocument {
                manifests,
                config: None,
                layers: None,
                annotations,
                ..
            },
        ) => {
            let manifests = children(manifests.unwrap_or_default())?;
            let annotations = annotations.unwrap_or_default();
            Ok(Document::Index(Index {
                manifests,
                annotations,
            }))
        }
        (
            MediaKind::Manifest,
            RawDocument {
                manifests: None,
                config: Some(config),
                layers,
                annotations,
                ..
            },
        ) => Ok(Document::Manifest(Manifest {
            annotations: annotations.unwrap_or_default(),
            ..manifest(config, layers.unwrap_or_default())?
        })),
        (MediaKind::Manifest, RawDocument { config: None, .. }) => Err(bad("it has no config")),
        _ => Err(bad("it is a manifest and an index at once")),
    }
}

fn children(manifests: Vec<RawDescriptor>) -> Result<Vec<Child>> {
    if manifests.len() > MAX_CHILDREN {
        return Err(Error::invalid(format!(
            "index: {} manifests, more than {MAX_CHILDREN}",
            manifests.len()
        )));
    }
    manifests
        .into_iter()
        .map(|mut raw| {
            let platform = raw.platform.take();
            Ok(Child {
                descriptor: raw.into_descriptor()?,
                platform,
            })
        })
        .collect()
}

fn manifest(config: RawDescriptor, layers: Vec<RawDescriptor>) -> Result<Manifest> {
    if layers.len() > MAX_LAYERS {
        return Err(Error::invalid(format!(
            "manifest: {} layers, more than {MAX_LAYERS}",
            layers.len()
        )));
    }
    let config = config.into_descriptor()?;
    if config.size > MAX_CONFIG {
        return Err(Error::invalid(format!(
            "manifest: configuration of {} bytes, more than {MAX_CONFIG}",
            config.size
        )));
    }
    let layers = layers
        .into_iter()
        .map(RawDescriptor::into_descriptor)
        .collect::<Result<_>>()?;
    Ok(Manifest {
        config,
        layers,
        annotations: BTreeMap::new(),
    })
}

/// Whether `bytes` hash to `digest`.
pub fn matches(digest: &Digest, bytes: &[u8]) -> bool {
    fn hex(hash: &[u8]) -> String {
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
    let found = match digest.algorithm() {
        "sha256" => hex(&sha2::Sha256::digest(bytes)),
        "sha384" => hex(&sha2::Sha384::digest(bytes)),
        "sha512" => hex(&sha2::Sha512::digest(bytes)),
        _ => return false,
    };
    found == digest.hex()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str, body: &[u8]) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest: Digest::sha256(body),
            size: body.len() as u64,
            annotations: BTreeMap::new(),
        }
    }

    fn child(size: i64) -> serde_json::Value {
        json!({"mediaType": OCI_MANIFEST, "digest": Digest::sha256(b"x"), "size": size})
    }

    fn read(media_type: &str, body: &serde_json::Value) -> Result<Document> {
        let bytes = serde_json::to_vec(body).unwrap();
        decode(&descriptor(media_type, &bytes), &bytes)
    }

    #[test]
    fn a_manifest_and_an_index_decode() {
        let manifest =
            json!({"schemaVersion": 2, "config": child(2), "layers": [child(3), child(4)]});
        let Document::Manifest(manifest) = read(OCI_MANIFEST, &manifest).unwrap() else {
            panic!("a manifest");
        };
        assert_eq!(manifest.layers.len(), 2);

        let index = json!({"manifests": [{
            "mediaType": OCI_MANIFEST, "digest": Digest::sha256(b"x"), "size": 7,
            "platform": {"os": "linux", "architecture": "amd64"}
        }]});
        let Document::Index(index) = read(DOCKER_LIST, &index).unwrap() else {
            panic!("an index");
        };
        assert_eq!(index.manifests[0].platform.as_ref().unwrap().os, "linux");
    }

    #[rstest]
    #[case(OCI_MANIFEST, json!({"config": child(1), "layers": [], "manifests": []}))]
    #[case(OCI_INDEX, json!({"manifests": [], "layers": []}))]
    #[case(OCI_INDEX, json!({"manifests": [], "config": child(1)}))]
    #[case(OCI_INDEX, json!({"mediaType": OCI_MANIFEST, "manifests": []}))]
    #[case(OCI_MANIFEST, json!({"fsLayers": [], "config": child(1)}))]
    #[case(OCI_MANIFEST, json!({"layers": []}))]
    #[case("application/vnd.docker.distribution.manifest.v1+prettyjws", json!({"config": child(1)}))]
    #[case("text/plain", json!({"config": child(1)}))]
    #[case(OCI_MANIFEST, json!({"config": child(0)}))]
    #[case(OCI_MANIFEST, json!({"config": child(-1)}))]
    #[case(OCI_MANIFEST, json!({"config": child(1), "layers": [child(0)]}))]
    #[case(OCI_MANIFEST, json!({"config": child(8 * 1024 * 1024 + 1)}))]
    #[case(OCI_MANIFEST, json!({"config": {"digest": "sha256:../../x", "size": 1}}))]
    fn what_may_be_read_in_two_ways_or_is_impossible_is_refused(
        #[case] media_type: &str,
        #[case] body: serde_json::Value,
    ) {
        assert!(read(media_type, &body).is_err());
    }

    #[test]
    fn the_limits_hold() {
        let layers = |count: usize| json!({"config": child(1), "layers": vec![child(1); count]});
        assert!(read(OCI_MANIFEST, &layers(MAX_LAYERS)).is_ok());
        assert!(read(OCI_MANIFEST, &layers(MAX_LAYERS + 1)).is_err());
        let children = |count: usize| json!({"manifests": vec![child(1); count]});
        assert!(read(OCI_INDEX, &children(MAX_CHILDREN)).is_ok());
        assert!(read(OCI_INDEX, &children(MAX_CHILDREN + 1)).is_err());
    }

    #[rstest]
    #[case("application/vnd.oci.image.layer.v1.tar+gzip", MediaKind::Layer)]
    #[case(
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        MediaKind::Layer
    )]
    #[case("application/vnd.docker.image.rootfs.diff.tar.gzip", MediaKind::Layer)]
    #[case(
        "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
        MediaKind::Layer
    )]
    #[case(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
        MediaKind::Layer
    )]
    #[case("application/vnd.docker.image.rootfs.diff.tarball", MediaKind::Other)]
    #[case("application/vnd.docker.container.image.v1+json", MediaKind::Config)]
    #[case("application/vnd.in-toto+json", MediaKind::Other)]
    fn media_types_are_sorted(#[case] media_type: &str, #[case] kind: MediaKind) {
        assert_eq!(media_kind(media_type), kind);
    }

    #[test]
    fn digests_of_each_algorithm_are_checked() {
        assert!(matches(&Digest::sha256(b"abc"), b"abc"));
        assert!(!matches(&Digest::sha256(b"abc"), b"abd"));
        let sha512: String = sha2::Sha512::digest(b"abc")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(matches(
            &format!("sha512:{sha512}").parse().unwrap(),
            b"abc"
        ));
    }
}
