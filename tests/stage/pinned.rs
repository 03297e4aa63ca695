//! The newer containerd and runc, which the conformance suite's build makes and keeps outside the tree.

use std::path::{Path, PathBuf};

use crate::case::Outcome;

/// The folder of the pinned containerd, its client and its shim.
pub(crate) fn containerd_folder() -> Outcome<PathBuf> {
    folder("CONTAINERD_2", "containerd")
}

/// The folder of the pinned runc, which can do what containerd's plugin takes for granted.
pub(crate) fn runc_folder() -> Outcome<PathBuf> {
    folder("RUNC", "runc")
}

fn folder(key: &str, program: &str) -> Outcome<PathBuf> {
    let versions = include_str!("../../critest/versions");
    let version = versions
        .lines()
        .find_map(|line| {
            let rest = line.strip_prefix(key)?.strip_prefix('=')?;
            rest.split_whitespace().next()
        })
        .ok_or_else(|| format!("critest/versions names no {key}"))?;
    let cache = std::env::var("PODWRIGHT_CRITEST_CACHE")
        .unwrap_or_else(|_unset| String::from("/var/cache/podwright-critest"));
    let folder = Path::new(&cache)
        .join("bin")
        .join(format!("{program}-{version}"));
    if folder.join(program).exists() {
        Ok(folder)
    } else {
        let lacks = format!("there is no {program} {version} in {cache}");
        Err(format!("{lacks}; remedy: run critest/build").into())
    }
}
