//! What a checkpoint holds, laid out on the disk: CRIU's files where CRIU reads them, and the changes to the root file
//! system as plain layers.

use std::fs::{File, OpenOptions};
use std::io::Seek as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::containerd::CheckpointDirs;
use crate::image::plain_blocking;
use crate::model::{Classify as _, Context as _, Error, Kind, Result};
use crate::sys;
use crate::sys::errno::SysContext as _;
use crate::sys::files::{make_dir_blocking, unnamed_file_blocking};

use super::source::Checkpoint;

/// Paths of the root file system that one checkpoint takes away.
const MAX_DELETED: usize = 100_000;
/// The longest of them (PATH_MAX).
const MAX_PATH: usize = 4096;

/// Lays a checkpoint out below `dir`, which it empties. Answers the layers to apply, in order; `limit` is the most bytes
/// of one.
///
/// # Errors
/// `InvalidArgument` for members that are malformed; `ResourceExhausted` beyond a limit and on a full disk.
pub(super) fn lay_out_blocking(
    checkpoint: &Checkpoint,
    dir: &Path,
    dirs: &CheckpointDirs,
    limit: u64,
) -> Result<Vec<File>> {
    sys::remove_tree_blocking(dir)?;
    for dir in [dir, &dirs.images, &dirs.work] {
        make_dir_blocking(dir, 0o700)?;
    }
    for (name, (part, span)) in checkpoint.images()? {
        let path = dirs.images.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .sys(|| format!("make {}", path.display()))?;
        part.copy_blocking(span, &mut file)
            .context(|| name.to_owned())?;
    }
    let mut layers = Vec::new();
    if let Some((part, span)) = checkpoint.member("rootfs-diff.tar") {
        let what = || "rootfs-diff.tar".to_owned();
        let mut packed = unnamed_file_blocking(dir)?;
        part.copy_blocking(span, &mut packed).context(what)?;
        let plain = plain_blocking(packed, || unnamed_file_blocking(dir), limit);
        layers.push(plain.context(what)?);
    }
    if let Some(deleted) = checkpoint.document_blocking("deleted.files")? {
        let layer = whiteouts_blocking(&deleted, unnamed_file_blocking(dir)?);
        layers.push(layer.context(|| "deleted.files".to_owned())?);
    }
    Ok(layers)
}

/// A layer that takes away the paths that `json` lists.
fn whiteouts_blocking(json: &[u8], into: File) -> Result<File> {
    let paths: Vec<String> =
        serde_json::from_slice(json).classify(Kind::InvalidArgument, || "read".to_owned())?;
    if paths.len() > MAX_DELETED {
        return Err(Error::invalid(format!(
            "{} paths, more than {MAX_DELETED}",
            paths.len()
        )));
    }
    let what = || "write a layer of whiteouts".to_owned();
    let mut tar = tar::Builder::new(into);
    for path in &paths {
        let name = whiteout(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0);
        header.set_size(0);
        tar.append_data(&mut header, name, std::io::empty())
            .sys(what)?;
    }
    let mut file = tar.into_inner().sys(what)?;
    file.rewind().sys(what)?;
    Ok(file)
}

/// The name in a layer that takes `path` away (OCI image specification, "Whiteouts").
fn whiteout(path: &str) -> Result<String> {
    let bad = || Error::invalid(format!("{path:?}: not a path inside a root file system"));
    if path.len() > MAX_PATH || path.contains('\0') {
        return Err(bad());
    }
    let mut parts: Vec<&str> = path
        .split('/')
        .filter(|p| !matches!(*p, "" | "."))
        .collect();
    let last = parts.pop().ok_or_else(bad)?;
    if last == ".." || parts.contains(&"..") || last.starts_with(".wh.") {
        return Err(bad());
    }
    parts.push("");
    Ok(format!("{}.wh.{last}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_path_is_taken_away_by_a_whiteout_beside_it() {
        for (path, name) in [
            ("a", ".wh.a"),
            ("/a/b/c", "a/b/.wh.c"),
            ("./a//b/", "a/.wh.b"),
        ] {
            assert_eq!(whiteout(path).unwrap(), name);
        }
    }

    #[test]
    fn what_is_no_path_inside_takes_nothing_away() {
        for path in ["", "/", "..", "a/../../b", "a/..", ".wh..wh..opq", "a\0b"] {
            assert!(whiteout(path).is_err(), "{path:?}");
        }
        let long = "a/".repeat(3000);
        assert!(whiteout(&long).is_err());
    }
}
