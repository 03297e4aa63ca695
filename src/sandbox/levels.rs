//! Which SELinux levels are taken: each pod has one of its own, so that no pod may touch the files of another.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::model::{Classify, Error, Kind, Result};

/// A level for each pod, and for each container that asked for one of its own.
#[derive(Debug, Default)]
pub(super) struct Levels(Mutex<BTreeMap<String, String>>);

impl Levels {
    /// Draws a level for `owner` that nobody has: two of `categories` different categories.
    ///
    /// # Errors
    /// `ResourceExhausted` where all are taken, `Internal` without random numbers.
    pub(super) fn draw(&self, owner: &str, categories: usize) -> Result<String> {
        let mut held = self.lock();
        let pairs = categories.saturating_mul(categories.saturating_sub(1)) / 2;
        // Far more tries than a node that is not full needs.
        for _ in 0..pairs.saturating_mul(8).max(64) {
            let (one, other) = (random_below(categories)?, random_below(categories)?);
            let level = format!("s0:c{},c{}", one.min(other), one.max(other));
            if one != other && !held.values().any(|taken| *taken == level) {
                held.insert(owner.to_owned(), level.clone());
                return Ok(level);
            }
        }
        Err(Error::new(
            Kind::ResourceExhausted,
            format!(
                "SELinux levels: all {pairs} pairs of {categories} categories are taken; raise containers.selinux_category_range"
            ),
        ))
    }

    /// Notes that `owner` has `level`; others may have it too.
    pub(super) fn hold(&self, owner: &str, level: &str) {
        self.lock().insert(owner.to_owned(), level.to_owned());
    }

    /// The level of `owner`.
    pub(super) fn of(&self, owner: &str) -> Option<String> {
        self.lock().get(owner).cloned()
    }

    /// Notes that `owner` is gone.
    pub(super) fn release(&self, owner: &str) {
        self.lock().remove(owner);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_below(limit: usize) -> Result<usize> {
    let random =
        getrandom::u64().classify(Kind::Internal, || "draw an SELinux level".to_owned())?;
    let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
    Ok(usize::try_from(random % limit).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_a_level_of_its_own_until_none_is_left() {
        let levels = Levels::default();
        levels.hold("adopted", "s0:c0,c1");
        for pod in ["a", "b"] {
            let level = levels.draw(pod, 3).unwrap();
            assert!(
                ["s0:c0,c2", "s0:c1,c2"].contains(&level.as_str()),
                "{level}"
            );
            assert_eq!(levels.of(pod), Some(level));
        }
        assert_ne!(levels.of("a"), levels.of("b"));
        let full = levels.draw("c", 3).unwrap_err();
        assert_eq!(full.kind(), Kind::ResourceExhausted);

        levels.release("adopted");
        assert_eq!(levels.draw("c", 3).unwrap(), "s0:c0,c1");
    }
}
