//! Rules of container and image records.

use super::State;
use crate::containerd::{ContainerRecord, Event, ImageRecord, LeaseId, RecordField};
use crate::model::{Error, Result};

/// Longest id that containerd takes.
const MAX_ID: usize = 76;
/// Longest label, key and value together.
const MAX_LABEL: usize = 4096;

impl State {
    pub(super) fn container(&self, id: &str) -> Result<&ContainerRecord> {
        self.containers
            .get(id)
            .ok_or_else(|| Error::not_found(format!("container {id:?}")))
    }

    pub(super) fn list_containers(&self, label: Option<(&str, &str)>) -> Vec<ContainerRecord> {
        self.containers
            .values()
            .filter(|record| {
                label.is_none_or(|(key, value)| {
                    record.labels.get(key).is_some_and(|have| have == value)
                })
            })
            .cloned()
            .collect()
    }

    pub(super) fn create_container(&mut self, record: &ContainerRecord) -> Result<ContainerRecord> {
        if self.containers.contains_key(&record.id) {
            return Err(Error::already_exists(format!("container {:?}", record.id)));
        }
        check_container(record)?;
        let record = ContainerRecord {
            created_at: self.now,
            ..record.clone()
        };
        self.containers.insert(record.id.clone(), record.clone());
        Ok(record)
    }

    pub(super) fn update_container(
        &mut self,
        record: &ContainerRecord,
        fields: &[RecordField],
    ) -> Result<()> {
        check_container(record)?;
        let stored = self
            .containers
            .get_mut(&record.id)
            .ok_or_else(|| Error::not_found(format!("container {:?}", record.id)))?;
        for field in fields {
            match field {
                RecordField::Spec => stored.spec.clone_from(&record.spec),
                RecordField::Extensions => stored.extensions.clone_from(&record.extensions),
                RecordField::Labels => stored.labels.clone_from(&record.labels),
            }
        }
        Ok(())
    }

    pub(super) fn delete_container(&mut self, id: &str) -> Result<()> {
        self.container(id)?;
        if self.tasks.contains_key(id) {
            return Err(Error::precondition(format!("container {id:?} has a task")));
        }
        self.containers.remove(id);
        Ok(())
    }

    pub(super) fn image(&self, name: &str) -> Result<ImageRecord> {
        let found = self.images.get(name).cloned();
        found.ok_or_else(|| Error::not_found(format!("image {name:?}")))
    }

    pub(super) fn put_image(&mut self, image: &ImageRecord, lease: Option<&LeaseId>) -> Result<()> {
        self.check_lease(lease)?;
        check_labels(&image.labels)?;
        if image.name.is_empty() || image.target.size == 0 || image.target.media_type.is_empty() {
            return Err(Error::invalid(format!(
                "image record {:?} is incomplete",
                image.name
            )));
        }
        let fresh = ImageRecord {
            created_at: self.now,
            ..image.clone()
        };
        let stored = self.images.entry(image.name.clone()).or_insert(fresh);
        stored.target = image.target.clone();
        stored.labels.extend(image.labels.clone());
        self.publish(Event::ImageChanged {
            name: image.name.clone(),
            deleted: false,
        });
        Ok(())
    }

    pub(super) fn delete_image(&mut self, name: &str) {
        if self.images.remove(name).is_some() {
            self.publish(Event::ImageChanged {
                name: name.to_owned(),
                deleted: true,
            });
            self.collect();
        }
    }
}

fn check_container(record: &ContainerRecord) -> Result<()> {
    let ok = !record.id.is_empty()
        && record.id.len() <= MAX_ID
        && !record.runtime.is_empty()
        && record.spec.is_some()
        && (record.snapshot_key.is_empty() || !record.snapshotter.is_empty());
    if !ok {
        return Err(Error::invalid(format!(
            "container record {:?}: want an id, a runtime, a spec, and a snapshotter beside a snapshot key",
            record.id
        )));
    }
    check_labels(&record.labels)
}

pub(super) fn check_labels(labels: &std::collections::BTreeMap<String, String>) -> Result<()> {
    match labels
        .iter()
        .find(|(key, value)| key.len() + value.len() > MAX_LABEL)
    {
        Some((key, _)) => Err(Error::invalid(format!(
            "label {key:?} is longer than {MAX_LABEL} bytes"
        ))),
        None => Ok(()),
    }
}
