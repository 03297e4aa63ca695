//! RemoveImage: all records of an image go, whichever of its names was given. Running containers keep their snapshots.

use super::Images;
use super::facts::Facts;
use crate::model::{Context, Result};

impl Images {
    /// Removes the image that `text` names, under all its names. An image that is not there is success. It is off the
    /// lists before its records go, so that nobody sees it half removed.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty text or an ambiguous prefix, and those of containerd; the image is listed again
    /// with what is left of it then.
    pub async fn remove(&self, text: &str) -> Result<()> {
        let Some(image) = self.resolve_local(text)? else {
            return Ok(());
        };
        let _gate = self.inner.records.read().await;
        let _turn = self.hold_records(&image.id, &image.names).await;
        // Another removal, or a pull that moved a name to another image, may have come first.
        let mut held: Vec<_> = image
            .names
            .iter()
            .filter_map(|name| Some((name.clone(), self.inner.catalog.entry(name)?)))
            .filter(|(_, entry)| entry.facts.id == image.id)
            .collect();
        // The id's record goes last: as long as it is there the image can still be found and removed.
        held.sort_by_key(|(name, _)| name.as_str() == image.id.as_str());
        let names: Vec<String> = held.iter().map(|(name, _)| name.clone()).collect();
        self.inner.catalog.remove(&names);
        let last = names.len().saturating_sub(1);
        for (at, (name, entry)) in held.iter().enumerate() {
            let deletion = self.delete_record(name, &entry.facts, at == last).await;
            if let Err(error) = deletion {
                self.inner.catalog.put(held.iter().skip(at).cloned());
                return Err(error).context(|| format!("remove image {}: record {name}", image.id));
            }
        }
        tracing::info!(id = %image.id, ?names, "image removed");
        Ok(())
    }

    /// Deletes a record, unless another client just gave the name to another image: then the name is that one's.
    async fn delete_record(&self, name: &str, facts: &Facts, sync: bool) -> Result<()> {
        let images = &self.inner.containerd.images;
        match images.get(name).await {
            Ok(record) if record.target.digest != facts.target.digest => {
                tracing::info!(image.ref = name, target = %record.target.digest, "the name means another image now and stays");
                Ok(())
            }
            Err(error) if !error.is_not_found() => Err(error),
            _ => images.delete(name, sync).await,
        }
    }
}
