//! Mounts: making them, reading the table of them, and taking away everything below a directory.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};

use super::errno::SysContext;
use crate::model::{Error, Kind, Result};

/// How mounts travel between namespaces at one mount point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Neither sends nor receives.
    Private,
    /// Sends and receives.
    Shared,
    /// Receives only.
    Slave,
    /// Receives from its master and sends to its own peers.
    SlaveAndShared,
}

impl Propagation {
    /// Whether mounts made here are seen by its peers, as a bidirectional mount asks for.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::SlaveAndShared)
    }

    /// Whether mounts made by others arrive here, as a host-to-container mount asks for.
    pub fn receives(self) -> bool {
        !matches!(self, Self::Private)
    }
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The path inside the mounted file system that is visible at `mount_point`.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of this mount, comma-separated.
    pub options: String,
    /// How mounts travel from and to it.
    pub propagation: Propagation,
    /// The file system's type.
    pub fs_type: String,
    /// What is mounted, in the file system's own words.
    pub source: String,
    /// Options of the file system, comma-separated.
    pub super_options: String,
}

/// The mount table that the calling thread sees, in mount order.
///
/// # Errors
/// Where `/proc` is not mounted or a line of the table is not understood.
pub fn table_blocking() -> Result<Vec<MountInfo>> {
    let path = "/proc/thread-self/mountinfo";
    let bytes = std::fs::read(path).sys(|| format!("read {path}"))?;
    parse_table(&bytes)
}

fn parse_table(bytes: &[u8]) -> Result<Vec<MountInfo>> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line);
                Error::internal(format!("mount table: not understood: {line:?}"))
            })
        })
        .collect()
}

// id parent major:minor root mount_point options [tag[:value] ...] - type source super_options
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = unescape(fields.nth(3)?);
    let mount_point = unescape(fields.next()?);
    let options = text(fields.next()?);
    let (mut shared, mut slave) = (false, false);
    for tag in fields.by_ref().take_while(|field| *field != b"-") {
        shared |= tag.starts_with(b"shared:");
        slave |= tag.starts_with(b"master:");
    }
    Some(MountInfo {
        root,
        mount_point,
        options,
        propagation: match (shared, slave) {
            (false, false) => Propagation::Private,
            (true, false) => Propagation::Shared,
            (false, true) => Propagation::Slave,
            (true, true) => Propagation::SlaveAndShared,
        },
        fs_type: text(fields.next()?),
        source: unescape(fields.next()?).to_string_lossy().into_owned(),
        super_options: text(fields.next().unwrap_or_default()),
    })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, octal(tail)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// The mount that `path` lies on: the last one made whose mount point is a parent of it, or it. `path` is taken as
/// it stands: resolve links before.
pub fn containing<'a>(table: &'a [MountInfo], path: &Path) -> Option<&'a MountInfo> {
    table
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count()) // of equals, the last
}

/// How mounts travel at the mount point that holds `path`.
///
/// # Errors
/// `NotFound` where the path does not exist or no mount holds it.
pub fn propagation_blocking(path: &Path) -> Result<Propagation> {
    let resolved = path
        .canonicalize()
        .sys(|| format!("resolve {}", path.display()))?;
    containing(&table_blocking()?, &resolved)
        .map(|mount| mount.propagation)
        .ok_or_else(|| Error::not_found(format!("no mount holds {}", resolved.display())))
}

/// Whether something is mounted exactly at `path`; a missing path is not a mount point.
///
/// # Errors
/// Where the table cannot be read or the path not be resolved.
pub fn is_mountpoint_blocking(path: &Path) -> Result<bool> {
    let resolved = match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        resolved => resolved.sys(|| format!("resolve {}", path.display()))?,
    };
    let table = table_blocking()?;
    Ok(table.iter().any(|mount| mount.mount_point == resolved))
}

/// Binds `source` to the existing `target`; with `recursive`, the mounts below it, too.
///
/// # Errors
/// Where the kernel refuses the mount.
pub fn bind_blocking(source: &Path, target: &Path, recursive: bool) -> Result<()> {
    let depth = if recursive {
        MsFlags::MS_REC
    } else {
        MsFlags::empty()
    };
    nix::mount::mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND | depth,
        None::<&str>,
    )
    .sys(|| format!("bind {} to {}", source.display(), target.display()))
}

/// Changes the flags of the one mount at `target`, e.g. to read-only.
///
/// # Errors
/// Where nothing is mounted there or the kernel refuses.
pub fn remount_bind_blocking(target: &Path, flags: MsFlags) -> Result<()> {
    nix::mount::mount(
        None::<&str>,
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags,
        None::<&str>,
    )
    .sys(|| format!("remount {} with {flags:?}", target.display()))
}

/// Mounts a tmpfs at `target`; `data` are its options, e.g. `mode=1777,size=65536k`.
///
/// # Errors
/// Where the kernel refuses the mount or an option.
pub fn tmpfs_blocking(target: &Path, flags: MsFlags, data: &str) -> Result<()> {
    nix::mount::mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(data))
        .sys(|| format!("mount a tmpfs at {} ({data})", target.display()))
}

/// Detaches whatever is mounted at `target`, however often; nothing there counts as done. Never follows a link.
///
/// # Errors
/// Where a mount stays.
pub fn unmount_blocking(target: &Path) -> Result<()> {
    const STACKED_MAX: usize = 256;
    for _ in 0..STACKED_MAX {
        match nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()), // no mount (any more)
            Err(errno) => return Err(errno).sys(|| format!("unmount {}", target.display())),
        }
    }
    Err(Error::exhausted(format!(
        "unmount {}: more than {STACKED_MAX} mounts on top of each other",
        target.display()
    )))
}

/// Detaches every mount at or below `dir`, deepest first. One that stays does not stop the others.
///
/// # Errors
/// The first failure, with the number of mounts that stayed.
pub fn unmount_all_below_blocking(dir: &Path) -> Result<()> {
    let table = table_blocking()?;
    let mut points: Vec<&Path> = table
        .iter()
        .map(|mount| mount.mount_point.as_path())
        .filter(|point| point.starts_with(dir))
        .collect();
    points.sort_unstable_by_key(|point| std::cmp::Reverse(point.components().count()));
    points.dedup();
    let failures: Vec<Error> = points
        .into_iter()
        .filter_map(|point| unmount_blocking(point).err())
        .collect();
    let stayed = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => {
            let what = format!("unmount all below {}: {stayed} stayed", dir.display());
            Err(Error::new(Kind::Internal, what).caused_by(first))
        }
    }
}

/// Whether a comma-separated list of options holds `option`.
pub fn has_option(options: &str, option: impl AsRef<OsStr>) -> bool {
    let option = option.as_ref().as_bytes();
    options
        .split(',')
        .any(|present| present.as_bytes() == option)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 0:40 /sub /data rw master:7 - xfs /dev/vdb rw
31 27 0:41 / /data/with\\040space\\134 ro,nosuid shared:3 master:7 propagate_from:2 - tmpfs tmpfs rw,size=4k
32 27 0:42 / /data ro - tmpfs second rw
";

    #[test]
    fn the_table_is_understood_with_escapes_and_tags() {
        let table = parse_table(TABLE).unwrap();

        let last = &table[3];
        assert_eq!(last.mount_point, Path::new("/data/with space\\"));
        assert_eq!(last.propagation, Propagation::SlaveAndShared);
        assert!(has_option(&last.options, "nosuid") && !has_option(&last.options, "suid"));
        assert_eq!(
            (last.fs_type.as_str(), last.super_options.as_str()),
            ("tmpfs", "rw,size=4k")
        );
        assert_eq!(table[1].propagation, Propagation::Shared);
        assert_eq!(table[2].root, Path::new("/sub"));
        assert!(parse_table(b"22 27 0:21 / /proc\n").is_err());
    }

    #[test]
    fn a_path_lies_on_the_deepest_and_among_equals_the_latest_mount() {
        let table = parse_table(TABLE).unwrap();
        let source = |path: &str| containing(&table, Path::new(path)).unwrap().source.clone();

        assert_eq!(source("/etc/passwd"), "/dev/vda");
        assert_eq!(source("/data/x"), "second");
        assert_eq!(source("/data/with space\\/x"), "tmpfs");
        assert_eq!(source("/database"), "/dev/vda", "a longer name is no child");
    }

    #[test]
    fn everything_below_a_directory_goes_at_once() {
        crate::sys::netns::isolated(|| {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().canonicalize().unwrap();
            let (outer, copy) = (root.join("outer"), root.join("copy"));
            std::fs::create_dir_all(&outer).unwrap();
            std::fs::create_dir_all(&copy).unwrap();
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            for _ in 0..2 {
                tmpfs_blocking(&outer, flags, "mode=700,size=64k").unwrap();
            }
            let inner = outer.join("inner");
            std::fs::create_dir(&inner).unwrap();
            tmpfs_blocking(&inner, flags, "size=64k").unwrap();
            std::fs::write(inner.join("file"), "x").unwrap();
            bind_blocking(&outer, &copy, true).unwrap();
            remount_bind_blocking(&copy, MsFlags::MS_RDONLY).unwrap();
            assert!(copy.join("inner/file").exists());
            assert!(std::fs::write(copy.join("new"), "x").is_err(), "read-only");
            assert!(is_mountpoint_blocking(&copy).unwrap());
            assert_eq!(
                propagation_blocking(&inner.join("file")).unwrap(),
                Propagation::Private
            );

            unmount_all_below_blocking(&root).unwrap();
            unmount_all_below_blocking(&root).unwrap();

            for point in [&outer, &copy, &inner] {
                assert!(!is_mountpoint_blocking(point).unwrap());
            }
            assert_eq!(std::fs::read_dir(&outer).unwrap().count(), 0);
        });
    }
}
