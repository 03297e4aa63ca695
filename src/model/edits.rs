//! What files of the node (CDI specifications, OCI hook files) add to a container, looked up and ready to be put into
//! its OCI spec.

use super::host_facts::DeviceKind;

/// Additions to one container, in the order in which they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// `NAME=value`, each replacing the variable of that name.
    pub env: Vec<String>,
    /// Device nodes, each replacing the one at its path.
    pub devices: Vec<EditedDevice>,
    /// Network devices that leave the host for the container.
    pub net_devices: Vec<NetDevice>,
    /// Mounts, each replacing the one at its destination.
    pub mounts: Vec<EditedMount>,
    /// Hooks, after those that are there.
    pub hooks: Vec<Hook>,
    /// Cache and memory bandwidth; replaces what is there.
    pub rdt: Option<Rdt>,
    /// Further groups of the process.
    pub groups: Vec<u32>,
}

impl Edits {
    /// Whether there is nothing to add.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Puts `later` behind these: where both say something about one thing, `later` wins.
    pub fn extend(&mut self, later: Self) {
        self.env.extend(later.env);
        self.devices.extend(later.devices);
        self.net_devices.extend(later.net_devices);
        self.mounts.extend(later.mounts);
        self.hooks.extend(later.hooks);
        self.rdt = later.rdt.or(self.rdt.take());
        self.groups.extend(later.groups);
    }
}

/// A device node of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedDevice {
    /// Where in the container.
    pub path: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits; `None` leaves them to the OCI runtime.
    pub mode: Option<u32>,
    /// Owner; `None` is the container's user.
    pub uid: Option<u32>,
    /// Group; `None` is that of the container's user.
    pub gid: Option<u32>,
    /// What the device cgroup allows, out of `r`, `w` and `m`; may be empty.
    pub access: String,
}

/// A network interface of the host that becomes the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub host_name: String,
    /// Its name in the container.
    pub name: String,
}

/// A mount in the OCI runtime's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedMount {
    /// Where in the container.
    pub destination: String,
    /// Where on the host.
    pub source: String,
    /// File system type; empty where the options tell.
    pub kind: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// When in a container's life a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// As `CreateRuntime`; the older name.
    Prestart,
    /// The namespaces are there, the root is not entered yet; in the runtime's namespaces.
    CreateRuntime,
    /// As before, in the container's namespaces.
    CreateContainer,
    /// Before the program runs; in the container's namespaces and root.
    StartContainer,
    /// The program has been started; in the runtime's namespaces.
    Poststart,
    /// The container is deleted; in the runtime's namespaces.
    Poststop,
}

/// A program that the OCI runtime runs at a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub stage: Stage,
    /// The program.
    pub path: String,
    /// Its arguments, its own name first; empty leaves that to the OCI runtime.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<String>,
    /// After how many seconds it is killed and has failed.
    pub timeout: Option<i64>,
}

/// Intel Resource Director Technology.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdt {
    /// Class of service.
    pub class: String,
    /// Cache schema.
    pub l3_cache: String,
    /// Memory bandwidth schema.
    pub memory_bandwidth: String,
    /// Whole lines of the schemata file.
    pub schemata: Vec<String>,
    /// Monitoring of the container's use.
    pub is_monitored: bool,
}
