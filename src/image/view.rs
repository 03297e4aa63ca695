//! What the node knows about one image, as List and Status tell it.

use bytes::Bytes;

use super::artifact;
use super::config_blob::{ImageConfig, ImageUser};
use super::facts::{Facts, Layer};
use crate::model::{Descriptor, Digest, Reference};

/// One image under all its names. Immutable; a change publishes a new view.
#[derive(Clone, Debug)]
pub struct ImageView {
    /// Digest of its configuration.
    pub id: Digest,
    /// `name:tag` of every tag that points to it, ascending.
    pub repo_tags: Vec<String>,
    /// `name@digest` of every repository that it was pulled from, ascending. The digest is the target's.
    pub repo_digests: Vec<String>,
    /// All its records in containerd, ascending, the id's own included.
    pub names: Vec<String>,
    /// Bytes of target, manifest, configuration and layers; never 0.
    pub size: u64,
    /// Whom it runs as.
    pub user: ImageUser,
    /// Garbage collection leaves it alone.
    pub pinned: bool,
    /// Snapshot that containers start from; `None` for an image without layers.
    pub chain_id: Option<Digest>,
    /// Index or manifest that its newest record points to.
    pub target: Descriptor,
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
    /// What it says about itself.
    pub config: ImageConfig,
    /// It says of itself that it is a container's checkpoint.
    pub is_checkpoint: bool,
    /// Its configuration as it is, for verbose answers.
    pub config_json: Bytes,
}

impl ImageView {
    /// The view of `facts` under `names`, which are sorted.
    pub(super) fn new(facts: &Facts, names: Vec<String>, pinned: bool) -> Self {
        let mut repo_tags = Vec::new();
        let mut repo_digests = Vec::new();
        for name in &names {
            match name.parse::<Reference>() {
                Ok(reference) if reference.digest().is_some() => repo_digests.push(name.clone()),
                Ok(reference) if reference.to_string() == *name => repo_tags.push(name.clone()),
                _ => {}
            }
        }
        Self {
            id: facts.id.clone(),
            repo_tags,
            repo_digests,
            names,
            size: facts.size,
            user: facts.config.user(),
            pinned,
            chain_id: facts.chain_id().cloned(),
            target: facts.target.clone(),
            layers: facts.layers.clone(),
            config: facts.config.clone(),
            is_checkpoint: facts.is_checkpoint,
            config_json: facts.config_json.clone(),
        }
    }

    /// Whether it is an artifact: files for a volume, nothing that runs.
    pub fn is_artifact(&self) -> bool {
        artifact::is_one(&self.layers)
    }

    /// The name that a container's status shows as its image reference: a repo digest where there is one.
    pub fn reference(&self) -> &str {
        self.repo_digests
            .first()
            .map_or_else(|| self.id.as_str(), String::as_str)
    }

    /// A tag where there is one, else the reference. It names a record in containerd, and tools that read a container's
    /// record (cAdvisor, nerdctl) show it to people.
    pub fn display_name(&self) -> &str {
        self.repo_tags
            .first()
            .map_or_else(|| self.reference(), String::as_str)
    }
}
