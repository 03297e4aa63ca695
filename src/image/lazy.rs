//! Lazy snapshotters (stargz, nydus, soci): told by labels which layer of which image a snapshot is for, they mount it
//! without its blob and fetch what is read.

use std::collections::BTreeMap;

use super::facts::Layer;
use crate::containerd::PluginInfo;
use crate::model::{Digest, Reference};

const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST_DIGEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";
const IMAGE_LAYERS: &str = "containerd.io/snapshot/cri.image-layers";
/// By this a snapshotter asks for the labels.
const EXPORT: &str = "enable_remote_snapshot_annotations";
/// Longest label that containerd takes, key and value together.
const MAX_LABEL: usize = 4096;

/// What a lazy snapshotter has to know to fetch layers by itself.
#[derive(Clone, Debug)]
pub(super) struct Lazy<'a> {
    /// The image, as it is pulled.
    pub(super) reference: &'a Reference,
    /// The manifest that was chosen for this machine.
    pub(super) manifest: &'a Digest,
    /// All layers of the image, bottom first.
    pub(super) layers: &'a [Layer],
}

impl Lazy<'_> {
    /// The labels for the snapshot of `layer`.
    pub(super) fn labels(&self, layer: &Layer) -> BTreeMap<String, String> {
        let here = self
            .layers
            .iter()
            .position(|other| other.chain_id == layer.chain_id);
        let from_here = self.layers.get(here.unwrap_or(0)..).unwrap_or_default();
        let digests = from_here.iter().map(|layer| layer.blob.digest.as_str());
        BTreeMap::from([
            (IMAGE_REF.to_owned(), self.reference.to_string()),
            (MANIFEST_DIGEST.to_owned(), self.manifest.to_string()),
            (LAYER_DIGEST.to_owned(), layer.blob.digest.to_string()),
            (
                IMAGE_LAYERS.to_owned(),
                joined(digests, MAX_LABEL.saturating_sub(IMAGE_LAYERS.len())),
            ),
        ])
    }
}

/// As many whole `parts` as `room` takes, joined by commas.
fn joined<'a>(parts: impl Iterator<Item = &'a str>, room: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let comma = usize::from(!text.is_empty());
        if text.len().saturating_add(comma).saturating_add(part.len()) > room {
            break;
        }
        if comma > 0 {
            text.push(',');
        }
        text.push_str(part);
    }
    text
}

/// Whether `snapshotter` wants the labels: the operator says so, or its plugin.
pub(super) fn is_wanted(snapshotter: &str, configured: &[String], plugins: &[PluginInfo]) -> bool {
    configured.iter().any(|name| name == snapshotter)
        || plugins.iter().any(|plugin| {
            plugin.kind == PluginInfo::SNAPSHOTTER
                && plugin.id == snapshotter
                && plugin
                    .exports
                    .get(EXPORT)
                    .is_some_and(|value| value == "true")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Descriptor;

    fn layers(count: usize) -> Vec<Layer> {
        let layer = |at: usize| Layer {
            file: None,
            blob: Descriptor {
                media_type: String::new(),
                digest: Digest::sha256(format!("blob {at}").as_bytes()),
                size: 1,
                annotations: BTreeMap::new(),
            },
            diff_id: Digest::sha256(b"diff"),
            chain_id: Digest::sha256(format!("chain {at}").as_bytes()),
        };
        (0..count).map(layer).collect()
    }

    fn labels(layers: &[Layer], at: usize) -> BTreeMap<String, String> {
        let lazy = Lazy {
            reference: &"a.b/c:v1".parse().unwrap(),
            manifest: &Digest::sha256(b"manifest"),
            layers,
        };
        lazy.labels(&layers[at])
    }

    #[test]
    fn a_snapshot_is_labelled_with_its_layer_and_those_above() {
        let layers = layers(3);

        let labels = labels(&layers, 1);

        assert_eq!(labels[IMAGE_REF], "a.b/c:v1");
        assert_eq!(
            labels[MANIFEST_DIGEST],
            Digest::sha256(b"manifest").as_str()
        );
        assert_eq!(labels[LAYER_DIGEST], layers[1].blob.digest.as_str());
        let above = format!("{},{}", layers[1].blob.digest, layers[2].blob.digest);
        assert_eq!(labels[IMAGE_LAYERS], above);
    }

    #[test]
    fn a_label_is_cut_between_digests_where_containerd_would_refuse_it() {
        let labels = labels(&layers(100), 0);

        let label = &labels[IMAGE_LAYERS];
        assert!(IMAGE_LAYERS.len() + label.len() <= MAX_LABEL);
        assert!(label.len() + 72 + IMAGE_LAYERS.len() > MAX_LABEL);
        let is_whole = |part: &str| part.parse::<Digest>().is_ok();
        assert!(label.split(',').all(is_whole), "{label}");
    }

    #[test]
    fn labels_are_wanted_by_the_operator_or_by_the_plugin() {
        let plugin = |id: &str, value: &str| PluginInfo {
            kind: PluginInfo::SNAPSHOTTER.into(),
            id: id.into(),
            exports: BTreeMap::from([(EXPORT.to_owned(), value.to_owned())]),
            ..PluginInfo::default()
        };
        let plugins = [plugin("stargz", "true"), plugin("overlayfs", "false")];

        assert!(is_wanted("stargz", &[], &plugins));
        assert!(!is_wanted("overlayfs", &[], &plugins));
        assert!(is_wanted("soci", &["soci".into()], &plugins));
        assert!(!is_wanted("soci", &[], &plugins));
    }
}
