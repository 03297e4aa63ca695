//! Every parser of hostile or foreign bytes as a target of a fuzzer: what must hold for any input.
//!
//! `fuzz/` has one program for each row of [`TARGETS`]; the seeds in `fuzz/corpus` and the inputs that once broke
//! something run through them with the unit tests too, so that nobody needs a fuzzer to see an old fault come back.

use crate::image::ImageConfig;
use crate::model::reference::LocalName;
use crate::model::{Descriptor, Digest, Reference};
use crate::registry::manifest;
use crate::wire::{Message, cri};
use crate::{config, devices, image, logs, model, network, nri, registry, spec, store, streaming};

use Target::{Bytes, Text};

/// What takes any input.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Any bytes.
    Bytes(fn(&[u8])),
    /// Any text: bytes that are none are refused before anybody parses them.
    Text(fn(&str)),
}

impl Target {
    /// Puts `data` to it.
    ///
    /// # Panics
    /// Where it does not hold.
    pub fn take(self, data: &[u8]) {
        match self {
            Self::Bytes(target) => target(data),
            Self::Text(target) => {
                std::str::from_utf8(data).map(target).unwrap_or_default();
            }
        }
    }
}

/// The targets by name: the file in `fuzz/fuzz_targets` and the folder in `fuzz/corpus` are called the same.
pub const TARGETS: &[(&str, Target)] = &[
    ("accounts", Text(spec::fuzz::accounts)),
    ("cdi_file", Text(devices::fuzz::cdi_file)),
    ("challenge", Text(registry::fuzz::challenge)),
    ("cni_list", Text(network::fuzz::list)),
    ("cni_result", Bytes(network::fuzz::result)),
    ("config", Text(config_file)),
    ("container_request", Bytes(container_request)),
    ("hook_file", Text(devices::fuzz::hook_file)),
    ("hosts_toml", Text(registry::fuzz::hosts_toml)),
    ("image_config", Bytes(image_config)),
    ("layer", Bytes(image::fuzz::layer)),
    ("log_lines", Bytes(logs::fuzz::lines)),
    ("manifest", Bytes(manifest)),
    ("nri_answer", Bytes(nri::fuzz::answer)),
    ("nri_frames", Bytes(nri::fuzz::frames)),
    ("pod_request", Bytes(pod_request)),
    ("record", Bytes(store::fuzz::record)),
    ("reference", Text(reference)),
    ("seccomp_profile", Text(spec::fuzz::seccomp_profile)),
    ("spdy", Bytes(streaming::fuzz::spdy)),
    ("terminal_sizes", Bytes(streaming::fuzz::sizes)),
];

/// Normal forms are fixed points, and what is a reference is a local name too.
fn reference(text: &str) {
    let Ok(reference) = text.parse::<Reference>() else {
        drop(LocalName::parse(text));
        return;
    };
    let normal = reference.to_string();
    assert_eq!(normal.parse().ok(), Some(reference), "{normal}");
    assert!(LocalName::parse(text).is_ok(), "{text}");
}

fn config_file(text: &str) {
    drop(config::Config::parse(text));
}

/// A blob of any bytes; its digest was checked before.
fn image_config(data: &[u8]) {
    if let Ok(config) = ImageConfig::parse(&Digest::sha256(data), data) {
        assert_eq!(config.chain_ids().len(), config.diff_ids.len());
        drop(config.user());
    }
}

/// The first byte picks the type that the registry announced.
fn manifest(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let media_type = match kind % 4 {
        0 => "application/vnd.oci.image.index.v1+json",
        1 => "application/vnd.oci.image.manifest.v1+json",
        2 => "application/vnd.docker.distribution.manifest.v2+json",
        _ => "application/vnd.docker.distribution.manifest.list.v2+json",
    };
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::sha256(bytes),
        size: bytes.len() as u64,
        annotations: std::collections::BTreeMap::new(),
    };
    drop(manifest::decode(&descriptor, bytes));
}

/// Bytes that claim to be a pod's configuration are refused or become one.
fn pod_request(data: &[u8]) {
    if let Ok(message) = cri::PodSandboxConfig::decode(data) {
        drop(model::PodConfig::try_from(message));
    }
}

/// The same of a container; what is taken is stored, and must read back as it was.
fn container_request(data: &[u8]) {
    use crate::wire::record;
    let Ok(message) = cri::ContainerConfig::decode(data) else {
        return;
    };
    if model::ContainerConfig::try_from(message.clone()).is_ok() {
        let read = record::container_record(&message)
            .and_then(|text| record::container_from_record(&text));
        assert_eq!(read.ok(), Some(message));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn names(folder: &str) -> BTreeSet<String> {
        entries(&root().join(folder))
            .iter()
            .filter_map(|path| {
                path.file_stem()
                    .map(|name| name.to_string_lossy().into_owned())
            })
            .collect()
    }

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        let read = std::fs::read_dir(folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        read.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn each_target_has_a_program_and_seeds() {
        let targets: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names("fuzz_targets"), targets);
        assert_eq!(names("corpus"), targets);
        for name in targets {
            assert!(
                !entries(&root().join("corpus").join(&name)).is_empty(),
                "{name}"
            );
        }
    }

    #[test]
    fn every_kept_input_holds() {
        for (name, target) in TARGETS {
            for path in entries(&root().join("corpus").join(name)) {
                target.take(&std::fs::read(path).unwrap());
            }
        }
    }

    #[test]
    fn seeds_cut_short_hold_as_well() {
        for (name, target) in TARGETS {
            for path in entries(&root().join("corpus").join(name)) {
                let bytes = std::fs::read(path).unwrap();
                let step = bytes.len() / 64 + 1;
                for end in (0..bytes.len()).step_by(step) {
                    target.take(&bytes[..end]);
                }
            }
        }
    }
}
