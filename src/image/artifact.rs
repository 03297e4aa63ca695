//! OCI artifacts: manifests whose configuration is none of an image. Their blobs are files, not layers; a title names
//! each. All of them together make one snapshot, so that an artifact is mounted as a volume the way an image is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use futures::stream::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::facts::Layer;
use super::unpack::BringLayer;
use crate::containerd::Content;
use crate::model::{Classify as _, Context as _, Descriptor, Digest, Error, Kind, Result};
use crate::registry::manifest::Manifest;
use crate::sys::off_thread;

/// The annotation that names a file.
const TITLE: &str = "org.opencontainers.image.title";
/// What packers of models write in its place.
const MODEL_PATH: [&str; 2] = ["org.cncf.model.filepath", "org.cnai.model.filepath"];
const MAX_FILES: usize = 10_000;
const MAX_PATH: usize = 4_095;
const MAX_NAME: usize = 255;
const MAX_DEPTH: usize = 64;
/// Bytes of a blob that are copied at once.
const CHUNK: u64 = 4 << 20;

/// The blobs of an artifact as layers: those that have a name are files, all of them of one snapshot.
///
/// # Errors
/// `InvalidArgument` where no blob has a name, or a name is none that a file could have.
pub(super) fn layers(target: &Digest, manifest: &Manifest) -> Result<Vec<Layer>> {
    let bad = |why: String| Error::invalid(format!("artifact {target}: {why}"));
    let mut names = BTreeSet::new();
    let mut hash = Sha256::new();
    hash.update(b"files of an artifact\n");
    let mut files = Vec::with_capacity(manifest.layers.len());
    for blob in &manifest.layers {
        let name = name_of(blob);
        if let Some(name) = name {
            check(name).map_err(|why| bad(format!("the file name {name:?} {why}")))?;
            if !names.insert(name) {
                return Err(bad(format!("two files are called {name:?}")));
            }
            // No name has a NUL, so no two lists look alike.
            for part in [name, "\0", blob.digest.as_str(), "\0"] {
                hash.update(part.as_bytes());
            }
        }
        files.push((blob, name));
    }
    if names.is_empty() {
        return Err(bad(format!(
            "it is no runnable image, and none of its {} blobs has a name ({TITLE}), so it cannot be a volume either",
            manifest.layers.len()
        )));
    }
    if names.len() > MAX_FILES {
        return Err(bad(format!("more than {MAX_FILES} files")));
    }
    if let Some(name) = names.iter().find(|name| has_file_above(name, &names)) {
        return Err(bad(format!("the file {name:?} would lie in another file")));
    }
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let chain_id: Digest = format!("sha256:{hex}").parse()?;
    let layer = |(blob, name): (&Descriptor, Option<&str>)| Layer {
        diff_id: blob.digest.clone(),
        blob: blob.clone(),
        chain_id: chain_id.clone(),
        file: Some(name.unwrap_or_default().to_owned()),
    };
    Ok(files.into_iter().map(layer).collect())
}

fn name_of(blob: &Descriptor) -> Option<&str> {
    std::iter::once(TITLE)
        .chain(MODEL_PATH)
        .find_map(|key| blob.annotations.get(key))
        .map(String::as_str)
}

/// Says what is wrong with a name. It may have directories in it; it may not lead anywhere else.
fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_PATH {
        return Err("is empty or too long");
    }
    if name.contains('\0') {
        return Err("is no path of a file");
    }
    let mut depth = 0_usize;
    for part in name.split('/') {
        depth = depth.saturating_add(1);
        if matches!(part, "" | "." | "..") {
            return Err("leads out of the artifact, or nowhere");
        }
        if part.len() > MAX_NAME || depth > MAX_DEPTH {
            return Err("has a part that is too long, or too many");
        }
    }
    Ok(())
}

fn has_file_above(name: &str, names: &BTreeSet<&str>) -> bool {
    let mut ends = name.match_indices('/').map(|(at, _)| at);
    ends.any(|at| name.get(..at).is_some_and(|above| names.contains(above)))
}

/// Whether these are the files of an artifact.
pub(super) fn is_one(layers: &[Layer]) -> bool {
    layers.first().is_some_and(|layer| layer.file.is_some())
}

/// Brings all blobs, `parallel` at once.
///
/// # Errors
/// Those of `bring`.
pub(super) async fn bring_all(
    layers: &[Layer],
    bring: &dyn BringLayer,
    parallel: usize,
) -> Result<()> {
    let bringing: Vec<_> = layers
        .iter()
        .map(|layer| bring.bring(&layer.blob))
        .collect();
    futures::stream::iter(bringing)
        .buffer_unordered(parallel.max(1))
        .try_collect()
        .await
}

/// Writes the files below `root`, which is empty. `hold` is let go when nothing touches it any more, be this future
/// dropped or not.
///
/// # Errors
/// Those of the content store; `Internal` as the kernel says.
pub(super) async fn lay(
    layers: &[Layer],
    content: &dyn Content,
    root: PathBuf,
    mut hold: OwnedMutexGuard<()>,
) -> Result<()> {
    for layer in layers {
        let Some(name) = layer.file.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        let what = || format!("write the file {name:?} of an artifact");
        let path = root.join(name);
        let base = root.clone();
        let mut file;
        (file, hold) = off_thread("write a file of an artifact", move || {
            Ok((create_blocking(&base, &path)?, hold))
        })
        .await
        .context(what)?;
        let mut at = 0_u64;
        while at < layer.blob.size {
            let length = CHUNK.min(layer.blob.size.saturating_sub(at));
            let bytes = content.read_part(&layer.blob.digest, at, length).await?;
            at = at.saturating_add(length);
            (file, hold) = off_thread("write a file of an artifact", move || {
                file.write_all(&bytes)
                    .classify(Kind::Internal, || "write".to_owned())?;
                Ok((file, hold))
            })
            .await
            .context(what)?;
        }
    }
    Ok(())
}

/// A new file at `path`, and the directories between it and `root`. Nobody else has put anything there, so no link can
/// stand in the way; a file that does is an error.
fn create_blocking(root: &Path, path: &Path) -> Result<File> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
    let failed = || format!("create {}", path.display());
    let below = path.parent().unwrap_or(root);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(below)
        .classify(Kind::Internal, failed)?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .classify(Kind::Internal, failed)?;
    // Whatever our own mask: containers of any user read these.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
        .classify(Kind::Internal, failed)?;
    for dir in below.ancestors().take_while(|dir| dir.starts_with(root)) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
            .classify(Kind::Internal, failed)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn blob(text: &str, key: &str, name: &str) -> Descriptor {
        Descriptor {
            media_type: "application/octet-stream".into(),
            digest: Digest::sha256(text.as_bytes()),
            size: 1,
            annotations: [(key.to_owned(), name.to_owned())].into(),
        }
    }

    fn of(blobs: &[(&str, &str)]) -> Result<Vec<Layer>> {
        let manifest = Manifest {
            config: blob("c", "x", "y"),
            layers: blobs
                .iter()
                .map(|(text, name)| blob(text, TITLE, name))
                .collect(),
            annotations: [].into(),
        };
        layers(&Digest::sha256(b"target"), &manifest)
    }

    #[rstest]
    #[case("model.bin", true)]
    #[case("a/b/c.txt", true)]
    #[case("..hidden", true)]
    #[case("", false)]
    #[case("/etc/passwd", false)]
    #[case("../canary", false)]
    #[case("a/../../canary", false)]
    #[case("a/./b", false)]
    #[case("a//b", false)]
    #[case("a/", false)]
    #[case("a\0b", false)]
    #[case("..", false)]
    fn a_name_is_a_path_that_stays_inside(#[case] name: &str, #[case] is_good: bool) {
        assert_eq!(of(&[("1", name)]).is_ok(), is_good, "{name:?}");
    }

    #[test]
    fn names_do_not_collide_and_are_not_endless() {
        assert!(of(&[("1", "a"), ("2", "a")]).is_err());
        assert!(of(&[("1", "a"), ("2", "a/b")]).is_err());
        assert!(of(&[("1", "a/b"), ("2", "a/c"), ("3", "ab")]).is_ok());
        assert!(of(&[("1", &"n".repeat(256))]).is_err());
        assert!(of(&[("1", &"d/".repeat(70))]).is_err());
    }

    #[test]
    fn the_snapshot_is_named_by_names_and_contents_alone() {
        let chain = |blobs: &[(&str, &str)]| of(blobs).unwrap()[0].chain_id.clone();
        assert_eq!(chain(&[("1", "a")]), chain(&[("1", "a")]));
        assert_ne!(chain(&[("1", "a")]), chain(&[("2", "a")]));
        assert_ne!(chain(&[("1", "a")]), chain(&[("1", "b")]));
        assert_ne!(
            chain(&[("1", "a"), ("2", "b")]),
            chain(&[("2", "a"), ("1", "b")])
        );
    }

    #[test]
    fn a_blob_without_a_name_is_no_file_and_one_name_is_needed() {
        let named = blob("1", MODEL_PATH[0], "m/weights");
        let plain = blob("2", "other", "x");
        let manifest = |layers: Vec<Descriptor>| Manifest {
            config: blob("c", "x", "y"),
            layers,
            annotations: [].into(),
        };
        let target = Digest::sha256(b"t");
        let both = layers(&target, &manifest(vec![plain.clone(), named])).unwrap();
        let files: Vec<&str> = both
            .iter()
            .filter_map(|layer| layer.file.as_deref())
            .collect();
        assert_eq!(files, ["", "m/weights"]);
        assert!(is_one(&both));
        let error = layers(&target, &manifest(vec![plain])).unwrap_err();
        assert!(error.chain().contains(TITLE), "{error}");
    }
}
