//! The root of every pause container: one directory named by the program's digest, laid out once, never rewritten and
//! mounted read-only, so that nothing needs a pull or a snapshot and nothing can take it away.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::model::{Classify, Kind, Result};
use crate::pause;
use crate::sys;

use super::deps::Deps;

/// Directories that the OCI runtime mounts upon.
const MOUNT_POINTS: [&str; 4] = ["proc", "dev", "sys", "etc"];

/// The directory, laid out where it is not there yet.
pub(super) async fn lay_out(deps: &Deps) -> Result<PathBuf> {
    // Labelled, it is another directory: SELinux may be switched on after the first pod.
    let label = deps
        .host
        .load()
        .selinux
        .as_ref()
        .map(|selinux| selinux.read_only_file.clone());
    let name = match label {
        Some(_) => format!("{}-labelled", pause::content_digest().hex()),
        None => pause::content_digest().hex().to_owned(),
    };
    let dir = deps.settings().server.root_dir.join("pause").join(name);
    let root = dir.join("rootfs");
    if tokio::fs::try_exists(&root).await.unwrap_or(false) {
        return Ok(root);
    }
    let made = root.clone();
    sys::off_thread("lay out the pause root", move || {
        lay_out_blocking(&dir, label.as_deref())
    })
    .await?;
    Ok(made)
}

fn lay_out_blocking(dir: &Path, label: Option<&str>) -> Result<()> {
    let what = || format!("lay out the pause root {}", dir.display());
    sys::files::make_dir_blocking(dir, 0o711)?;
    // Built beside its place and renamed, so that the name never stands for half a root.
    let building = dir.join(format!("building-{}", std::process::id()));
    sys::remove_tree_blocking(&building)?;
    for name in MOUNT_POINTS {
        sys::files::make_dir_blocking(&building.join(name), 0o755)?;
    }
    std::fs::write(building.join("etc/resolv.conf"), "").classify(Kind::Internal, what)?;
    let program = building.join("pause");
    std::fs::write(&program, pause::program()).classify(Kind::Internal, what)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
        .classify(Kind::Internal, what)?;
    std::fs::set_permissions(&building, std::fs::Permissions::from_mode(0o755))
        .classify(Kind::Internal, what)?;
    if let Some(label) = label {
        sys::selinux::relabel_blocking(&building, label)?;
    }
    match std::fs::rename(&building, dir.join("rootfs")) {
        Ok(()) => Ok(()),
        // Another request was faster.
        Err(_taken) if dir.join("rootfs/pause").exists() => sys::remove_tree_blocking(&building),
        Err(error) => Err(error).classify(Kind::Internal, what),
    }
}
