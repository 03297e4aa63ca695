//! The volumes that an image declares: a directory each, filled with what the image has there and mounted over it, so that
//! it outlives nothing but takes no copy-up. They go with the container.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::containerd::RootfsMount;
use crate::index::LayerProject;
use crate::model::{ContainerConfig, ContainerId, Context, Error, Result};
use crate::spec::{self, ImageVolume};
use crate::sys;
use crate::sys::openat2::Root;
use crate::sys::rootfs::Layers;

use super::Containers;

/// How long filling the volumes of one container may take.
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// A container's root file system: its mounts, and what is mounted into them.
pub(super) struct Rootfs {
    pub(super) mounts: Vec<RootfsMount>,
    /// By what the file system counts what is written to it.
    pub(super) project: Option<LayerProject>,
    pub(super) volumes: Vec<ImageVolume>,
    /// Where the images that the request mounts are, in its order.
    pub(super) images: Vec<PathBuf>,
}

impl Containers {
    /// Durable directory of a container's own files.
    pub(super) fn volumes_dir(&self, id: &ContainerId) -> PathBuf {
        self.deps.root_dir("containers", id.as_str())
    }

    /// Makes the volumes that the image declares, except where the request mounts something itself.
    pub(super) async fn make_volumes(
        &self,
        id: &ContainerId,
        pod: &str,
        config: &ContainerConfig,
        declared: &[String],
        mounts: &[RootfsMount],
    ) -> Result<Vec<ImageVolume>> {
        let base = self.volumes_dir(id).join("volumes");
        let taken: Vec<&str> = config
            .mounts
            .iter()
            .map(|mount| mount.container_path.as_str())
            .collect();
        let wanted = wanted(&taken, declared, &base)?;
        if wanted.is_empty() {
            return Ok(wanted);
        }
        let layers = mounts
            .last()
            .and_then(|mount| Layers::of_mount(&mount.kind, &mount.source, &mount.options));
        let volumes = wanted.clone();
        let work = move || fill_blocking(&base, layers.as_ref(), &volumes);
        let what = "fill the volumes that the image declares".to_owned();
        self.deps.paths.run(pod, what, COPY_LIMIT, work).await?;
        Ok(wanted)
    }
}

/// The volumes to make: those declared, less those at `taken`, where the request mounts something itself.
fn wanted(taken: &[&str], declared: &[String], base: &Path) -> Result<Vec<ImageVolume>> {
    let taken: BTreeSet<String> = taken.iter().map(|path| spec::clean_path(path)).collect();
    let mut destinations: Vec<String> = Vec::new();
    for path in declared {
        let clean = spec::clean_path(&format!("/{path}"));
        if clean == "/" {
            return Err(Error::invalid(
                "volume of the image: \"/\" cannot be a volume",
            ));
        }
        if !taken.contains(&clean) {
            destinations.push(clean);
        }
    }
    destinations.sort();
    destinations.dedup();
    let volume = |(at, destination): (usize, String)| ImageVolume {
        destination,
        source: base.join(at.to_string()),
    };
    Ok(destinations.into_iter().enumerate().map(volume).collect())
}

fn fill_blocking(base: &Path, layers: Option<&Layers>, volumes: &[ImageVolume]) -> Result<()> {
    sys::files::make_dir_blocking(base, 0o711)?;
    match layers {
        Some(layers) => layers.with_root_blocking(|root| {
            volumes.iter().try_for_each(|volume| fill_one(root, volume))
        }),
        // A root file system that only its runtime can mount: the volumes begin empty.
        None => volumes.iter().try_for_each(|volume| empty(&volume.source)),
    }
}

/// Links in the path count from the image's root and never lead out of it (CVE-2022-23648).
fn fill_one(root: &Root, volume: &ImageVolume) -> Result<()> {
    let what = || format!("volume {:?} of the image", volume.destination);
    let found = match root.resolve_blocking(Path::new(&volume.destination)) {
        Ok(found) => std::fs::File::from(found),
        Err(error) if error.is_not_found() => return empty(&volume.source),
        Err(error) => return Err(error).context(what),
    };
    if !found.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Error::invalid(format!("{}: not a directory there", what())));
    }
    let from = PathBuf::from(format!("/proc/thread-self/fd/{}", found.as_raw_fd()));
    sys::copy_dir_blocking(&from, &volume.source).context(what)
}

fn empty(path: &Path) -> Result<()> {
    sys::files::make_dir_blocking(path, 0o755)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn layers(dirs: &[&Path]) -> Layers {
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let options = vec![format!("lowerdir={}", names.join(":"))];
        Layers::of_mount("overlay", "overlay", &options).unwrap()
    }

    fn volume(base: &Path, at: &str, destination: &str) -> ImageVolume {
        ImageVolume {
            destination: destination.to_owned(),
            source: base.join(at),
        }
    }

    #[test]
    fn what_the_request_mounts_itself_is_no_volume_and_the_root_cannot_be_one() {
        let declared = ["var/lib", "/data", "/../../b/./c", "/b/c"].map(str::to_owned);

        let wanted = wanted(&["/data/"], &declared, Path::new("/v")).unwrap();

        let base = Path::new("/v");
        assert_eq!(
            wanted,
            [volume(base, "0", "/b/c"), volume(base, "1", "/var/lib")]
        );
        assert!(super::wanted(&[], &["/x/..".to_owned()], base).is_err());
    }

    #[test]
    fn volumes_hold_what_the_image_has_there_and_nothing_of_the_host() {
        if !sys::survey::is_root() {
            eprintln!("SKIPPED: mounting layers needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layer = |name: &str| {
            let layer = dir.path().join(name).join("fs");
            fs::create_dir_all(layer.join("data")).unwrap();
            layer
        };
        let (new, old) = (layer("2"), layer("1"));
        fs::write(old.join("data/old"), "old").unwrap();
        fs::write(new.join("data/new"), "new").unwrap();
        fs::write(new.join("file"), "").unwrap();
        let host = dir.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("canary"), "").unwrap();
        symlink(&host, new.join("out")).unwrap();
        symlink("/data", new.join("inside")).unwrap();
        let base = dir.path().join("volumes");
        let climbing = format!("/../../../..{}", host.display());
        let volumes = [
            volume(&base, "0", "/data"),
            volume(&base, "1", "/out"),
            volume(&base, "2", "/inside"),
            volume(&base, "3", &climbing),
            volume(&base, "4", "/none/at/all"),
        ];

        fill_blocking(&base, Some(&layers(&[&new, &old])), &volumes).unwrap();

        let content = |at: &str| {
            let entries = fs::read_dir(base.join(at)).unwrap();
            let mut names: Vec<_> = entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(content("0"), ["new", "old"]);
        assert_eq!(content("2"), ["new", "old"]);
        for empty in ["1", "3", "4"] {
            assert!(content(empty).is_empty(), "{empty}");
        }
        let magic = [volume(&base, "5", "/file")];
        assert!(fill_blocking(&base, Some(&layers(&[&new, &old])), &magic).is_err());
    }
}
