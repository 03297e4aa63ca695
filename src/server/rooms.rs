//! The configuration as each room wants it.

use std::sync::Arc;

use crate::config::{Config, IpPreference};
use crate::container::Containers;
use crate::image::{ImageParts, Images};
use crate::model::Result;
use crate::network::{self, NetworkSettings};
use crate::registry::{Registry, Settings};
use crate::sandbox::{Deps, Sandboxes};
use crate::streaming::{self, Streaming};

/// What the network room may be told by an operator.
pub fn network_settings(config: &Config) -> NetworkSettings {
    let cni = &config.cni;
    NetworkSettings {
        conf_dir: cni.conf_dir.clone(),
        bin_dirs: cni.bin_dirs.clone(),
        max_conf_num: usize::try_from(cni.max_conf_num.get()).unwrap_or(usize::MAX),
        netns_dir: config.sandbox.netns_dir.clone(),
        ip_preference: match cni.ip_pref {
            IpPreference::Ipv4 => network::IpPreference::Ipv4,
            IpPreference::Ipv6 => network::IpPreference::Ipv6,
            IpPreference::Cni => network::IpPreference::AsReturned,
        },
        add_deadline: cni.add_deadline,
        del_deadline: cni.del_deadline,
        ..NetworkSettings::default()
    }
}

/// The image room.
pub(super) fn images(deps: &Arc<Deps>) -> Images {
    let config = deps.settings();
    let registry = Registry::new(Settings {
        config_paths: config.images.registry_config_path.clone(),
        max_downloads: config.images.max_concurrent_downloads.get(),
        idle_timeout: config.images.progress_timeout,
        range_size: config.images.range_size,
        range_memory: config.images.range_memory,
        ..Settings::default()
    });
    Images::new(ImageParts {
        containerd: deps.containerd.clone(),
        registry,
        supervisor: deps.supervisor.clone(),
        live: deps.live.clone(),
        clock: Arc::clone(&deps.clock),
        config: deps.config.clone(),
        index: Arc::clone(&deps.index),
    })
}

/// The streaming server, bound and not yet serving.
pub(super) fn streaming_blocking(
    sandboxes: &Sandboxes,
    containers: &Containers,
) -> Result<Streaming> {
    let deps = sandboxes.deps();
    Streaming::bind_blocking(streaming::Parts {
        containers: containers.clone(),
        sandboxes: sandboxes.clone(),
        config: deps.config.clone(),
        supervisor: deps.supervisor.clone(),
        live: deps.live.clone(),
    })
}
