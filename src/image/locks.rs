//! One lock a name: two pulls that need the same blob or the same layer do the work once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Locks by name; a lock that nobody holds or waits for takes no room.
#[derive(Default)]
pub(super) struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Waits for the lock of `name`. Fair; dropping the future gives the place up.
    pub(super) async fn hold(&self, name: impl Into<String>) -> OwnedMutexGuard<()> {
        let lock = self.lock(name.into());
        lock.lock_owned().await
    }

    fn lock(&self, name: String) -> Arc<tokio::sync::Mutex<()>> {
        const SWEEP_ABOVE: usize = 256;
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&name).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() > SWEEP_ABOVE {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(name, Arc::downgrade(&lock));
        lock
    }
}
