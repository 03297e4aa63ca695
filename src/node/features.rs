//! What each runtime handler can do, as kubelet is told: asked of containerd where it answers (2.x), else of the OCI
//! runtime itself. A handler that does not tell can do nothing special.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::config::settings::{Handler, Runtimes};
use crate::containerd::{Introspection, Payload, PluginInfo};
use crate::model::host_facts::KernelVersion;
use crate::model::{Classify as _, Kind, Result};
use crate::sys::tools;

/// What a handler's containers may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Mounts read-only with everything below them.
    pub recursive_read_only: bool,
    /// User namespaces with id-mapped mounts.
    pub user_namespaces: UserNamespaces,
}

/// Whether pods of a handler can have user namespaces, or what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserNamespaces {
    /// They can.
    Work,
    /// The kernel cannot map the ids of every file system that pods mount.
    NoKernel,
    /// The OCI runtime cannot, or does not say so.
    #[default]
    NoRuntime,
    /// The snapshotter cannot map the ids of root file systems.
    NoSnapshotter,
}

impl UserNamespaces {
    /// Whether they work.
    pub fn work(self) -> bool {
        self == Self::Work
    }

    /// What is in the way, and what helps; `None` where nothing is.
    pub fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::Work => None,
            Self::NoKernel => {
                Some("the kernel is older than 6.3, the first that maps ids of tmpfs")
            }
            Self::NoRuntime => Some(
                "the OCI runtime does not say that it can make id-mapped mounts; runc 1.2 and crun 1.9 can",
            ),
            Self::NoSnapshotter => Some(
                "containerd's snapshotter does not say that it can remap ids; overlayfs of containerd 2.0 can",
            ),
        }
    }
}

/// The first kernel with id-mapped mounts of overlayfs and tmpfs, both of which every pod has.
const ID_MAPPED_TMPFS: KernelVersion = KernelVersion::new(6, 3);
/// The capability of a snapshotter that takes id mappings as labels.
const REMAP_IDS: &str = "remap-ids";

/// The part of the OCI `features` document that we read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    mount_options: Vec<String>,
    linux: LinuxPart,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LinuxPart {
    namespaces: Vec<String>,
    mount_extensions: MountExtensions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountExtensions {
    idmap: Switch,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: bool,
}

impl Abilities {
    /// Reads an OCI runtime's `features` document, on a host that runs `kernel`.
    ///
    /// # Errors
    /// `Internal` where it is no such document.
    pub fn of_document(document: &[u8], kernel: KernelVersion) -> Result<Self> {
        let document: Document = serde_json::from_slice(document)
            .classify(Kind::Internal, || "read the OCI runtime's features".into())?;
        let knows = |list: &[String], word: &str| list.iter().any(|known| known == word);
        let mount_setattr = kernel >= KernelVersion::new(5, 12);
        Ok(Self {
            recursive_read_only: mount_setattr && knows(&document.mount_options, "rro"),
            user_namespaces: if kernel < ID_MAPPED_TMPFS {
                UserNamespaces::NoKernel
            } else if knows(&document.linux.namespaces, "user")
                && document.linux.mount_extensions.idmap.enabled
            {
                UserNamespaces::Work
            } else {
                UserNamespaces::NoRuntime
            },
        })
    }

    /// The same on a snapshotter that cannot remap ids.
    fn without_remapping(self) -> Self {
        Self {
            user_namespaces: match self.user_namespaces {
                UserNamespaces::Work => UserNamespaces::NoSnapshotter,
                other => other,
            },
            ..self
        }
    }
}

/// Whether `snapshotter` works and maps the ids of root file systems.
fn remaps_ids(plugins: &[PluginInfo], snapshotter: &str) -> bool {
    plugins.iter().any(|plugin| {
        plugin.kind == PluginInfo::SNAPSHOTTER
            && plugin.id == snapshotter
            && plugin.error.is_none()
            && plugin.capabilities.iter().any(|can| can == REMAP_IDS)
    })
}

/// What every handler can do. `options` encodes a handler's shim options.
pub async fn ask_all(
    runtimes: &Runtimes,
    introspection: &dyn Introspection,
    kernel: KernelVersion,
    options: impl Fn(&Handler) -> Option<Payload>,
) -> BTreeMap<String, Abilities> {
    let mut all = BTreeMap::new();
    let plugins = introspection.plugins().await.unwrap_or_else(|error| {
        tracing::info!(%error, "the abilities of containerd's snapshotters are not known");
        Vec::new()
    });
    for (name, handler) in &runtimes.handlers {
        let abilities = ask(handler, introspection, kernel, options(handler)).await;
        let abilities = abilities.unwrap_or_else(|error| {
            tracing::info!(handler = name, %error, "the features of a runtime handler are not known");
            Abilities::default()
        });
        let abilities = match remaps_ids(&plugins, &handler.snapshotter) {
            true => abilities,
            false => abilities.without_remapping(),
        };
        all.insert(name.clone(), abilities);
    }
    all
}

async fn ask(
    handler: &Handler,
    introspection: &dyn Introspection,
    kernel: KernelVersion,
    options: Option<Payload>,
) -> Result<Abilities> {
    let shim = match &handler.runtime_path {
        Some(path) => path.display().to_string(),
        None => handler.runtime_type.clone(),
    };
    let document = match introspection.runtime_features(&shim, options).await {
        Ok(document) => document,
        Err(unknown) if handler.is_runc_shim() => {
            tracing::debug!(%unknown, "containerd does not tell; asking the OCI runtime");
            let program = handler
                .binary
                .as_deref()
                .unwrap_or(Path::new("runc"))
                .to_owned();
            match look_up(program).await {
                Some(path) => tools::ask(&path, &["features"]).await?,
                None => return Err(unknown),
            }
        }
        Err(error) => return Err(error),
    };
    Abilities::of_document(&document, kernel)
}

async fn look_up(program: std::path::PathBuf) -> Option<std::path::PathBuf> {
    tokio::task::spawn_blocking(move || tools::look_up_blocking(&program))
        .await
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &[u8] = br#"{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"],
        "linux": {"namespaces": ["mount", "user"], "mountExtensions": {"idmap": {"enabled": true}}}}"#;

    #[test]
    fn abilities_need_both_the_runtime_and_the_kernel() {
        let of = |kernel| Abilities::of_document(DOCUMENT, kernel).unwrap();

        let (new, older, old) = (
            of(KernelVersion::new(6, 3)),
            of(KernelVersion::new(6, 2)),
            of(KernelVersion::new(5, 10)),
        );

        assert!(new.recursive_read_only && new.user_namespaces.work());
        assert!(older.recursive_read_only);
        assert_eq!(older.user_namespaces, UserNamespaces::NoKernel);
        assert!(!old.recursive_read_only && !old.user_namespaces.work());
    }

    #[test]
    fn user_namespaces_need_a_snapshotter_that_remaps() {
        let plugin = |id: &str, capabilities: &[&str], error: Option<&str>| PluginInfo {
            kind: PluginInfo::SNAPSHOTTER.into(),
            id: id.into(),
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
            error: error.map(str::to_owned),
            ..PluginInfo::default()
        };
        let plugins = [
            plugin("overlayfs", &["rebase", "remap-ids"], None),
            plugin("native", &[], None),
            plugin("zfs", &["remap-ids"], Some("skipped")),
        ];

        assert!(remaps_ids(&plugins, "overlayfs"));
        for cannot in ["native", "zfs", "none"] {
            assert!(!remaps_ids(&plugins, cannot), "{cannot}");
        }
        let able = Abilities::of_document(DOCUMENT, KernelVersion::new(6, 12)).unwrap();
        let lacking = able.without_remapping();
        assert_eq!(lacking.user_namespaces, UserNamespaces::NoSnapshotter);
        assert!(lacking.recursive_read_only);
        assert!(UserNamespaces::Work.obstacle().is_none());
        assert!(lacking.user_namespaces.obstacle().is_some());
    }

    #[test]
    fn a_runtime_that_lacks_a_part_lacks_the_ability() {
        let kernel = KernelVersion::new(6, 3);
        let plain = br#"{"mountOptions": ["ro"], "linux": {"namespaces": ["user"]}}"#;

        assert_eq!(
            Abilities::of_document(plain, kernel).unwrap(),
            Abilities::default()
        );
        assert_eq!(
            Abilities::of_document(b"{}", kernel).unwrap(),
            Abilities::default()
        );
        Abilities::of_document(b"unknown command", kernel).unwrap_err();
    }
}
