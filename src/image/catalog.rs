//! The images of this node in memory: every read is answered from here, without a call and without waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::facts::Facts;
use super::view::ImageView;
use crate::model::{Digest, Error, LocalName, Result};

/// What readers see: consistent, never changed in place.
#[derive(Default)]
pub(super) struct Snapshot {
    by_id: BTreeMap<String, Arc<ImageView>>,
    by_name: HashMap<String, String>,
}

/// One record of containerd as the catalog keeps it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) facts: Arc<Facts>,
    pub(super) pinned: bool,
}

/// The one writer's state and the published snapshot.
#[derive(Default)]
pub(super) struct Catalog {
    records: Mutex<BTreeMap<String, Entry>>,
    published: ArcSwap<Snapshot>,
}

impl Catalog {
    /// What is published now.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// The record `name`, as last seen.
    pub(super) fn entry(&self, name: &str) -> Option<Entry> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(name).cloned()
    }

    /// What is known of the image whose manifest or index is `target`.
    pub(super) fn facts_of(&self, target: &Digest) -> Option<Arc<Facts>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut facts = records.values().map(|entry| &entry.facts);
        facts.find(|facts| facts.target.digest == *target).cloned()
    }

    /// Enters or re-points records, in one publication.
    pub(super) fn put(&self, entries: impl IntoIterator<Item = (String, Entry)>) {
        self.change(|records, touched| {
            for (name, entry) in entries {
                touched.insert(entry.facts.id.to_string());
                if let Some(before) = records.insert(name, entry) {
                    touched.insert(before.facts.id.to_string());
                }
            }
        });
    }

    /// Drops records, in one publication. Unknown names are fine.
    pub(super) fn remove(&self, names: &[String]) {
        self.change(|records, touched| {
            for name in names {
                if let Some(before) = records.remove(name) {
                    touched.insert(before.facts.id.to_string());
                }
            }
        });
    }

    /// Replaces everything.
    pub(super) fn replace(&self, entries: BTreeMap<String, Entry>) {
        self.change(|records, touched| {
            let before = std::mem::replace(records, entries);
            let all = before.values().chain(records.values());
            touched.extend(all.map(|entry| entry.facts.id.to_string()));
        });
    }

    /// Changes the records, then publishes the images that were touched.
    fn change(&self, edit: impl FnOnce(&mut BTreeMap<String, Entry>, &mut BTreeSet<String>)) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut touched = BTreeSet::new();
        edit(&mut records, &mut touched);
        let mut by_id = self.published.load().by_id.clone();
        for id in touched {
            let mine = |entry: &Entry| entry.facts.id.as_str() == id;
            let named: Vec<(&String, &Entry)> =
                records.iter().filter(|(_, entry)| mine(entry)).collect();
            // The id's own record is re-pointed to the newest target; it decides where records disagree.
            let deciding = records
                .get(&id)
                .filter(|entry| mine(entry))
                .or_else(|| named.first().map(|(_, entry)| *entry));
            match deciding {
                None => {
                    by_id.remove(&id);
                }
                Some(deciding) => {
                    let names = named.iter().map(|(name, _)| (*name).clone()).collect();
                    let pinned = named.iter().any(|(_, entry)| entry.pinned);
                    let view = ImageView::new(&deciding.facts, names, pinned);
                    by_id.insert(id, Arc::new(view));
                }
            }
        }
        let by_name = records
            .iter()
            .map(|(name, entry)| (name.clone(), entry.facts.id.to_string()))
            .collect();
        self.published.store(Arc::new(Snapshot { by_id, by_name }));
    }
}

impl Snapshot {
    /// All images, ordered by id.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ImageView>> {
        self.by_id.values()
    }

    /// The image of exactly this id.
    pub(super) fn by_id(&self, id: &Digest) -> Option<Arc<ImageView>> {
        self.by_id.get(id.as_str()).cloned()
    }

    /// The image that `text` names: a full digest is an id, then the exact reference, then an id prefix.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty text and for a prefix that several ids have.
    pub(super) fn find(&self, text: &str) -> Result<Option<Arc<ImageView>>> {
        match LocalName::parse(text)? {
            LocalName::Id(id) => Ok(self.by_id(&id)),
            LocalName::Name {
                reference,
                id_prefix,
            } => {
                let named = reference
                    .and_then(|reference| self.by_name.get(&reference.to_string()))
                    .or_else(|| self.by_name.get(text))
                    .and_then(|id| self.by_id.get(id))
                    .cloned();
                match (named, id_prefix) {
                    (Some(image), _) => Ok(Some(image)),
                    (None, Some(prefix)) => self.by_prefix(&prefix),
                    (None, None) => Ok(None),
                }
            }
        }
    }

    fn by_prefix(&self, hex: &str) -> Result<Option<Arc<ImageView>>> {
        let from = format!("sha256:{hex}");
        let mut found = self
            .by_id
            .range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded))
            .take_while(|(id, _)| id.starts_with(&from))
            .map(|(_, image)| image);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "image id {hex:?}: several images begin with it; give more digits"
            ))),
            (one, _) => Ok(one.cloned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::config_blob::ImageConfig;
    use crate::model::Descriptor;

    fn entry(id: &str, target: &str, pinned: bool) -> Entry {
        let descriptor = Descriptor {
            media_type: String::new(),
            digest: Digest::sha256(target.as_bytes()),
            size: 1,
            annotations: BTreeMap::new(),
        };
        Entry {
            facts: Arc::new(Facts {
                id: id.parse().unwrap(),
                config_digest: id.parse().unwrap(),
                manifest: descriptor.digest.clone(),
                target: descriptor,
                config: ImageConfig::default(),
                is_checkpoint: false,
                config_json: bytes::Bytes::new(),
                layers: Vec::new(),
                size: 7,
            }),
            pinned,
        }
    }

    fn id(head: &str) -> String {
        format!("sha256:{head}{}", "0".repeat(64 - head.len()))
    }

    fn catalog(entries: &[(&str, &str, bool)]) -> Catalog {
        let catalog = Catalog::default();
        catalog.put(
            entries
                .iter()
                .map(|(name, id, pinned)| ((*name).to_owned(), entry(id, id, *pinned))),
        );
        catalog
    }

    #[test]
    fn an_image_is_found_by_id_tag_digest_and_prefix_and_looks_the_same() {
        let one = id("abc1");
        let by_digest = format!("docker.io/library/busybox@{}", Digest::sha256(b"t"));
        let catalog = catalog(&[
            ("docker.io/library/busybox:latest", &one, false),
            ("docker.io/library/busybox:1", &one, true),
            (&by_digest, &one, false),
            (&one, &one, false),
        ]);
        let snapshot = catalog.snapshot();

        let views: Vec<Arc<ImageView>> = [
            "busybox",
            "busybox:1",
            &by_digest,
            &one,
            "abc",
            "sha256:abc1",
        ]
        .iter()
        .map(|text| snapshot.find(text).unwrap().unwrap())
        .collect();

        assert!(views.iter().all(|view| Arc::ptr_eq(view, &views[0])));
        assert_eq!(
            views[0].repo_tags,
            [
                "docker.io/library/busybox:1",
                "docker.io/library/busybox:latest"
            ]
        );
        assert_eq!(views[0].repo_digests, [by_digest]);
        assert!(views[0].pinned);
        assert_eq!(views[0].display_name(), "docker.io/library/busybox:1");
    }

    #[test]
    fn a_name_beats_a_prefix_and_an_ambiguous_prefix_is_an_error() {
        let (one, two) = (id("cafe1"), id("cafe2"));
        let catalog = catalog(&[
            ("docker.io/library/cafe:latest", &two, false),
            (&one, &one, false),
            (&two, &two, false),
        ]);
        let snapshot = catalog.snapshot();

        assert_eq!(snapshot.find("cafe").unwrap().unwrap().id.as_str(), two);
        assert!(snapshot.find("sha256:cafe").is_err());
        assert_eq!(snapshot.find("cafe1").unwrap().unwrap().id.as_str(), one);
        assert!(snapshot.find("ca").unwrap().is_none());
        assert!(snapshot.find("").is_err());
        assert!(snapshot.find("no/such:image").unwrap().is_none());
    }

    #[test]
    fn a_manifests_digest_is_no_id() {
        let one = id("abc1");
        let catalog = catalog(&[(&one, &one, false)]);
        let target = catalog
            .snapshot()
            .find(&one)
            .unwrap()
            .unwrap()
            .target
            .digest
            .clone();

        assert!(catalog.snapshot().find(target.as_str()).unwrap().is_none());
    }

    #[test]
    fn a_moved_tag_leaves_the_old_image_with_fewer_names() {
        let (old, new) = (id("abc1"), id("abc2"));
        let tag = "docker.io/library/app:v1";
        let catalog = catalog(&[(tag, &old, false), (&old, &old, false)]);

        catalog.put([(tag.to_owned(), entry(&new, &new, false))]);

        let snapshot = catalog.snapshot();
        assert_eq!(snapshot.find(tag).unwrap().unwrap().id.as_str(), new);
        assert!(snapshot.find(&old).unwrap().unwrap().repo_tags.is_empty());

        catalog.remove(&[tag.to_owned(), old.clone()]);
        assert_eq!(catalog.snapshot().all().count(), 0);
    }

    #[test]
    fn the_ids_own_record_decides_between_targets() {
        let one = id("abc1");
        let catalog = Catalog::default();
        catalog.put([
            (
                "docker.io/library/a:1".to_owned(),
                entry(&one, "old", false),
            ),
            (one.clone(), entry(&one, "new", false)),
        ]);

        let view = catalog.snapshot().find(&one).unwrap().unwrap();

        assert_eq!(view.target.digest, Digest::sha256(b"new"));
    }
}
