//! PullImage: make sure that what the reference names now is here, and that these credentials may have it.
//!
//! ```text
//! resolve (every time) -> lease -> index, manifest, config -> { layers, parallel } overlapped with { unpack } -> records
//! ```
//!
//! Where all of it is here already, nothing follows the resolving but two looks at containerd.

use std::sync::Arc;

use super::facts::Facts;
use super::fetch::{Fetch, UNAVAILABLE, registry_error};
use super::lazy::{self, Lazy};
use super::progress::{Progress, PullReport};
use super::verify::{REFUSED, verify};
use super::{Images, Inner, pattern};
use crate::config::{Config, Policy};
use crate::containerd::PluginInfo;
use crate::model::{Digest, Error, Reference, Result};
use crate::ops::{Edge, Operation, gate};
use crate::registry::{Credentials, Repository, Resolved};
use crate::sys;

const OPERATION: &str = "PullImage";

/// What a caller wants pulled.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// The reference as the caller wrote it.
    pub reference: String,
    /// What to show the registry. `None`, which an empty one is not, shows the node's own.
    pub credentials: Option<Credentials>,
    /// Runtime handler whose snapshotter the image is for; empty is the default handler.
    pub runtime_handler: String,
}

/// What makes two pulls the same: who asks is part of it, or one caller's rights would serve another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PullKey {
    pub(super) reference: String,
    pub(super) snapshotter: String,
    pub(super) credentials: [u8; 32],
}

impl PullKey {
    fn of(reference: &Reference, snapshotter: &str, credentials: Option<&Credentials>) -> Self {
        Self {
            reference: reference.to_string(),
            snapshotter: snapshotter.to_owned(),
            credentials: credentials.map_or([0; 32], Credentials::fingerprint),
        }
    }
}

/// The steps, as the table of live operations and the gates name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The registry says what the reference names.
    Resolve,
    /// The operator's verifiers say whether it may be had.
    Verify,
    /// The lease is taken.
    Lease,
    /// Index, manifest and configuration get into the content store.
    Documents,
    /// Layers come and are unpacked.
    Layers,
    /// The records are written.
    Records,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 6] = [
        Self::Resolve,
        Self::Verify,
        Self::Lease,
        Self::Documents,
        Self::Layers,
        Self::Records,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Verify => "verify",
            Self::Lease => "lease",
            Self::Documents => "documents",
            Self::Layers => "layers",
            Self::Records => "records",
        }
    }
}

impl Images {
    /// Pulls an image and answers its id. Equal requests share one pull. Dropping the future leaves the pull; when
    /// nobody waits for it any more it stops after a grace time, and a later one goes on where it stopped.
    ///
    /// # Errors
    /// `InvalidArgument` for a malformed reference or an unknown runtime handler; `Unknown` with a text that begins
    /// with `RegistryUnavailable` where no registry answers; `NotFound`, `Unauthenticated` and `PermissionDenied` as
    /// the registry says; `Aborted` where content is not what it claims to be.
    pub async fn pull(&self, request: PullRequest) -> Result<Digest> {
        let reference: Reference = request.reference.parse()?;
        let snapshotter = self.snapshotter_of(&request.runtime_handler)?;
        if let Some(id) = self.answer_locally(&reference, request.credentials.as_ref())? {
            self.note_use(&id);
            return Ok(id);
        }
        let key = PullKey::of(&reference, &snapshotter, request.credentials.as_ref());
        let shown = key.clone();
        let images = self.clone();
        let work = move || async move {
            let name = reference.to_string();
            let progress = images.inner.book.begin(shown);
            let operation = images.inner.live.begin(OPERATION, name);
            let pull = Pull {
                inner: &images.inner,
                images: &images,
                reference: &reference,
                credentials: request.credentials.as_ref(),
                snapshotter: &snapshotter,
                operation,
                progress: &progress,
            };
            let place = pull.operation.place();
            let outcome = place.hold(pull.run()).await;
            let outcome = outcome.map_err(|error| within(&reference, error));
            if let Err(error) = &outcome {
                pull.operation.failed(&error.chain());
            }
            progress.end(&outcome);
            if let Ok(id) = &outcome {
                images.note_use(id);
            }
            outcome
        };
        self.inner.pulls.run(OPERATION, key, work).await
    }

    /// The pulls that run, oldest first, and then the last ones that ended, the latest first. Makes no call.
    pub fn pulls(&self) -> Vec<PullReport> {
        self.inner.book.reports()
    }

    /// How far the pull is that such a request has begun or joined; `None` where none runs.
    pub fn progress_of(&self, request: &PullRequest) -> Option<PullReport> {
        let reference: Reference = request.reference.parse().ok()?;
        let snapshotter = self.snapshotter_of(&request.runtime_handler).ok()?;
        let key = PullKey::of(&reference, &snapshotter, request.credentials.as_ref());
        self.inner.book.running(&key)
    }

    /// The snapshotter of a runtime handler.
    pub(super) fn snapshotter_of(&self, handler: &str) -> Result<String> {
        let config = self.inner.config.load();
        match config.runtimes.handler(handler) {
            Some(found) => Ok(found.snapshotter.clone()),
            None => Err(Error::invalid(format!(
                "runtime handler {handler:?}: not configured; see [runtimes.handlers]"
            ))),
        }
    }

    /// The id of a local image where the node's own pull policy says that it answers.
    pub(super) fn answer_locally(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Option<Digest>> {
        let config = self.inner.config.load();
        let name = reference.to_string();
        let rules = config.images.pull_policy.iter();
        let Some(rule) = rules
            .clone()
            .find(|rule| pattern::means(&rule.pattern, &name))
        else {
            return Ok(None);
        };
        // kubelet takes a success as proof that the credentials are good, so they must be tried.
        if rule.policy == Policy::Always
            || !(credentials.is_none_or(Credentials::is_anonymous) || rule.trust_local)
        {
            return Ok(None);
        }
        match (self.resolve_local(&name)?, rule.policy) {
            (Some(image), _) => Ok(Some(image.id.clone())),
            (None, Policy::Never) => Err(Error::not_found(format!(
                "image {name}: not on this node, and images.pull_policy forbids to pull it"
            ))),
            (None, _) => Ok(None),
        }
    }
}

struct Pull<'a> {
    inner: &'a Inner,
    images: &'a Images,
    reference: &'a Reference,
    credentials: Option<&'a Credentials>,
    snapshotter: &'a str,
    operation: Operation,
    progress: &'a Progress,
}

impl Pull<'_> {
    async fn run(&self) -> Result<Digest> {
        let config = self.inner.config.load();
        let credentials = self.credentials(&config).await?;
        let repository = self
            .inner
            .registry
            .with(|settings| {
                settings
                    .config_paths
                    .clone_from(&config.images.registry_config_path);
                settings.stall_window = config.images.progress_timeout;
                settings.mirror_dial_timeout = config.images.mirror_dial_timeout;
                settings.hedge_after = config.images.hedge_after;
                settings
                    .trusted_mirrors
                    .clone_from(&config.images.trusted_mirrors);
                settings.range_size = config.images.range_size;
            })
            .repository(self.reference, &credentials)
            .await
            .map_err(|error| registry_error(self.reference, error))?;
        let resolved = self
            .step(Step::Resolve, repository.resolve())
            .await
            .map_err(|error| registry_error(self.reference, error))?;
        self.progress.host(&resolved.host);
        let verifiers = &config.images.verifiers;
        self.step(
            Step::Verify,
            verify(verifiers, self.reference, &resolved.target),
        )
        .await?;
        if let Some(id) = self.up_to_date(&resolved.target.digest).await? {
            tracing::info!(image = %self.reference, %id, host = %resolved.host, "image is up to date");
            return Ok(id);
        }
        let brought = self.bring(&config, &repository, &resolved).await;
        // What the allocator keeps of the buffers of a large image is a multiple of what the server needs to live.
        self.inner.supervisor.watch("give memory back", async {
            let given = sys::off_thread("give memory back", || {
                sys::memory::give_back_blocking();
                Ok(())
            });
            given.await.unwrap_or_default();
        });
        brought
    }

    /// What is shown to the registries.
    async fn credentials(&self, config: &Config) -> Result<Credentials> {
        match (self.credentials, &config.images.credentials_file) {
            (Some(credentials), _) => Ok(credentials.clone()),
            (None, Some(file)) => Credentials::from_file(file, self.reference).await,
            (None, None) => Ok(Credentials::anonymous()),
        }
    }

    /// Brings what is missing and writes the records.
    async fn bring(
        &self,
        config: &Config,
        repository: &Repository,
        resolved: &Resolved,
    ) -> Result<Digest> {
        let taking = self.inner.lease(&resolved.target.digest);
        let lease = self.step(Step::Lease, taking).await?;
        let store = self.inner.store(lease.id());
        let fetch = Fetch {
            progress: self.progress,
            store: &store,
            repository,
            resolved,
            max_layer: config.images.max_layer_bytes,
        };
        let reading = Facts::read(&fetch, &resolved.target, &self.inner.platforms);
        let facts = match self.step(Step::Documents, reading).await {
            Ok(facts) => Arc::new(facts),
            Err(error) => {
                // Documents are small: nothing that is worth keeping for the next pull.
                lease.release().await;
                return Err(error);
            }
        };
        self.progress.layers(&facts.layers);
        let plugins = self.inner.plugins().await;
        let unpack = self
            .inner
            .unpack(lease.id(), self.snapshotter, &plugins)
            .of_a_pull(self.progress, self.lazy(config, &facts, &plugins));
        let parallel = config.images.max_concurrent_downloads.get();
        self.step(
            Step::Layers,
            unpack.run(&facts.id, &facts.layers, &fetch, parallel),
        )
        .await?;
        let names = record_names(self.reference, &facts);
        let writing = self.images.write_records(&facts, &names, Some(lease.id()));
        self.step(Step::Records, writing).await?;
        lease.release().await;
        tracing::info!(image = %self.reference, id = %facts.id, host = %resolved.host, "image pulled");
        Ok(facts.id.clone())
    }

    /// What the snapshotter has to know, where it fetches layers by itself.
    fn lazy<'f>(
        &'f self,
        config: &Config,
        facts: &'f Facts,
        plugins: &[PluginInfo],
    ) -> Option<Lazy<'f>> {
        let configured = &config.images.lazy_snapshotters;
        lazy::is_wanted(self.snapshotter, configured, plugins).then_some(Lazy {
            reference: self.reference,
            manifest: &facts.manifest,
            layers: &facts.layers,
        })
    }

    /// The id of the image, where all of it is here already: its records mean what the registry says now, and its
    /// topmost snapshot is there. Nothing is written then.
    async fn up_to_date(&self, target: &Digest) -> Result<Option<Digest>> {
        let catalog = &self.inner.catalog;
        let Some(known) = catalog.entry(&self.reference.to_string()) else {
            return Ok(None);
        };
        let facts = known.facts;
        let names = record_names(self.reference, &facts);
        let pinned = names.iter().any(|name| self.images.is_pinned(name));
        let stands = |name: &String| {
            let entry = catalog.entry(name);
            entry.is_some_and(|e| e.facts.target.digest == *target && e.pinned == pinned)
        };
        let Some(top) = facts.layers.last().filter(|_| names.iter().all(stands)) else {
            return Ok(None);
        };
        // What the catalog does not know yet, another client having been at work, containerd does.
        let containerd = &self.inner.containerd;
        let name = self.reference.to_string();
        let (record, snapshot) = futures::future::join(
            containerd.images.get(&name),
            containerd
                .snapshots
                .stat(self.snapshotter, top.chain_id.as_str()),
        )
        .await;
        match (record, snapshot) {
            (Ok(record), Ok(_there)) if record.target.digest == *target => {
                let leases = &*containerd.leases;
                let sweep = self.inner.leases.sweep(leases, &*self.inner.clock, target);
                sweep.await;
                Ok(Some(facts.id.clone()))
            }
            (Err(error), _) | (_, Err(error)) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }

    async fn step<T>(&self, step: Step, work: impl Future<Output = Result<T>>) -> Result<T> {
        let place = self.operation.step(step.name());
        // How a pull fares is shown by itself, and its silence has a limit of its own.
        self.operation.patiently();
        self.progress.step(step.name());
        gate(OPERATION, step.name(), Edge::Before).await;
        let done = place.hold(work).await;
        gate(OPERATION, step.name(), Edge::After).await;
        done
    }
}

/// The records of a pull: what was asked for first, then the id, then the digest.
fn record_names(reference: &Reference, facts: &Facts) -> Vec<String> {
    let by_digest = reference.digest_ref(&facts.target.digest);
    let mut names = vec![reference.to_string(), facts.id.to_string()];
    if !names.contains(&by_digest) {
        names.push(by_digest);
    }
    names
}

/// Names the pull in an error of another part, once.
fn within(reference: &Reference, error: Error) -> Error {
    let text = error.chain();
    if text.starts_with(UNAVAILABLE) || text.starts_with(REFUSED) || text.starts_with("pull ") {
        return error;
    }
    error.context(format!("pull {reference}"))
}
