//! The configuration that rooms share: read without waiting, replaced as a whole.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Config;
use super::keys::{self, Reload};

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

    /// Puts `config` in place and says which changed keys take effect only at the next start.
    pub fn replace(&self, config: Config) -> Vec<&'static str> {
        let before = self.0.swap(Arc::new(config));
        let after = self.0.load();
        keys::KEYS
            .iter()
            .filter(|key| key.reload == Reload::Restart)
            .filter(|key| key.find(before.effective()) != key.find(after.effective()))
            .map(|key| key.path)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_seen_by_every_clone_and_names_what_waits_for_a_restart() {
        let shared = Shared::new(Config::default());
        let other = shared.clone();

        let waiting = shared.replace(
            Config::parse("[server]\nroot_dir = \"/srv/pw\"\n[logs]\nmax_line_bytes = 4096\n")
                .unwrap(),
        );

        assert_eq!(waiting, ["server.root_dir"]);
        assert_eq!(other.load().logs.max_line_bytes.get(), 4096);
    }
}
