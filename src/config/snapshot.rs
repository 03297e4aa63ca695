//! The configuration that rooms share: read without waiting, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Config;

/// A handle on the current configuration; clones see the same one.
#[derive(Clone, Debug)]
pub struct Shared(Arc<ArcSwap<Config>>);

impl Shared {
    /// Shares `config`.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The configuration as it is now. Hold it for one decision, not for the life of an object.
    pub fn load(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Puts `config` in place, which [`Config::in_place_of`] made for the one that is replaced.
    pub fn replace(&self, config: Config) {
        self.0.store(Arc::new(config));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_seen_by_every_clone() {
        let shared = Shared::new(Config::default());
        let other = shared.clone();

        shared.replace(Config::parse("[logs]\nmax_line_bytes = 4096\n").unwrap());

        assert_eq!(other.load().logs.max_line_bytes.get(), 4096);
    }
}
