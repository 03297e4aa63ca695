//! What each runtime handler can do, as kubelet is told: asked of containerd where it answers (2.x), else of the OCI
//! runtime itself. A handler that does not tell can do nothing special.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::tools;
use crate::config::settings::{Handler, Runtimes};
use crate::containerd::{Introspection, Payload};
use crate::model::host_facts::KernelVersion;
use crate::model::{Classify as _, Kind, Result};

/// What a handler's containers may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Mounts read-only with everything below them.
    pub recursive_read_only: bool,
    /// User namespaces with id-mapped mounts.
    pub user_namespaces: bool,
}

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
            user_namespaces: mount_setattr
                && knows(&document.linux.namespaces, "user")
                && document.linux.mount_extensions.idmap.enabled,
        })
    }
}

/// What every handler can do. `options` encodes a handler's shim options.
pub async fn ask_all(
    runtimes: &Runtimes,
    introspection: &dyn Introspection,
    kernel: KernelVersion,
    options: impl Fn(&Handler) -> Option<Payload>,
) -> BTreeMap<String, Abilities> {
    let mut all = BTreeMap::new();
    for (name, handler) in &runtimes.handlers {
        let abilities = ask(handler, introspection, kernel, options(handler)).await;
        let abilities = abilities.unwrap_or_else(|error| {
            tracing::info!(handler = name, %error, "the features of a runtime handler are not known");
            Abilities::default()
        });
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
        let new = Abilities::of_document(DOCUMENT, KernelVersion::new(6, 1)).unwrap();
        let old = Abilities::of_document(DOCUMENT, KernelVersion::new(5, 10)).unwrap();

        assert!(new.recursive_read_only && new.user_namespaces);
        assert_eq!(old, Abilities::default());
    }

    #[test]
    fn a_runtime_that_lacks_a_part_lacks_the_ability() {
        let kernel = KernelVersion::new(6, 1);
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
