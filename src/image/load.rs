//! From containerd's image records to the catalog: at start, after a reconnect, and when another client changes one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::stream::StreamExt as _;

use super::catalog::Entry;
use super::facts::{Facts, Stored};
use super::labels::{self, MANAGED, PINNED};
use super::{Images, pattern};
use crate::containerd::ImageRecord;
use crate::model::{Digest, Result};

/// Images read at once.
const PARALLEL: usize = 16;

impl Images {
    /// Reads all records of containerd into the catalog. Reads are refused before the first load has succeeded. An
    /// image whose documents cannot be read is left out with a warning; missing layers do not matter.
    ///
    /// # Errors
    /// Those of containerd's image list.
    pub async fn load(&self) -> Result<()> {
        let records = self.inner.containerd.images.list().await?;
        let mut targets: HashMap<Digest, _> = HashMap::new();
        for record in &records {
            targets.insert(record.target.digest.clone(), record.target.clone());
        }
        let facts: HashMap<Digest, Arc<Facts>> = futures::stream::iter(targets.into_values())
            .map(|target| async move {
                match self.read_stored(&target).await {
                    Ok(facts) => Some((target.digest, Arc::new(facts))),
                    Err(error) => {
                        tracing::warn!(target = %target.digest, %error, "an image cannot be read and is left out");
                        None
                    }
                }
            })
            .buffer_unordered(PARALLEL)
            .filter_map(|read| async move { read })
            .collect()
            .await;
        let mut entries = BTreeMap::new();
        let mut foreign = Vec::new();
        for record in records {
            let Some(facts) = facts.get(&record.target.digest) else {
                continue;
            };
            if !is_managed(&record) {
                foreign.push((record.clone(), Arc::clone(facts)));
            }
            let entry = self.entry_of(&record, Arc::clone(facts));
            entries.insert(record.name, entry);
        }
        self.inner.catalog.replace(entries);
        self.inner
            .loaded
            .store(true, std::sync::atomic::Ordering::Release);
        for (record, facts) in foreign {
            self.adopt(&record, &facts).await;
        }
        Ok(())
    }

    /// Takes over what containerd says about the record `name` now: after an event, or after writing it.
    ///
    /// # Errors
    /// Those of containerd.
    pub async fn refresh(&self, name: &str) -> Result<()> {
        let record = match self.inner.containerd.images.get(name).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => {
                self.inner.catalog.remove(&[name.to_owned()]);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let known = self.inner.catalog.entry(name);
        let facts = match known {
            Some(entry) if entry.facts.target.digest == record.target.digest => entry.facts,
            _ => Arc::new(self.read_stored(&record.target).await?),
        };
        {
            let _turn = self.inner.locks.hold(record_lock(&facts.id)).await;
            // Asked again under the lock: a removal may have come in between.
            match self.inner.containerd.images.get(name).await {
                Ok(again) if again.target.digest == record.target.digest => {
                    let entry = self.entry_of(&again, Arc::clone(&facts));
                    self.inner.catalog.put([(name.to_owned(), entry)]);
                }
                Ok(_changed_again) => return Ok(()), // its own event follows
                Err(error) if error.is_not_found() => {
                    self.inner.catalog.remove(&[name.to_owned()]);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        if !is_managed(&record) {
            self.adopt(&record, &facts).await;
        }
        Ok(())
    }

    /// Gives an image that another client made an id record and the label of managed images.
    async fn adopt(&self, record: &ImageRecord, facts: &Arc<Facts>) {
        let names = [record.name.clone(), facts.id.to_string()];
        if let Err(error) = self.write_records(facts, &names, None).await {
            tracing::warn!(image = %record.name, %error, "an image of another client could not be adopted");
        }
    }

    pub(super) async fn read_stored(&self, target: &crate::model::Descriptor) -> Result<Facts> {
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
        let pause = config.sandbox.pause_image.iter();
        let mut patterns = config.images.pinned.iter().chain(pause);
        patterns.any(|wanted| pattern::means(wanted, name))
    }

    /// Writes records of one image, in order, and publishes them.
    pub(super) async fn write_records(
        &self,
        facts: &Arc<Facts>,
        names: &[String],
        lease: Option<&crate::containerd::LeaseId>,
    ) -> Result<()> {
        let _turn = self.inner.locks.hold(record_lock(&facts.id)).await;
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

/// The lock that covers the writing of one image's records.
pub(super) fn record_lock(id: &Digest) -> String {
    format!("records of {id}")
}

fn is_managed(record: &ImageRecord) -> bool {
    let (key, value) = MANAGED;
    record.labels.get(key).is_some_and(|held| held == value)
}
