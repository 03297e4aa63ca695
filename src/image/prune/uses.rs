//! When each image was pulled or asked for last: a container that is being made holds nothing of its image at first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Digest, Timestamp};

/// Times of last use.
pub(in crate::image) struct Uses {
    /// What was used before this, nobody remembers.
    began: Timestamp,
    last: Mutex<HashMap<Digest, Timestamp>>,
}

impl Uses {
    pub(in crate::image) fn since(began: Timestamp) -> Self {
        Self {
            began,
            last: Mutex::default(),
        }
    }

    pub(in crate::image) fn note(&self, id: &Digest, now: Timestamp) {
        let mut uses = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        uses.insert(id.clone(), now);
    }

    /// Whether it was, or may have been, used after `since`.
    pub(super) fn is_fresh(&self, id: &Digest, since: Timestamp) -> bool {
        let uses = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        uses.get(id).copied().unwrap_or(self.began) > since
    }

    /// Forgets those that are not in `known`.
    pub(super) fn keep(&self, known: impl Fn(&Digest) -> bool) {
        let mut uses = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        uses.retain(|id, _| known(id));
    }
}
