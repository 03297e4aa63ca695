//! Volumes on the host: made before the containers, mounted by them, removed with the pod. All of it blocks.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, HostPathVolumeSource, Volume, VolumeMount,
};
use nix::mount::MsFlags;

use super::defaults::{ContainerPlan, Plan};
use super::dirs::{Dirs, text};
use super::env::Variables;
use super::manifest::ConfigMaps;
use super::resources;
use crate::model::{Classify as _, Context as _, Error, Kind, Result};
use crate::sys::{files, mounts};
use crate::wire::cri;

/// The mode of a ConfigMap's files, where the manifest says nothing.
const FILE_MODE: i32 = 0o644;

/// Makes the pod's volumes. What stands there already is kept, ConfigMaps are written anew.
///
/// # Errors
/// `NotFound` for a ConfigMap that the file lacks or a host path that is not there, `FailedPrecondition` for one of
/// another kind, `Internal` where the host refuses.
pub(super) fn prepare_blocking(plan: &Plan, config_maps: &ConfigMaps, dirs: &Dirs) -> Result<()> {
    let group = plan
        .spec
        .security_context
        .as_ref()
        .and_then(|context| context.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    for volume in plan.spec.volumes.iter().flatten() {
        let at = dirs.volume(plan, &volume.name);
        let made = if let Some(source) = &volume.empty_dir {
            empty_dir(source, &at, group)
        } else if let Some(source) = &volume.host_path {
            host_path(source)
        } else if let Some(source) = &volume.config_map {
            let found = (plan.k8s_namespace.as_str(), config_maps);
            config_map(source, found, &at, group)
        } else {
            Ok(())
        };
        made.context(|| format!("volume {}", volume.name))?;
    }
    Ok(())
}

fn empty_dir(source: &EmptyDirVolumeSource, at: &Path, group: Option<u32>) -> Result<()> {
    make_dirs(at)?;
    let memory = match source.medium.as_deref() {
        None | Some("") => false,
        Some("Memory") => true,
        Some(other) => {
            return Err(Error::invalid(format!(
                "emptyDir: play has no medium {other:?}, only Memory"
            )));
        }
    };
    if memory && !mounts::is_mountpoint_blocking(at)? {
        let size = match &source.size_limit {
            Some(limit) => format!("size={}", resources::bytes(limit)?),
            None => String::new(),
        };
        mounts::tmpfs_blocking(at, MsFlags::empty(), &size)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    own(at, group, mode)
}

fn host_path(source: &HostPathVolumeSource) -> Result<()> {
    let path = Path::new(&source.path);
    if !path.is_absolute() || climbs(path) {
        return Err(Error::invalid(format!(
            "hostPath {:?}: want an absolute path without ..",
            source.path
        )));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = match fs::metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match kind {
                // The runtime makes a directory of what is not there, as it does for kubelet.
                "" => Ok(()),
                "DirectoryOrCreate" => make_dirs(path).and_then(|()| own(path, None, 0o755)),
                "FileOrCreate" => {
                    let made = fs::OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .open(path);
                    made.map(drop).or_else(|error| refused(path, error))?;
                    own(path, None, 0o644)
                }
                _ => Err(Error::not_found(format!(
                    "hostPath {} is not there, and its type is {kind}",
                    source.path
                ))),
            };
        }
        Err(error) => return refused(path, error),
    };
    let fits = match kind {
        "" => true,
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        other => {
            return Err(Error::invalid(format!(
                "hostPath: the type {other:?} is none of Kubernetes' values"
            )));
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "hostPath {} is no {kind}",
        source.path
    )))
}

fn config_map(
    source: &ConfigMapVolumeSource,
    (k8s_namespace, config_maps): (&str, &ConfigMaps),
    at: &Path,
    group: Option<u32>,
) -> Result<()> {
    make_dirs(at)?;
    own(at, group, 0o755)?;
    let optional = source.optional.unwrap_or(false);
    let Some(map) = config_maps.find(k8s_namespace, &source.name, optional)? else {
        return Ok(());
    };
    let content = |key: &str| {
        let text = map.data.as_ref().and_then(|data| data.get(key));
        let binary = map.binary_data.as_ref().and_then(|data| data.get(key));
        text.map(|text| text.as_bytes())
            .or(binary.map(|bytes| bytes.0.as_slice()))
    };
    let keys = || {
        let text = map.data.iter().flatten().map(|(key, _)| key);
        text.chain(map.binary_data.iter().flatten().map(|(key, _)| key))
    };
    let default_mode = source.default_mode.unwrap_or(FILE_MODE);
    let files: Vec<(&str, &str, i32)> = match &source.items {
        None => keys()
            .map(|key| (key.as_str(), key.as_str(), default_mode))
            .collect(),
        Some(items) => items
            .iter()
            .map(|item| {
                let mode = item.mode.unwrap_or(default_mode);
                (item.key.as_str(), item.path.as_str(), mode)
            })
            .collect(),
    };
    for (key, path, mode) in files {
        let Some(bytes) = content(key) else {
            if optional {
                continue;
            }
            return Err(Error::not_found(format!(
                "configmap {} has no key {key:?}",
                source.name
            )));
        };
        let file = at.join(relative(path)?);
        if let Some(parent) = file.parent() {
            make_dirs(parent)?;
        }
        let mut mode = u32::try_from(mode & 0o777).unwrap_or(0o644);
        if group.is_some() {
            mode |= 0o440;
        }
        files::write_atomic_blocking(&file, bytes, mode)?;
        own(&file, group, mode)?;
    }
    Ok(())
}

/// The mounts of `container`'s volumes. A `subPath` that is not there becomes a directory.
///
/// # Errors
/// `InvalidArgument` for a path that leaves its volume and for words that are none.
pub(super) fn mounts_blocking(
    plan: &Plan,
    container: &ContainerPlan,
    variables: &Variables,
    dirs: &Dirs,
) -> Result<Vec<cri::Mount>> {
    let mut found = Vec::new();
    for mount in container.spec.volume_mounts.iter().flatten() {
        let Some(volume) = plan.volume(&mount.name) else {
            continue;
        };
        found.push(
            one_mount(plan, volume, mount, variables, dirs)
                .context(|| format!("mount of volume {}", mount.name))?,
        );
    }
    Ok(found)
}

fn one_mount(
    plan: &Plan,
    volume: &Volume,
    mount: &VolumeMount,
    variables: &Variables,
    dirs: &Dirs,
) -> Result<cri::Mount> {
    let root = match &volume.host_path {
        Some(source) => PathBuf::from(&source.path),
        None => dirs.volume(plan, &volume.name),
    };
    let below = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(path)) => variables.expand(path),
        _ => String::new(),
    };
    let source = if below.is_empty() {
        root
    } else {
        inside(&root, &below)?
    };
    let propagation = match mount.mount_propagation.as_deref() {
        None | Some("None") => cri::MountPropagation::PropagationPrivate,
        Some("HostToContainer") => cri::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => cri::MountPropagation::PropagationBidirectional,
        Some(other) => {
            return Err(Error::invalid(format!(
                "mountPropagation: {other:?} is none of Kubernetes' values"
            )));
        }
    };
    let target = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    Ok(cri::Mount {
        container_path: target,
        host_path: text(&source),
        readonly: mount.read_only.unwrap_or(false) || volume.config_map.is_some(),
        propagation: propagation.into(),
        selinux_relabel: volume.host_path.is_none(),
        ..Default::default()
    })
}

/// The real path of `below` in `root`, made where it is missing; never outside `root`, whatever links stand there.
fn inside(root: &Path, below: &str) -> Result<PathBuf> {
    let path = root.join(relative(below)?);
    let real = |path: &Path| fs::canonicalize(path).or_else(|error| refused(path, error));
    let root = real(root)?;
    let mut there = path.as_path();
    while !there.exists() {
        let Some(parent) = there.parent() else { break };
        there = parent;
    }
    if real(there)?.starts_with(&root) {
        if !path.exists() {
            make_dirs(&path)?;
        }
        let found = real(&path)?;
        if found.starts_with(&root) {
            return Ok(found);
        }
    }
    Err(Error::invalid(format!(
        "subPath {below:?} leads out of its volume"
    )))
}

/// Writes the pod's `/etc/hosts`.
///
/// # Errors
/// `Internal` where the host refuses.
pub(super) fn write_hosts_blocking(path: &Path, content: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dirs(parent)?;
    }
    files::write_atomic_blocking(path, content.as_bytes(), 0o644)
}

/// Says that the pod is being deleted, to whoever runs it. A pod without files here has nobody to be told.
///
/// # Errors
/// `Internal` where the host refuses.
pub(super) fn mark_deleting_blocking(mark: &Path) -> Result<()> {
    if mark.parent().is_some_and(Path::exists) {
        files::write_atomic_blocking(mark, b"", 0o600)?;
    }
    Ok(())
}

/// Whether the pod, whose files were there before, is being deleted or has been.
pub(super) fn is_deleted_blocking(mark: &Path) -> bool {
    mark.exists() || !mark.parent().is_some_and(Path::exists)
}

/// Makes an empty file that any user may write, for a container's last words, and the directory of its logs.
///
/// # Errors
/// `Internal` where the host refuses.
pub(super) fn prepare_container_blocking(message: &Path, logs: &Path) -> Result<()> {
    if let Some(parent) = message.parent() {
        make_dirs(parent)?;
    }
    files::write_atomic_blocking(message, b"", 0o666)?;
    own(message, None, 0o666)?;
    make_dirs(logs)
}

/// Removes what the pod had on the host. Host paths are not ours and stay.
///
/// # Errors
/// `Internal` where something cannot be unmounted or removed.
pub(super) fn remove_blocking(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    mounts::unmount_all_below_blocking(directory)?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).classify(Kind::Internal, || format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn make_dirs(path: &Path) -> Result<()> {
    fs::create_dir_all(path).or_else(|error| refused(path, error))
}

/// Sets group and mode; the mode is written out because the umask took its share.
fn own(path: &Path, group: Option<u32>, mode: u32) -> Result<()> {
    if group.is_some() {
        chown(path, None, group).or_else(|error| refused(path, error))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).or_else(|error| refused(path, error))
}

/// A path that stays below where it is joined.
fn relative(path: &str) -> Result<&Path> {
    let asked = Path::new(path);
    if path.is_empty() || asked.is_absolute() || climbs(asked) {
        return Err(Error::invalid(format!(
            "{path:?}: want a relative path without .."
        )));
    }
    Ok(asked)
}

fn climbs(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

fn refused<T>(path: &Path, error: io::Error) -> Result<T> {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
        _ => Kind::Internal,
    };
    Err(error).classify(kind, || path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::env;
    use crate::play::manifest;
    use crate::play::testing::plan;

    const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf}\ndata: {a: x, b: z}";

    fn dirs(root: &Path) -> Dirs {
        Dirs {
            state: root.join("state"),
            logs: root.join("logs"),
            seccomp: root.join("seccomp"),
        }
    }

    #[test]
    fn config_maps_are_written_with_their_items_and_modes() {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs(root.path());
        let plan = plan(
            "containers: [{name: a, image: i}]
volumes: [{name: v, configMap: {name: conf, defaultMode: 0400, items: [{key: a, path: sub/file}, {key: b, path: b, mode: 0644}]}}]",
        );
        let maps = manifest::parse(MAP).unwrap().config_maps;

        prepare_blocking(&plan, &maps, &dirs).unwrap();

        let at = dirs.volume(&plan, "v");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(fs::read(at.join("sub/file")).unwrap(), b"x");
        assert_eq!(mode(&at.join("sub/file")), 0o400);
        assert_eq!(mode(&at.join("b")), 0o644);
        remove_blocking(&dirs.pod(&plan)).unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn a_sub_path_is_made_and_may_not_leave_its_volume() {
        let root = tempfile::tempdir().unwrap();
        let volume = root.path().join("volume");
        fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();

        let made = inside(&volume, "a/b").unwrap();

        assert!(made.ends_with("volume/a/b") && made.is_dir());
        fs::write(volume.join("file"), "kept").unwrap();
        let found = inside(&volume, "file").unwrap();
        assert_eq!(fs::read_to_string(found).unwrap(), "kept");
        for path in ["out/passwd", "out/x/y", "../x", "/etc"] {
            assert_eq!(
                inside(&volume, path).unwrap_err().kind(),
                Kind::InvalidArgument,
                "{path}"
            );
        }
    }

    #[test]
    fn host_path_types_are_held() {
        let root = tempfile::tempdir().unwrap();
        let check = |name: &str, kind: &str| {
            let path = root.path().join(name).display().to_string();
            let type_ = Some(kind.to_owned());
            host_path(&HostPathVolumeSource { path, type_ }).map_err(|error| error.kind())
        };

        assert_eq!(check("made/dir", "DirectoryOrCreate"), Ok(()));
        assert_eq!(check("made/file", "FileOrCreate"), Ok(()));
        assert_eq!(
            check("made/file", "Directory"),
            Err(Kind::FailedPrecondition)
        );
        assert_eq!(check("gone", "File"), Err(Kind::NotFound));
        assert_eq!(check("gone", ""), Ok(()));
    }

    #[test]
    fn mounts_name_the_volumes_host_paths() {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs(root.path());
        let plan = plan(
            "volumes: [{name: h, hostPath: {path: /srv}}, {name: c, configMap: {name: conf}}]
containers:
- name: a
  image: i
  env: [{name: P, value: sub}]
  volumeMounts:
  - {name: h, mountPath: /h, mountPropagation: HostToContainer, readOnly: true}
  - {name: c, mountPath: c}",
        );
        let maps = manifest::parse(MAP).unwrap().config_maps;
        let variables = env::resolve(&plan, &plan.containers[0], &maps, &[]).unwrap();

        let mounts = mounts_blocking(&plan, &plan.containers[0], &variables, &dirs).unwrap();

        let told: Vec<_> = mounts
            .iter()
            .map(|m| (m.container_path.as_str(), m.readonly, m.propagation))
            .collect();
        assert_eq!(told, [("/h", true, 1), ("/c", true, 0)]);
        assert_eq!(mounts[0].host_path, "/srv");
    }
}
