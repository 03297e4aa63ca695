//! RemoveImage: all records of an image go, whichever of its names was given. Running containers keep their snapshots.

use super::Images;
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
        let held: Vec<_> = image
            .names
            .iter()
            .filter_map(|name| Some((name.clone(), self.inner.catalog.entry(name)?)))
            .filter(|(_, entry)| entry.facts.id == image.id)
            .collect();
        let mut names: Vec<String> = held.iter().map(|(name, _)| name.clone()).collect();
        self.inner.catalog.remove(&names);
        // The id's record goes last: as long as it is there the image can still be found and removed.
        names.sort_by_key(|name| name.as_str() == image.id.as_str());
        let last = names.len().saturating_sub(1);
        for (at, name) in names.iter().enumerate() {
            let is_last = at == last;
            let deletion = self.inner.containerd.images.delete(name, is_last).await;
            if let Err(error) = deletion {
                let gone = names.get(..at).unwrap_or_default();
                let left = held.into_iter().filter(|(name, _)| !gone.contains(name));
                self.inner.catalog.put(left);
                return Err(error).context(|| format!("remove image {}: record {name}", image.id));
            }
        }
        tracing::info!(id = %image.id, ?names, "image removed");
        Ok(())
    }
}
