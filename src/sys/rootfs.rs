//! Reading a few files of a container's root file system before it runs, from the layers that a snapshotter names.
//!
//! The common case needs no mount: each path component is looked up layer by layer, newest first, as overlayfs itself
//! would. Only where a link stands in the way are the layers mounted, read-only and in a mount namespace of the
//! thread's own, so that nothing of it is ever seen elsewhere or left behind.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;

use crate::model::{Error, Result};

use super::errno::SysContext as _;
use super::openat2::Root;

/// The value of the option that begins with `name`.
fn value_of<'a>(options: &'a [String], name: &str) -> Option<&'a str> {
    options.iter().find_map(|option| option.strip_prefix(name))
}

/// The directories that take what is written to a root file system, as snapshotters describe its mount: of `overlay` the
/// upper directory and the one that it works in, of `bind` the only one. Empty where nothing is written, and for every
/// other kind.
pub fn written_dirs(kind: &str, source: &str, options: &[String]) -> Vec<PathBuf> {
    match kind {
        "bind" if !options.iter().any(|option| option == "ro") => vec![source.into()],
        "overlay" => ["upperdir=", "workdir="]
            .iter()
            .filter_map(|name| value_of(options, name))
            .map(PathBuf::from)
            .collect(),
        _ => Vec::new(),
    }
}

/// The directories that make up a root file system, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers(Vec<PathBuf>);

impl Layers {
    /// Reads the layers out of a mount as snapshotters describe it: `overlay` with its options, or `bind` of one
    /// directory; `None` for every other kind, whose files cannot be read without running the mount.
    pub fn of_mount(kind: &str, source: &str, options: &[String]) -> Option<Self> {
        match kind {
            "bind" => Some(Self(vec![source.into()])),
            "overlay" => {
                let option = |name: &str| value_of(options, name);
                let upper = option("upperdir=").map(PathBuf::from);
                let lower = option("lowerdir=")
                    .into_iter()
                    .flat_map(|dirs| dirs.split(':'))
                    .map(PathBuf::from);
                Some(Self(upper.into_iter().chain(lower).collect()))
            }
            _ => None,
        }
    }

    /// The contents of the regular file at each of `paths`, at most `cap` bytes; `None` where there is no such file.
    ///
    /// # Errors
    /// `FailedPrecondition` where a path means anything but a regular file, `ResourceExhausted` where it is longer,
    /// `InvalidArgument` for link loops.
    pub fn read_blocking(&self, paths: &[&str], cap: usize) -> Result<Vec<Option<Vec<u8>>>> {
        let direct: Result<Vec<Found>> = paths
            .iter()
            .map(|path| self.look_up(Path::new(path)))
            .collect();
        let direct = direct?;
        if direct.iter().any(|found| matches!(found, Found::Link)) {
            return self.read_mounted(paths, cap);
        }
        direct
            .into_iter()
            .zip(paths)
            .map(|(found, path)| match found {
                Found::In(layer) => read_in(&Root::open_blocking(&layer)?, path, cap),
                _ => Ok(None),
            })
            .collect()
    }

    /// Finds the layer that `path` comes from.
    fn look_up(&self, path: &Path) -> Result<Found> {
        for layer in &self.0 {
            let mut at = layer.clone();
            let mut found = Found::In(layer.clone());
            for part in path.components() {
                let Component::Normal(name) = part else {
                    continue;
                };
                at.push(name);
                match std::fs::symlink_metadata(&at) {
                    Ok(meta) if meta.is_symlink() => return Ok(Found::Link),
                    // overlayfs' mark for "deleted in this layer".
                    Ok(meta) if meta.file_type().is_char_device() && meta.rdev() == 0 => {
                        return Ok(Found::Missing);
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        found = Found::Missing;
                        break;
                    }
                    Err(error) => {
                        return Err(error).sys(|| format!("look at {} in a layer", path.display()));
                    }
                }
            }
            if matches!(found, Found::In(_)) {
                return Ok(found);
            }
            // A directory that hides what lies below it needs the real file system's judgement.
            if at
                .parent()
                .is_some_and(|dir| dir != layer && is_opaque(dir))
            {
                return Ok(Found::Missing);
            }
        }
        Ok(Found::Missing)
    }

    fn read_mounted(&self, paths: &[&str], cap: usize) -> Result<Vec<Option<Vec<u8>>>> {
        self.with_root_blocking(|root| paths.iter().map(|path| read_in(root, path, cap)).collect())
    }

    /// Does `work` with the whole root file system, read-only, on a thread that alone sees it mounted.
    ///
    /// # Errors
    /// Those of `work`; `Internal` where the layers cannot be mounted.
    pub fn with_root_blocking<T: Send>(
        &self,
        work: impl FnOnce(&Root) -> Result<T> + Send,
    ) -> Result<T> {
        self.with_directories_blocking(|dirs| work(&whole(dirs)?))
    }

    /// Does `work` with the directories of the layers, newest first, on a thread whose mounts nobody else sees.
    ///
    /// # Errors
    /// Those of `work`; `Internal` where there can be no such thread.
    pub(super) fn with_directories_blocking<T: Send>(
        &self,
        work: impl FnOnce(&[PathBuf]) -> Result<T> + Send,
    ) -> Result<T> {
        let alone = || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)
                .sys(|| "leave the mount namespace".to_owned())?;
            let none = None::<&str>;
            nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .sys(|| "keep mounts to this thread".to_owned())?;
            work(&self.0)
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("rootfs".into())
                .spawn_scoped(scope, alone)
                .sys(|| "start a thread to read a root file system".to_owned())?
                .join()
                .unwrap_or_else(|_panic| {
                    Err(Error::internal(
                        "the thread that read a root file system panicked",
                    ))
                })
        })
    }
}

/// The layers on top of each other, for the calling thread, whose mounts are its own.
fn whole(layers: &[PathBuf]) -> Result<Root> {
    match layers {
        [one] => Root::open_blocking(one),
        many => {
            // Relative names keep the option within the page that mount(2) takes, however many layers there are.
            let base = many
                .first()
                .and_then(|dir| dir.parent()?.parent())
                .unwrap_or(Path::new("/"));
            nix::unistd::chdir(base).sys(|| format!("change directory to {}", base.display()))?;
            let names: Vec<String> = many
                .iter()
                .map(|dir| dir.strip_prefix(base).unwrap_or(dir).display().to_string())
                .collect();
            let options = format!("lowerdir={}", names.join(":"));
            let target = Path::new("/sys");
            nix::mount::mount(
                Some("overlay"),
                target,
                Some("overlay"),
                MsFlags::MS_RDONLY,
                Some(options.as_str()),
            )
            .sys(|| "mount the layers of a root file system".to_owned())?;
            // It stays mounted until the thread, and its namespace with it, ends: in a detached tree the kernel cannot
            // vouch for "..".
            Root::open_blocking(target)
        }
    }
}

enum Found {
    In(PathBuf),
    Missing,
    Link,
}

fn is_opaque(dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;

    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_bytes()) else {
        return false;
    };
    super::xattr::get_blocking(&path, c"trusted.overlay.opaque").is_some_and(|value| value == b"y")
}

fn read_in(root: &Root, path: &str, cap: usize) -> Result<Option<Vec<u8>>> {
    match root.read_capped_blocking(Path::new(path), cap as u64) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn layer(dir: &Path, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let layer = dir.join(name).join("fs");
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        for (file, text) in files {
            std::fs::write(layer.join(file), text).unwrap();
        }
        layer
    }

    fn text(found: &Option<Vec<u8>>) -> Option<&str> {
        found
            .as_deref()
            .map(|bytes| std::str::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_mount_tells_where_its_writes_go() {
        let options = |words: &[&str]| {
            words
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        };
        let overlay = options(&[
            "index=off",
            "workdir=/s/2/work",
            "upperdir=/s/2/fs",
            "lowerdir=/s/1/fs",
        ]);

        let dirs = written_dirs("overlay", "overlay", &overlay);
        assert_eq!(dirs, [Path::new("/s/2/fs"), Path::new("/s/2/work")]);
        let dirs = written_dirs("bind", "/s/3/fs", &options(&["rw", "rbind"]));
        assert_eq!(dirs, [Path::new("/s/3/fs")]);
        for (kind, words) in [
            ("bind", options(&["ro", "rbind"])),
            ("overlay", options(&["lowerdir=/s/1/fs:/s/2/fs"])),
            ("fuse3.fuse-overlayfs", overlay),
        ] {
            assert_eq!(written_dirs(kind, "/s/3/fs", &words), Vec::<PathBuf>::new());
        }
    }

    #[test]
    fn the_newest_layer_that_has_the_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let new = layer(dir.path(), "2", &[("etc/passwd", "new")]);
        let old = layer(
            dir.path(),
            "1",
            &[("etc/passwd", "old"), ("etc/group", "old")],
        );

        let read = Layers(vec![new, old])
            .read_blocking(&["etc/passwd", "etc/group", "etc/none"], 64)
            .unwrap();

        assert_eq!(
            (text(&read[0]), text(&read[1]), text(&read[2])),
            (Some("new"), Some("old"), None)
        );
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: mounting layers needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let new = layer(dir.path(), "2", &[]);
        let old = layer(dir.path(), "1", &[("etc/real", "inside")]);
        symlink("/etc/real", new.join("etc/passwd")).unwrap();
        symlink("/../../../../etc/hostname", new.join("etc/group")).unwrap();

        let read = Layers(vec![new, old])
            .read_blocking(&["etc/passwd", "etc/group"], 64)
            .unwrap();

        assert_eq!((text(&read[0]), text(&read[1])), (Some("inside"), None));
    }

    #[test]
    fn anything_but_a_regular_file_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let only = layer(dir.path(), "1", &[]);
        nix::unistd::mkfifo(&only.join("etc/passwd"), nix::sys::stat::Mode::S_IRUSR).unwrap();

        let refused = Layers(vec![only])
            .read_blocking(&["etc/passwd"], 64)
            .unwrap_err();

        assert_eq!(refused.kind(), crate::model::Kind::FailedPrecondition);
    }
}
