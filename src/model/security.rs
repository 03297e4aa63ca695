//! Security settings that pods and containers share.

/// Whose namespace a container joins (CRI `NamespaceMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NamespaceMode {
    /// The pod's: the enum's zero value, hence what an absent message means.
    #[default]
    Pod,
    /// One of its own.
    Container,
    /// The node's.
    Node,
    /// Another container's, named by id.
    Target,
}

/// Namespace choices of a pod or container (CRI `NamespaceOption`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Network: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// PID.
    pub pid: NamespaceMode,
    /// IPC: `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// Container whose PID namespace `Target` means; empty otherwise.
    pub target_id: String,
    /// User namespace; `None` means the node's.
    pub user: Option<UserNamespace>,
}

/// A user namespace request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// `Pod` asks for one, `Node` for none.
    pub mode: NamespaceMode,
    /// User id mappings.
    pub uids: Vec<IdMapping>,
    /// Group id mappings.
    pub gids: Vec<IdMapping>,
}

/// One range of mapped ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapping {
    /// First id outside.
    pub host_id: u32,
    /// First id inside.
    pub container_id: u32,
    /// Length of the range.
    pub length: u32,
}

/// Which groups a process gets besides its primary one (KEP-3619).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SupplementalGroupsPolicy {
    /// Those that the image's group file gives the user, and the asked ones.
    #[default]
    Merge,
    /// The asked ones only.
    Strict,
}

/// SELinux label parts; empty means "from policy".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelinuxOptions {
    /// User part.
    pub user: String,
    /// Role part.
    pub role: String,
    /// Type part.
    pub selinux_type: String,
    /// Level, e.g. `s0:c1,c2`.
    pub level: String,
}

/// Which seccomp filter a process gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeccompProfile {
    /// The built-in default table.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile file on the node, by absolute path.
    Localhost(String),
}

/// Which AppArmor profile a process gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApparmorProfile {
    /// The built-in default profile.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile that the node has loaded, by name.
    Localhost(String),
}
