//! Leases over what a checkpoint or a restore puts into containerd for a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::containerd::LeaseId;
use crate::model::Result;

use super::Containers;

/// How long containerd keeps what nobody takes away.
const LIFE: Duration = Duration::from_secs(24 * 3600);

impl Containers {
    /// Makes a lease that ends by itself if we do not end it.
    pub(super) async fn make_lease(&self, lease: &LeaseId) -> Result<()> {
        let expire = self.deps.clock.now().after(LIFE);
        let leases = &self.deps.containerd.leases;
        leases.create(lease, Some(expire), BTreeMap::new()).await
    }
}
