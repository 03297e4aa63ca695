//! SELinux: what the loaded policy calls containers, and giving files another label.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use super::errno::SysContext as _;
use super::xattr;
use crate::model::host_facts::SelinuxContexts;
use crate::model::{Error, Result};

const PATH_ALONE: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
/// Deeper trees are not relabelled.
const MAX_DEPTH: usize = 1024;
/// Giving one of these to a container would take it from the node.
const NODE_DIRS: &[&str] = &[
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
];
/// Where distributions put the contexts of containers, the preferred place first; the second is below the policy's folder.
const SHARED_CONTEXTS: &str = "/usr/share/containers/selinux/contexts";
const POLICY_CONTEXTS: &str = "contexts/lxc_contexts";

/// Whether the kernel has SELinux switched on, enforcing or not.
pub fn is_enabled_blocking() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// What the policy calls containers; `None` where SELinux is off, or its policy knows none.
pub fn contexts_blocking() -> Option<SelinuxContexts> {
    if !is_enabled_blocking() {
        return None;
    }
    let text = fs::read_to_string(SHARED_CONTEXTS).ok().or_else(|| {
        let config = fs::read_to_string("/etc/selinux/config").ok()?;
        let kind = config
            .lines()
            .find_map(|line| line.trim().strip_prefix("SELINUXTYPE="))?;
        fs::read_to_string(
            Path::new("/etc/selinux")
                .join(kind.trim())
                .join(POLICY_CONTEXTS),
        )
        .ok()
    });
    SelinuxContexts::parse(&text?)
}

/// The mount option that gives every file of a file system `label`.
pub fn context_option(label: &str) -> String {
    format!("context=\"{label}\"")
}

/// Labels one of our own files; one on a file system that keeps no labels stays as it is.
///
/// # Errors
/// `Internal` where the kernel refuses.
pub fn label_blocking(path: &Path, label: &str) -> Result<()> {
    let what = || format!("label {}", path.display());
    label_open(&open(path).sys(what)?, label).sys(what)
}

/// Labels `source` and everything below it, as [`label_blocking`]. Links are labelled themselves and lead nowhere, also
/// where the tree changes meanwhile: each file is opened before it is labelled. What has a fixed label or none, such as
/// NFS or a mount with `context=`, is left as it is.
///
/// # Errors
/// `InvalidArgument` for a directory of the node, which its programs would lose; `Internal` where the kernel refuses.
pub fn relabel_blocking(source: &Path, label: &str) -> Result<()> {
    let real = source.canonicalize().map_err(|error| {
        Error::internal(format!("relabel {}", source.display())).caused_by(error)
    })?;
    if NODE_DIRS.iter().any(|dir| Path::new(dir) == real) {
        return Err(Error::invalid(format!(
            "relabel {}: it is a directory of the node, whose own programs need its label; mount one below it",
            real.display()
        )));
    }
    let top = open(&real).sys(|| format!("open {}", real.display()))?;
    Tree { label }.relabel(&top, &real, 0)
}

/// For its path alone, following no link.
fn open(path: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, PATH_ALONE, Mode::empty())
}

/// What keeps no labels stays as it is.
fn label_open(file: &OwnedFd, label: &str) -> nix::Result<()> {
    match xattr::set_label_blocking(file, label) {
        Err(Errno::EOPNOTSUPP) => Ok(()),
        done => done,
    }
}

struct Tree<'a> {
    label: &'a str,
}

impl Tree<'_> {
    fn relabel(&self, file: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let what = || format!("relabel {}", path.display());
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!(
                "{}: more than {MAX_DEPTH} directories deep",
                what()
            )));
        }
        label_open(file, self.label).sys(what)?;
        let kind = SFlag::from_bits_truncate(fstat(file).sys(what)?.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFDIR {
            return Ok(());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(file, ".", flags, Mode::empty()).sys(what)?;
        for entry in dir.iter() {
            let entry = entry.sys(what)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match openat(file, name, PATH_ALONE, Mode::empty()) {
                Ok(child) => self.relabel(
                    &child,
                    &path.join(name.to_string_lossy().as_ref()),
                    depth + 1,
                )?,
                // Removed since the directory was read.
                Err(Errno::ENOENT) => {}
                refused => drop(refused.sys(what)?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn label_of(path: &Path) -> Option<Vec<u8>> {
        xattr::label_blocking(path)
    }

    #[test]
    fn a_tree_is_labelled_and_what_its_links_name_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "").unwrap();
        fs::write(&outside, "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        if xattr::set_label_blocking(&open(&tree).unwrap(), label).is_err() {
            eprintln!("SKIPPED: labels need root, and a file system that keeps them");
            return;
        }

        relabel_blocking(&tree, label).unwrap();

        for labelled in [tree.clone(), tree.join("a/b"), tree.join("a/b/file")] {
            assert_eq!(label_of(&labelled).as_deref(), Some(label.as_bytes()));
        }
        assert_ne!(label_of(&outside).as_deref(), Some(label.as_bytes()));
    }

    #[test]
    fn directories_of_the_node_keep_their_labels() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/etc", &link).unwrap();
        for refused in [Path::new("/"), Path::new("/usr/../etc"), &link] {
            let error = relabel_blocking(refused, "u:r:t:s0").unwrap_err();
            assert_eq!(error.kind(), crate::model::Kind::InvalidArgument, "{error}");
        }
    }
}
