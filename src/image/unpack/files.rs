//! The files of an artifact, in place of layers.

use std::sync::Arc;

use super::{BringLayer, Claim, Unpack};
use crate::image::facts::Layer;
use crate::image::progress::LayerState;
use crate::image::{apply, artifact};
use crate::model::{Error, Result};
use crate::sys;

impl Unpack<'_> {
    /// Brings the files of an artifact and lays them out as the one snapshot that they make. No lock is held while they
    /// come.
    pub(super) async fn files(
        &self,
        layers: &[Layer],
        top: &Layer,
        bring: &dyn BringLayer,
        parallel: usize,
    ) -> Result<()> {
        let Some(Claim { prepared, turn }) = self.claim(top, None).await? else {
            return Ok(());
        };
        drop(turn);
        self.fits(layers)?;
        artifact::bring_all(layers, bring, parallel).await?;
        if let Some(claim) = self.reclaim(top, prepared).await? {
            let Claim {
                prepared,
                turn: _turn,
            } = claim;
            let mounts = prepared.mounts.clone();
            let server = self.containerd.introspection.server_pid();
            let open = move || apply::new_directory_blocking(&mounts, server);
            let root = sys::off_thread("look at a snapshot", open).await?;
            let hold = Arc::clone(&prepared.in_use).lock_owned().await;
            artifact::lay(layers, &*self.containerd.content, root, hold).await?;
            self.commit(top, prepared).await?;
        }
        for layer in layers {
            self.note(layer, LayerState::Done);
        }
        Ok(())
    }

    /// Files are as long as their blobs, so what they will take is known before any of them comes.
    fn fits(&self, layers: &[Layer]) -> Result<()> {
        let total = layers
            .iter()
            .fold(0_u64, |sum, layer| sum.saturating_add(layer.blob.size));
        let longest = layers.iter().map(|layer| layer.blob.size).max();
        let limits = &self.limits;
        let is_over = |bytes: u64, limit: u64| limit > 0 && bytes > limit;
        if is_over(total, limits.image) || is_over(longest.unwrap_or(0), limits.layer) {
            return Err(Error::exhausted(format!(
                "the files of the artifact take {total} bytes, more than images.max_unpacked_image_bytes or images.max_unpacked_layer_bytes allow"
            )));
        }
        Ok(())
    }
}
