//! The content of an image, or one directory of it, mounted read-only at a path of ours.
//!
//! The layers are put together in a mount namespace of a thread's own; what leaves it is one detached mount whose root is
//! the wanted directory. Links in the path count from the image's root, nothing can be swapped between the look and the
//! mount, and a crash at any moment leaves nothing but the finished mount.

#![expect(unsafe_code, reason = "nix has no wrappers of the newer mount calls")]

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::mount::MsFlags;

use super::errno::SysContext as _;
use super::openat2::Root;
use super::rootfs::Layers;
use super::{mounts, selinux, userns};
use crate::model::security::IdMapping;
use crate::model::{Context as _, Error, Result};

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_EMPTY_SOURCE: libc::c_uint = 0x4;
const MOVE_MOUNT_EMPTY_TARGET: libc::c_uint = 0x40;
/// Name of a layer without files.
const EMPTY: &str = "empty";
const IDMAP: u64 = 0x0010_0000;

/// What stands in `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Ids of a mount: those on disk as the container has them, and as the node has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountIds {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

/// How the files of a mounted image show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Their owners, where these are not those of the layers.
    pub ids: Option<MountIds>,
    /// Their SELinux label, where it is not that of the layers.
    pub label: Option<String>,
}

/// Mounts the directory `sub_path` of the image that `layers` make up at `target`, read-only; an empty path means all of
/// it. Files are shown as `shown` says.
///
/// # Errors
/// `NotFound` where the image has no such path; `InvalidArgument` where it is no directory, or links go in circles;
/// `Unimplemented` on kernels that lack the calls (5.6, with `ids` 5.19).
pub fn mount_blocking(
    layers: &Layers,
    sub_path: &Path,
    shown: &Shown,
    target: &Path,
) -> Result<()> {
    let users = shown.ids.as_ref();
    let users = users
        .map(|ids| userns::open_blocking(&ids.uids, &ids.gids))
        .transpose()?;
    let label = shown.label.as_deref();
    let tree = if users.is_none() && label.is_none() {
        layers.with_root_blocking(|root| detach(root, sub_path))
    } else {
        layers.with_directories_blocking(|dirs| {
            detach(&composed(dirs, users.as_ref(), label)?, sub_path)
        })
    }?;
    attach(tree.as_fd(), target)?;
    mounts::remount_bind_blocking(target, MsFlags::MS_RDONLY)
}

/// A detached mount of the directory at `path`.
fn detach(root: &Root, path: &Path) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new("/")
    } else {
        path
    };
    let found = File::from(root.resolve_blocking(path)?);
    let meta = found
        .metadata()
        .sys(|| format!("look at {} of the image", path.display()))?;
    if !meta.is_dir() {
        return Err(Error::invalid(format!(
            "{} of the image: not a directory",
            path.display()
        )));
    }
    open_tree(found.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
        .sys(|| format!("take {} of the image", path.display()))
}

/// Puts the layers together, with their ids mapped by `users` and every file labelled `label`, for the calling thread,
/// whose mounts are its own.
fn composed(layers: &[PathBuf], users: Option<&File>, label: Option<&str>) -> Result<Root> {
    let base = Path::new("/sys"); // a directory that is always there, covered for this thread alone
    mounts::tmpfs_blocking(base, MsFlags::empty(), "mode=700")?;
    nix::unistd::chdir(base).sys(|| "enter a directory for layers".to_owned())?;
    let mut names = Vec::with_capacity(layers.len());
    for (at, layer) in layers.iter().enumerate() {
        let tree = Root::open_blocking(layer)?;
        let tree = open_tree(tree.as_fd().as_raw_fd(), c"", libc::AT_EMPTY_PATH)
            .sys(|| "take a layer".to_owned())?;
        if let Some(users) = users {
            map(tree.as_fd(), users.as_fd()).sys(|| {
                "map the ids of a layer; its file system must support idmapped mounts".to_owned()
            })?;
        }
        let name = at.to_string();
        std::fs::create_dir(base.join(&name)).sys(|| "make a directory for a layer".to_owned())?;
        attach(tree.as_fd(), &base.join(&name))?;
        names.push(name);
    }
    if let [only] = names.as_slice() {
        if label.is_none() {
            return Root::open_blocking(&base.join(only));
        }
        // Only a file system of its own can have a label, and this one takes two directories.
        std::fs::create_dir(base.join(EMPTY)).sys(|| "make an empty layer".to_owned())?;
        names.push(EMPTY.to_owned());
    }
    let whole = base.join("whole");
    std::fs::create_dir(&whole).sys(|| "make a directory for an image".to_owned())?;
    nix::mount::mount(
        Some("overlay"),
        &whole,
        Some("overlay"),
        MsFlags::MS_RDONLY,
        Some(overlay_options(&names, label).as_str()),
    )
    .sys(|| match users {
        Some(_) => "mount layers with mapped ids (it takes Linux 5.19)".to_owned(),
        None => format!("mount layers with the label {}", label.unwrap_or_default()),
    })?;
    Root::open_blocking(&whole)
}

/// The options of an overlay of the directories `layers`, newest first, whose files all have `label`.
fn overlay_options(layers: &[String], label: Option<&str>) -> String {
    let context = label.map(|label| format!(",{}", selinux::context_option(label)));
    format!(
        "lowerdir={}{}",
        layers.join(":"),
        context.unwrap_or_default()
    )
}

fn open_tree(dir: RawFd, path: &CStr, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    let flags = flags.cast_unsigned() | OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned();
    // SAFETY: the path is a string that ends in a zero byte, the other arguments are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) };
    let fd = Errno::result(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_too_big| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn map(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr = MountAttr {
        set: IDMAP,
        clear: 0,
        propagation: 0,
        userns: u64::try_from(users.as_raw_fd()).unwrap_or_default(),
    };
    // SAFETY: an empty string that ends in a zero byte, and a structure with its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(done).map(drop)
}

fn attach(tree: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let what = || format!("mount at {}", target.display());
    let target = Root::open_blocking(target).context(what)?;
    // SAFETY: two empty strings that end in a zero byte, the other arguments are numbers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_fd().as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_EMPTY_SOURCE | MOVE_MOUNT_EMPTY_TARGET,
        )
    };
    Errno::result(done).map(drop).sys(what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::model::Kind;
    use crate::sys;

    fn layer(dir: &Path, name: &str) -> PathBuf {
        let layer = dir.join(name).join("fs");
        std::fs::create_dir_all(layer.join("data/deep")).unwrap();
        std::fs::write(layer.join("data").join(name), name).unwrap();
        layer
    }

    fn layers(dirs: &[&Path]) -> Layers {
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let options = vec![format!("lowerdir={}", names.join(":"))];
        Layers::of_mount("overlay", "overlay", &options).unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// One image of two layers, in a mount namespace of the test's own, and a directory to mount at.
    fn with_image(test: impl FnOnce(&Path, &Layers, &Path) + Send) {
        sys::netns::isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let (new, old) = (layer(dir.path(), "2"), layer(dir.path(), "1"));
            let target = dir.path().join("target");
            std::fs::create_dir(&target).unwrap();
            test(dir.path(), &layers(&[&new, &old]), &target);
            mounts::unmount_all_below_blocking(dir.path()).unwrap();
        });
    }

    #[test]
    fn the_whole_image_is_there_and_nobody_writes_to_it() {
        with_image(|_dir, layers, target| {
            mount_blocking(layers, Path::new(""), &Shown::default(), target).unwrap();

            assert_eq!(names(&target.join("data")), ["1", "2", "deep"]);
            let written = std::fs::write(target.join("new"), "").unwrap_err();
            assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
    }

    #[test]
    fn a_path_inside_never_leads_out() {
        with_image(|dir, layers, target| {
            let host = dir.join("host");
            std::fs::create_dir(&host).unwrap();
            symlink(&host, dir.join("2/fs/out")).unwrap();
            symlink("/data/deep", dir.join("2/fs/in")).unwrap();
            symlink("loop", dir.join("2/fs/loop")).unwrap();
            let kind = |path: &str| {
                mount_blocking(layers, Path::new(path), &Shown::default(), target)
                    .unwrap_err()
                    .kind()
            };

            assert_eq!(kind("out"), Kind::NotFound);
            assert_eq!(kind("missing"), Kind::NotFound);
            assert_eq!(kind("../../../../etc/none"), Kind::NotFound);
            assert_eq!(kind("data/1"), Kind::InvalidArgument);
            assert_eq!(kind("loop"), Kind::InvalidArgument);
            assert!(names(target).is_empty());
            mount_blocking(layers, Path::new("in/.."), &Shown::default(), target).unwrap();
            assert_eq!(names(target), ["1", "2", "deep"]);
        });
    }

    #[test]
    fn a_label_is_an_option_of_the_overlay_quoted_for_the_commas_in_it() {
        let names = ["0".to_owned(), EMPTY.to_owned()];
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        let expected = format!("lowerdir=0:empty,context=\"{label}\"");
        assert_eq!(overlay_options(&names, Some(label)), expected);
        assert_eq!(overlay_options(&names, None), "lowerdir=0:empty");
    }

    #[test]
    fn a_label_that_the_kernel_does_not_know_is_named_and_nothing_stays() {
        with_image(|dir, two, target| {
            let shown = Shown {
                ids: None,
                label: Some("nobody:knows:this_t:s0".to_owned()),
            };
            for layers in [two, &layers(&[&dir.join("1/fs")])] {
                let refused = mount_blocking(layers, Path::new(""), &shown, target).unwrap_err();
                assert!(refused.to_string().contains("this_t"), "{refused}");
                assert!(names(target).is_empty());
            }
        });
    }

    #[test]
    fn ids_are_mapped_with_one_layer_and_with_many() {
        with_image(|dir, two, target| {
            let range = IdMapping {
                container_id: 0,
                host_id: 300_000,
                length: 65_536,
            };
            let ids = MountIds {
                uids: vec![range],
                gids: vec![range],
            };
            let shown = Shown {
                ids: Some(ids),
                label: None,
            };
            let one = layers(&[&dir.join("1/fs")]);
            for layers in [two, &one] {
                mount_blocking(layers, Path::new("data"), &shown, target).unwrap();

                let file = std::fs::metadata(target.join("1")).unwrap();
                assert_eq!((file.uid(), file.gid()), (300_000, 300_000));
                mounts::unmount_blocking(target).unwrap();
            }
            let on_disk = std::fs::metadata(dir.join("1/fs/data/1")).unwrap();
            assert_eq!(on_disk.uid(), 0);
        });
    }
}
