//! From containerd's image records to the catalog: at start, after a reconnect, and when another client changes one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{FutureExt as _, StreamExt as _};

use super::catalog::Entry;
use super::facts::{Facts, Stored};
use super::labels::{self, MANAGED, PINNED};
use super::{Images, pattern};
use crate::containerd::ImageRecord;
use crate::model::{Descriptor, Digest, Kind, Result};

/// Images read at once.
const PARALLEL: usize = 16;

impl Images {
    /// Reads all records of containerd into the catalog. Reads are refused before the first load has succeeded. An
    /// image whose documents cannot be read is left out with a warning; missing layers do not matter.
    ///
    /// # Errors
    /// Those of containerd's image list, and of a read that says nothing about the image; the catalog stays as it was.
    pub async fn load(&self) -> Result<()> {
        let images = &self.inner.containerd.images;
        // Most of the reading is done before writers have to wait; what they wrote meanwhile is read behind the gate.
        let facts = self
            .read_targets(&images.list().await?, HashMap::new())
            .await?;
        let mut entries = BTreeMap::new();
        let mut foreign = Vec::new();
        {
            let _gate = self.inner.records.write().await;
            let records = images.list().await?;
            let facts = self.read_targets(&records, facts).await?;
            for record in records {
                let Some(Some(facts)) = facts.get(&record.target.digest) else {
                    continue;
                };
                if !is_managed(&record) {
                    foreign.push((record.clone(), Arc::clone(facts)));
                }
                let entry = self.entry_of(&record, Arc::clone(facts));
                entries.insert(record.name, entry);
            }
            self.inner.catalog.replace(entries);
            self.inner.loaded.store(true, Ordering::Release);
        }
        for (record, facts) in foreign {
            self.adopt(&record, &facts).await;
        }
        Ok(())
    }

    /// The facts of every target that `known` does not hold; `None` for one that cannot be read.
    async fn read_targets(
        &self,
        records: &[ImageRecord],
        mut known: HashMap<Digest, Option<Arc<Facts>>>,
    ) -> Result<HashMap<Digest, Option<Arc<Facts>>>> {
        let mut wanted: HashMap<&Digest, &Descriptor> = HashMap::new();
        for record in records {
            if !known.contains_key(&record.target.digest) {
                wanted.insert(&record.target.digest, &record.target);
            }
        }
        let jobs: Vec<_> = wanted
            .into_values()
            .map(|target| self.read_or_warn(target).boxed())
            .collect();
        let mut read = futures::stream::iter(jobs).buffer_unordered(PARALLEL);
        while let Some((digest, facts)) = read.next().await {
            known.insert(digest, facts?);
        }
        Ok(known)
    }

    /// `None` where the image itself is at fault, and will be the next time.
    async fn read_or_warn(&self, target: &Descriptor) -> (Digest, Result<Option<Arc<Facts>>>) {
        let mut read = self.read_stored(target).await;
        if matches!(&read, Err(error) if error.kind() == Kind::DeadlineExceeded) {
            read = self.read_stored(target).await;
        }
        let facts = match read {
            Ok(facts) => Ok(Some(Arc::new(facts))),
            Err(error) if is_passing(error.kind()) => {
                Err(error.context(format!("read image {}", target.digest)))
            }
            Err(error) => {
                // A disk too slow to tell takes nothing away that was known.
                let known = self.inner.catalog.facts_of(&target.digest);
                let known = known.filter(|_| error.kind() == Kind::DeadlineExceeded);
                if known.is_none() {
                    tracing::warn!(target = %target.digest, %error, "an image cannot be read and is left out");
                }
                Ok(known)
            }
        };
        (target.digest.clone(), facts)
    }

    /// Takes over what containerd says about the record `name` now: after an event, or after writing it.
    ///
    /// # Errors
    /// Those of containerd.
    pub async fn refresh(&self, name: &str) -> Result<()> {
        let known = self.inner.catalog.entry(name).map(|entry| entry.facts);
        let facts = match self.inner.containerd.images.get(name).await {
            Err(error) if error.is_not_found() => match known {
                Some(facts) => facts,
                None => return Ok(()),
            },
            Err(error) => return Err(error),
            Ok(record) => match known {
                Some(facts) if facts.target.digest == record.target.digest => facts,
                _ => Arc::new(self.read_stored(&record.target).await?),
            },
        };
        match self.settle(name, &facts).await? {
            Some(record) if !is_managed(&record) => {
                self.adopt(&record, &facts).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks for the record again while nobody of ours can change it, and takes over the answer.
    async fn settle(&self, name: &str, facts: &Arc<Facts>) -> Result<Option<ImageRecord>> {
        let _gate = self.inner.records.read().await;
        let _turn = self.hold_records(&facts.id, &[name.to_owned()]).await;
        match self.inner.containerd.images.get(name).await {
            Ok(record) if record.target.digest == facts.target.digest => {
                let entry = self.entry_of(&record, Arc::clone(facts));
                self.inner.catalog.put([(name.to_owned(), entry)]);
                Ok(Some(record))
            }
            Ok(_changed_again) => Ok(None), // an event of its own follows
            Err(error) if error.is_not_found() => {
                self.inner.catalog.remove(&[name.to_owned()]);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Gives an image that another client made an id record and the label of managed images.
    async fn adopt(&self, record: &ImageRecord, facts: &Arc<Facts>) {
        let adopted = async {
            // The other client may have changed its mind: its record is not to be brought back.
            let now = self.inner.containerd.images.get(&record.name).await?;
            if now.target.digest != record.target.digest {
                return Ok(());
            }
            let names = [record.name.clone(), facts.id.to_string()];
            self.write_records(facts, &names, None).await
        };
        match adopted.await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(image = %record.name, %error, "an image of another client could not be adopted");
            }
            _ => {}
        }
    }

    pub(super) async fn read_stored(&self, target: &Descriptor) -> Result<Facts> {
        let content = &*self.inner.containerd.content;
        Facts::read(&Stored(content), target, &self.inner.platforms).await
    }

    fn entry_of(&self, record: &ImageRecord, facts: Arc<Facts>) -> Entry {
        let (key, value) = PINNED;
        let is_labelled = record.labels.get(key).is_some_and(|held| held == value);
        Entry {
            facts,
            pinned: is_labelled || self.is_pinned(&record.name),
        }
    }

    /// Whether the configuration pins the image of this name.
    pub(super) fn is_pinned(&self, name: &str) -> bool {
        let config = self.inner.config.load();
        let mut patterns = config.images.pinned.iter();
        let pause = config.sandbox.pause_image.as_deref();
        patterns.any(|wanted| pattern::means(wanted, name))
            || pause.is_some_and(|image| pattern::means(image, name))
    }

    /// The locks that cover the writing of records: of the image, since its records go together, and of each name, since
    /// a name may be on its way from one image to another. The image's first and names in order, so that two holders
    /// never wait for each other.
    pub(super) async fn hold_records(
        &self,
        id: &Digest,
        names: &[String],
    ) -> Vec<tokio::sync::OwnedMutexGuard<()>> {
        let mut held = vec![self.inner.locks.hold(format!("records of {id}")).await];
        let names: BTreeSet<&String> = names.iter().collect();
        for name in names {
            held.push(self.inner.locks.hold(format!("record {name}")).await);
        }
        held
    }

    /// Writes records of one image, in order, and publishes them.
    pub(super) async fn write_records(
        &self,
        facts: &Arc<Facts>,
        names: &[String],
        lease: Option<&crate::containerd::LeaseId>,
    ) -> Result<()> {
        let _gate = self.inner.records.read().await;
        let _turn = self.hold_records(&facts.id, names).await;
        let pinned = names.iter().any(|name| self.is_pinned(name));
        for name in names {
            let record = ImageRecord {
                name: name.clone(),
                target: facts.target.clone(),
                labels: labels::record(pinned),
                created_at: self.inner.clock.now(),
            };
            self.inner.containerd.images.put(&record, lease).await?;
        }
        let entry = Entry {
            facts: Arc::clone(facts),
            pinned,
        };
        let entries = names.iter().map(|name| (name.clone(), entry.clone()));
        self.inner.catalog.put(entries);
        Ok(())
    }
}

/// Whether a failed read says nothing about what was to be read.
fn is_passing(kind: Kind) -> bool {
    matches!(kind, Kind::Unavailable | Kind::Cancelled | Kind::Aborted)
}

fn is_managed(record: &ImageRecord) -> bool {
    let (key, value) = MANAGED;
    record.labels.get(key).is_some_and(|held| held == value)
}
