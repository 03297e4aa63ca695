//! Device nodes of the host.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::errno::SysContext;
use crate::model::host_facts::{DeviceKind, DeviceNode};
use crate::model::{Error, Kind, Result};

/// Directories whose nodes belong to their own mounts or to other programs.
const SKIPPED_DIRS: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Nodes that are never handed on: the node's console.
const SKIPPED_NODES: [&str; 1] = ["console"];
const MAX_DEPTH: usize = 16;
const MAX_NODES: usize = 65_536;

/// Every device node of the host, as privileged containers get them.
///
/// # Errors
/// Where `/dev` cannot be read.
pub fn all_blocking() -> Result<Vec<DeviceNode>> {
    let below = below_blocking(Path::new("/dev"))?;
    Ok(below.into_iter().map(|(_, node)| node).collect())
}

/// What the host path of a device request means: itself, with links followed, or the nodes below a directory, each with
/// its path from there.
///
/// # Errors
/// `FailedPrecondition` where there is nothing at the path, or something that is neither a device nor a directory.
pub fn at_blocking(host_path: &Path) -> Result<Vec<(PathBuf, DeviceNode)>> {
    let what = || format!("device {}", host_path.display());
    let resolved = match host_path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let missing = Error::new(Kind::FailedPrecondition, what());
            return Err(missing.caused_by(error));
        }
        resolved => resolved.sys(what)?,
    };
    let metadata = resolved.symlink_metadata().sys(what)?;
    if metadata.is_dir() {
        return below_blocking(&resolved);
    }
    let node = node(&resolved, &metadata, Fifos::Count)?.ok_or_else(|| {
        Error::precondition(format!(
            "device {}: neither a device nor a directory",
            host_path.display()
        ))
    })?;
    Ok(vec![(PathBuf::new(), node)])
}

/// The device node or named pipe at `path` itself; a link is none.
///
/// # Errors
/// `FailedPrecondition` where there is nothing at the path, or something else.
pub fn node_at_blocking(path: &Path) -> Result<DeviceNode> {
    let what = || format!("{} on the host", path.display());
    let metadata = path
        .symlink_metadata()
        .map_err(|error| Error::new(Kind::FailedPrecondition, what()).caused_by(error))?;
    node(path, &metadata, Fifos::Count)?
        .ok_or_else(|| Error::precondition(format!("{}: not a device node", what())))
}

/// Whether a block device is a part of a disk.
pub fn is_partition_blocking(major: u32, minor: u32) -> bool {
    Path::new(&format!("/sys/dev/block/{major}:{minor}/partition")).exists()
}

/// What a block device is called, as `/dev/sda1`; its numbers where the kernel has no name for it.
pub fn block_name_blocking(major: u32, minor: u32) -> String {
    let numbers = format!("{major}:{minor}");
    let named = std::fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).ok();
    let name = named.and_then(|text| {
        let name = text
            .lines()
            .find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(format!("/dev/{name}"))
    });
    name.unwrap_or(numbers)
}

/// Whether a named pipe is a device: only where one is asked for by its own path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fifos {
    Count,
    Skip,
}

fn below_blocking(dir: &Path) -> Result<Vec<(PathBuf, DeviceNode)>> {
    let mut found = Vec::new();
    walk(dir, Path::new(""), 0, &mut found)?;
    Ok(found)
}

fn walk(
    dir: &Path,
    below: &Path,
    depth: usize,
    found: &mut Vec<(PathBuf, DeviceNode)>,
) -> Result<()> {
    let what = || format!("list devices of {}", dir.display());
    if depth > MAX_DEPTH || found.len() > MAX_NODES {
        return Err(Error::exhausted(format!(
            "{}: deeper than {MAX_DEPTH} directories or more than {MAX_NODES} devices",
            what()
        )));
    }
    let mut names = std::fs::read_dir(dir)
        .sys(what)?
        .map(|entry| entry.map(|entry| entry.file_name()).sys(what))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let path = dir.join(&name);
        let metadata = match path.symlink_metadata() {
            // Devices come and go while we look.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.sys(what)?,
        };
        let is_one_of = |list: &[&str]| list.iter().any(|skipped| name == *skipped);
        if metadata.is_dir() {
            if !is_one_of(&SKIPPED_DIRS) {
                walk(&path, &below.join(&name), depth + 1, found)?;
            }
        } else if !is_one_of(&SKIPPED_NODES)
            && let Some(node) = node(&path, &metadata, Fifos::Skip)?
        {
            found.push((below.join(&name), node));
        }
    }
    Ok(())
}

fn node(path: &Path, metadata: &Metadata, fifos: Fifos) -> Result<Option<DeviceNode>> {
    let file_type = metadata.file_type();
    let kind = if file_type.is_block_device() {
        DeviceKind::Block
    } else if file_type.is_char_device() {
        DeviceKind::Char
    } else if file_type.is_fifo() && fifos == Fifos::Count {
        DeviceKind::Fifo
    } else {
        return Ok(None);
    };
    let part = |number: u64| {
        u32::try_from(number).map_err(|_too_large| {
            Error::internal(format!("device {}: number {number}", path.display()))
        })
    };
    Ok(Some(DeviceNode {
        path: path.to_owned(),
        kind,
        major: part(nix::sys::stat::major(metadata.rdev()))?,
        minor: part(nix::sys::stat::minor(metadata.rdev()))?,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_hosts_devices_hold_null_and_leave_out_what_is_not_theirs() {
        let all = all_blocking().unwrap();

        let null = all.iter().find(|node| node.path == Path::new("/dev/null"));
        let null = null.unwrap();
        assert_eq!(
            (null.kind, null.major, null.minor),
            (DeviceKind::Char, 1, 3)
        );
        for absent in ["/dev/console", "/dev/stdin", "/dev/pts/ptmx"] {
            assert!(all.iter().all(|node| node.path != Path::new(absent)));
        }
    }

    #[test]
    fn a_block_device_has_a_name_or_at_least_numbers() {
        assert_eq!(block_name_blocking(0, 4_000_000), "0:4000000");
        for entry in std::fs::read_dir("/sys/dev/block")
            .into_iter()
            .flatten()
            .flatten()
        {
            let numbers = entry.file_name().into_string().unwrap();
            let (major, minor) = numbers.split_once(':').unwrap();
            let name = block_name_blocking(major.parse().unwrap(), minor.parse().unwrap());
            assert!(name.starts_with("/dev/"), "{name}");
        }
    }

    #[test]
    fn a_link_to_a_device_is_that_device() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/dev/null", &link).unwrap();

        let found = at_blocking(&link).unwrap();

        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Path::new(""));
        assert_eq!(found[0].1.path, Path::new("/dev/null"));
    }

    #[test]
    fn a_directory_gives_its_devices_only_and_a_pipe_only_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        symlink("/dev/null", dir.path().join("link")).unwrap();

        assert_eq!(at_blocking(dir.path()).unwrap(), []);
        assert_eq!(at_blocking(&pipe).unwrap()[0].1.kind, DeviceKind::Fifo);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();

        for path in [file, dir.path().join("missing")] {
            let error = at_blocking(&path).unwrap_err();
            assert_eq!(error.kind(), Kind::FailedPrecondition);
        }
    }
}
