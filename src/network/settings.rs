//! What an operator may set about networking. Live: each use reads the snapshot of the moment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

/// Settings that a reload swaps while everything runs.
pub type SharedNetworkSettings = Arc<ArcSwap<NetworkSettings>>;

/// Which of a pod's addresses is its primary one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpPreference {
    /// The first IPv4 address; the first of all where there is none.
    #[default]
    Ipv4,
    /// The first IPv6 address; the first of all where there is none.
    Ipv6,
    /// The first one that the plugins name.
    AsReturned,
}

/// Settings of this room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Where network configuration files lie.
    pub conf_dir: PathBuf,
    /// Where plugin binaries lie; the first directory that has one wins.
    pub bin_dirs: Vec<PathBuf>,
    /// How many files of `conf_dir` are used, in the order of their names; 0 means all.
    pub max_conf_num: usize,
    /// Where results are kept, in `results/`, as the other runtimes of a node know it.
    pub cache_dir: PathBuf,
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
    /// Which address is the primary one.
    pub ip_preference: IpPreference,
    /// For all plugins of one network together.
    pub add_deadline: Duration,
    /// For all plugins of one network together.
    pub del_deadline: Duration,
    /// Attach to one network after the other.
    pub setup_serially: bool,
    /// Further environment of plugins, e.g. proxy settings.
    pub plugin_environment: Vec<(String, String)>,
    /// How often the configuration is looked at where no change was notified.
    pub reload_interval: Duration,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            max_conf_num: 1,
            cache_dir: "/var/lib/cni".into(),
            netns_dir: "/var/run/netns".into(),
            ip_preference: IpPreference::default(),
            add_deadline: Duration::from_secs(4 * 60),
            del_deadline: Duration::from_secs(60),
            setup_serially: false,
            plugin_environment: Vec::new(),
            reload_interval: Duration::from_secs(10),
        }
    }
}

impl NetworkSettings {
    /// These settings, ready to be shared.
    pub fn shared(self) -> SharedNetworkSettings {
        Arc::new(ArcSwap::from_pointee(self))
    }
}
