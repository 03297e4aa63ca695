//! Copying a directory as it is: owners, modes, times, links, attributes.

use std::collections::HashMap;
use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::errno::SysContext as _;
use super::xattr;
use crate::model::Result;

/// Copies what is in directory `from`, and what `from` itself is like, into the directory `to`, which is made. Links are
/// copied, never followed; sockets are left out. Nobody may be writing to either.
///
/// # Errors
/// `Internal` where reading or writing fails; what is copied by then stays.
pub fn copy_dir_blocking(from: &Path, to: &Path) -> Result<()> {
    let meta = fs::metadata(from).sys(|| format!("look at {}", from.display()))?;
    make_dir(to)?;
    let mut firsts: HashMap<u64, PathBuf> = HashMap::new();
    let mut dirs = vec![(from.to_owned(), to.to_owned(), meta)];
    let mut next = 0;
    while let Some((from, to, _)) = dirs.get(next).cloned() {
        next += 1;
        let what = || format!("read {}", from.display());
        for entry in fs::read_dir(&from).sys(what)? {
            let entry = entry.sys(what)?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let meta = fs::symlink_metadata(&source).sys(what)?;
            if meta.is_dir() {
                make_dir(&target)?;
                dirs.push((source, target, meta));
                continue;
            }
            if meta.nlink() > 1
                && let Some(first) = firsts.get(&meta.ino())
            {
                fs::hard_link(first, &target).sys(|| format!("link {}", target.display()))?;
                continue;
            }
            if copy_one(&source, &target, &meta)? {
                adorn(&source, &target, &meta)?;
                firsts.insert(meta.ino(), target);
            }
        }
    }
    // What a directory is like comes last: writing into it changes its times, and its mode may forbid it.
    for (from, to, meta) in dirs.iter().rev() {
        adorn(from, to, meta)?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(path);
    made.sys(|| format!("make directory {}", path.display()))
}

/// Makes a file of the same kind and content; `false` for one that cannot be copied.
fn copy_one(from: &Path, to: &Path, meta: &Metadata) -> Result<bool> {
    let what = || format!("copy {} to {}", from.display(), to.display());
    let kind = meta.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(from).sys(what)?;
        symlink(target, to).sys(what)?;
    } else if kind.is_file() {
        fs::copy(from, to).sys(what)?;
    } else {
        let sort = if kind.is_fifo() {
            SFlag::S_IFIFO
        } else if kind.is_char_device() {
            SFlag::S_IFCHR
        } else if kind.is_block_device() {
            SFlag::S_IFBLK
        } else {
            return Ok(false);
        };
        mknod(to, sort, Mode::S_IRUSR, meta.rdev()).sys(what)?;
    }
    Ok(true)
}

/// Owner, attributes, mode, times, in the order in which none of them undoes another.
fn adorn(from: &Path, to: &Path, meta: &Metadata) -> Result<()> {
    let what = || format!("make {} like {}", to.display(), from.display());
    lchown(to, Some(meta.uid()), Some(meta.gid())).sys(what)?;
    xattr::copy_blocking(from, to)?;
    if !meta.is_symlink() {
        fs::set_permissions(to, Permissions::from_mode(meta.mode() & 0o7777)).sys(what)?;
    }
    let accessed = TimeSpec::new(meta.atime(), meta.atime_nsec());
    let modified = TimeSpec::new(meta.mtime(), meta.mtime_nsec());
    let flag = UtimensatFlags::NoFollowSymlink;
    utimensat(AT_FDCWD, to, &accessed, &modified, flag).sys(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_like_the_original_in_every_respect() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/a"), "text").unwrap();
        fs::hard_link(from.join("sub/a"), from.join("b")).unwrap();
        symlink("/etc/passwd", from.join("out")).unwrap();
        mknod(&from.join("fifo"), SFlag::S_IFIFO, Mode::S_IRUSR, 0).unwrap();
        fs::set_permissions(from.join("sub/a"), Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(from.join("sub"), Permissions::from_mode(0o1777)).unwrap();
        if nix::unistd::geteuid().is_root() {
            lchown(from.join("sub"), Some(1000), Some(1001)).unwrap();
            lchown(from.join("out"), Some(1000), Some(1001)).unwrap();
        }

        copy_dir_blocking(&from, &to).unwrap();

        for name in ["", "sub", "sub/a", "b", "out", "fifo"] {
            let facts = |root: &Path| {
                let meta = fs::symlink_metadata(root.join(name)).unwrap();
                (
                    meta.mode(),
                    meta.uid(),
                    meta.gid(),
                    meta.mtime(),
                    meta.mtime_nsec(),
                )
            };
            assert_eq!(facts(&to), facts(&from), "{name:?}");
        }
        assert_eq!(fs::read_to_string(to.join("b")).unwrap(), "text");
        assert_eq!(
            fs::read_link(to.join("out")).unwrap(),
            Path::new("/etc/passwd")
        );
        let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(inode("b"), inode("sub/a"));
    }
}
