//! The newer containerd, which the conformance suite's build makes and keeps outside the tree.

use std::path::{Path, PathBuf};

use crate::case::Outcome;

/// The folder of the pinned containerd, its client and its shim.
pub(crate) fn containerd_folder() -> Outcome<PathBuf> {
    let versions = include_str!("../../critest/versions");
    let version = versions
        .lines()
        .find_map(|line| {
            line.strip_prefix("CONTAINERD_2=")?
                .split_whitespace()
                .next()
        })
        .ok_or("critest/versions names no CONTAINERD_2")?;
    let cache = std::env::var("PODWRIGHT_CRITEST_CACHE")
        .unwrap_or_else(|_unset| String::from("/var/cache/podwright-critest"));
    let folder = Path::new(&cache)
        .join("bin")
        .join(format!("containerd-{version}"));
    if folder.join("containerd").exists() {
        Ok(folder)
    } else {
        let lacks = format!("there is no containerd {version} in {cache}");
        Err(format!("{lacks}; remedy: run critest/build").into())
    }
}
