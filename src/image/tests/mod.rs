//! The image room against the fake world and a scripted registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::containerd::fake::{Fault, When, World};
use crate::model::Kind;
use crate::model::clock::ManualClock;
use crate::registry::stub::{Reply, Shelf, Stub};
use crate::registry::{AuthFields, Credentials, Settings};

mod broken;
mod importing;
mod live;
mod local;
mod pruning;
mod pulling;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A world, and the images in it as one process sees them.
struct Rig {
    world: World,
    images: Images,
}

impl Rig {
    fn new(world: &World, config: &str) -> Self {
        let config = format!("{config}\n[images]\nregistry_config_path = []\n");
        Self::configured(world, &config)
    }

    fn configured(world: &World, config: &str) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(world.now()));
        let images = Images::new(ImageParts {
            containerd: world.containerd(),
            registry: Registry::new(Settings {
                retry_wait: Duration::from_millis(100),
                ..Settings::default()
            }),
            supervisor: Supervisor::new(),
            live: LiveTable::new(Arc::clone(&clock)),
            index: Arc::new(Index::new(Arc::clone(&clock))),
            clock,
            config: config::Shared::new(Config::parse(config).unwrap()),
        });
        Self {
            world: world.clone(),
            images,
        }
    }

    async fn loaded() -> Self {
        let rig = Self::new(&World::new(), "");
        rig.images.load().await.unwrap();
        rig
    }

    async fn pull(&self, stub: &Stub, version: &str) -> Result<Digest> {
        self.pull_as(stub, version, Credentials::anonymous()).await
    }

    async fn pull_as(
        &self,
        stub: &Stub,
        version: &str,
        credentials: Credentials,
    ) -> Result<Digest> {
        self.pull_with(stub, version, Some(credentials)).await
    }

    async fn pull_unasked(&self, stub: &Stub, version: &str) -> Result<Digest> {
        self.pull_with(stub, version, None).await
    }

    async fn pull_with(
        &self,
        stub: &Stub,
        version: &str,
        credentials: Option<Credentials>,
    ) -> Result<Digest> {
        let request = PullRequest {
            reference: format!("{}/team/app{version}", stub.authority()),
            credentials,
            runtime_handler: String::new(),
        };
        self.images.pull(request).await
    }

    fn view(&self, text: &str) -> Arc<ImageView> {
        self.images.resolve_local(text).unwrap().unwrap()
    }

    fn left(&self, kind: &str) -> Vec<String> {
        let all = self.world.leftovers();
        all.into_iter()
            .filter(|line| line.starts_with(kind))
            .collect()
    }

    async fn labels(&self, digest: &Digest) -> BTreeMap<String, String> {
        let content = self.world.containerd().content;
        content.info(digest).await.unwrap().labels
    }
}

/// An image on a shelf.
struct Made {
    config: Digest,
    manifest: Digest,
    layers: Vec<Digest>,
    /// Bytes of manifest, configuration and layers.
    size: u64,
}

fn config_json(layers: &[&str]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers
        .iter()
        .map(|layer| Digest::sha256(layer.as_bytes()))
        .collect();
    serde_json::to_vec(&serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "config": {"User": "1002", "Cmd": ["/run"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap()
}

fn manifest_json(config: &[u8], layers: &[&str]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            let digest = Digest::sha256(layer.as_bytes());
            serde_json::json!({"mediaType": LAYER, "digest": digest, "size": layer.len()})
        })
        .collect();
    serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
        "config": {"mediaType": CONFIG, "digest": Digest::sha256(config), "size": config.len()},
    }))
    .unwrap()
}

/// Puts an image with uncompressed layers on the shelf.
fn make(shelf: &mut Shelf, tag: Option<&str>, layers: &[&str]) -> Made {
    let config = config_json(layers);
    let manifest = manifest_json(&config, layers);
    let layers_size: usize = layers.iter().map(|layer| layer.len()).sum();
    Made {
        size: (config.len() + manifest.len() + layers_size) as u64,
        config: shelf.blob(config),
        layers: layers.iter().map(|layer| shelf.blob(*layer)).collect(),
        manifest: shelf.manifest(tag, MANIFEST, manifest),
    }
}

fn serve(shelf: Shelf) -> Stub {
    Stub::start(move |seen| shelf.answer(seen))
}

fn password(password: &str) -> Credentials {
    Credentials::parse(&AuthFields {
        username: "user".into(),
        password: password.into(),
        ..AuthFields::default()
    })
    .unwrap()
}
