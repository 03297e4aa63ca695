//! The mounts of both kinds of container: their order, what displaces what, and their options (contract: pods 3.2, 3.4).

use std::path::Path;

use oci_spec::runtime::Mount as OciMount;

use crate::model::container::{Mount, Propagation};
use crate::model::host_facts::SourcePropagation;
use crate::model::security::NamespaceMode;
use crate::model::{Error, Result};

use super::base::mount;
use super::input::{ContainerInput, PauseInput, ResolvedMount, SpecOptions};
use super::lexical::{clean, has_control};
use super::namespaces::{UserMapping, to_oci, user};

/// Bind options that a caller may add.
const EXTRA_OPTIONS: [&str; 3] = ["noexec", "nodev", "nosuid"];
const MAX_MOUNTS: usize = 4096;
const MAX_PATH_BYTES: usize = 4095;

/// Options of what the pause container gets from the sandbox.
const PAUSE_BIND: &str = "rbind,ro,nosuid,nodev,noexec";
/// `/sys` where the OCI runtime may not mount sysfs: the network namespace belongs to another user namespace.
const HOST_SYS: &str = "rbind,rro,nosuid,nodev,noexec";

/// The mounts of a container and what its root must do with them.
#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) entries: Vec<OciMount>,
    /// `linux.rootfsPropagation`.
    pub(super) rootfs_propagation: Option<&'static str>,
}

/// The mounts of a pause container.
pub(super) fn pause(input: &PauseInput<'_>, base: Vec<OciMount>) -> Result<Vec<OciMount>> {
    let security = &input.config.security;
    let is_shm = |entry: &OciMount| entry.destination() == Path::new("/dev/shm");
    let mut entries: Vec<OciMount> = base.into_iter().filter(|entry| !is_shm(entry)).collect();
    if security.privileged {
        make_writable(&mut entries, "sysfs");
    }
    let shm = input.files.shm.to_string_lossy();
    entries.push(mount("/dev/shm", "bind", &shm, PAUSE_BIND));
    if let Some(resolv_conf) = &input.files.resolv_conf {
        let source = resolv_conf.to_string_lossy();
        entries.push(mount("/etc/resolv.conf", "bind", &source, PAUSE_BIND));
    }
    let on_node = security.namespaces.network == NamespaceMode::Node;
    if on_node && user(&security.namespaces)?.is_some() {
        bind_host_sys(&mut entries);
    }
    Ok(entries)
}

/// The mounts of a workload container.
pub(super) fn container(input: &ContainerInput<'_>, base: Vec<OciMount>) -> Result<Mounts> {
    if input.mounts.len() > MAX_MOUNTS {
        return Err(Error::invalid(format!(
            "{} mounts: at most {MAX_MOUNTS} are accepted",
            input.mounts.len()
        )));
    }
    let security = &input.config.security;
    let mapping = user(&security.namespaces)?;
    let supplied = supplied(input, mapping)?;

    let mut entries = base;
    entries.retain(|entry| entry.destination() != Path::new("/run"));
    let is_writable = security.privileged || input.options.cgroup_writable;
    let shared_options: &[String] = if input.has_cgroup_namespace() {
        &[]
    } else {
        &input.host.cgroup_superblock_options
    };
    entries.push(cgroup(is_writable, shared_options));
    if security.privileged {
        make_writable(&mut entries, "sysfs");
    }
    let all_of_dev = supplied.iter().any(|given| given.cleaned == "/dev");
    entries.retain(|entry| {
        let destination = clean(&entry.destination().to_string_lossy());
        let displaced = supplied.iter().any(|given| given.cleaned == destination);
        let is_below_dev = all_of_dev && destination.starts_with("/dev/");
        !displaced && !is_below_dev
    });
    entries.extend(supplied.into_iter().map(|given| given.entry));

    let on_node = input.pod.security.namespaces.network == NamespaceMode::Node;
    if on_node && mapping.is_some() {
        bind_host_sys(&mut entries);
    }
    Ok(Mounts {
        entries,
        rootfs_propagation: rootfs_propagation(input.mounts),
    })
}

/// A mount that is not a default one.
struct Supplied {
    cleaned: String,
    entry: OciMount,
}

/// The container's mounts, the sandbox's files, the image's volumes; shallow destinations first.
fn supplied(input: &ContainerInput<'_>, mapping: Option<UserMapping>) -> Result<Vec<Supplied>> {
    let mut all: Vec<Supplied> = Vec::new();
    for resolved in input.mounts {
        all.push(Supplied {
            cleaned: clean(&resolved.asked.container_path),
            entry: asked(resolved, input)?,
        });
    }
    let readonly = input.config.security.readonly_rootfs;
    let files = input.files;
    let sandbox_files = [
        ("/etc/hostname", files.hostname.as_deref()),
        ("/etc/hosts", files.hosts.as_deref()),
        ("/etc/resolv.conf", files.resolv_conf.as_deref()),
    ];
    for (destination, source) in sandbox_files {
        if let Some(source) = source {
            add(&mut all, destination, source, readonly, mapping)?;
        }
    }
    add(&mut all, "/dev/shm", &files.shm, false, None)?;
    let mut volumes: Vec<_> = input.volumes.iter().collect();
    volumes.sort_by(|a, b| a.destination.cmp(&b.destination));
    for volume in volumes {
        let destination = if volume.destination.starts_with('/') {
            volume.destination.clone()
        } else {
            format!("/{}", volume.destination)
        };
        check_path("volume of the image", &destination)?;
        add(&mut all, &destination, &volume.source, false, mapping)?;
    }
    all.sort_by_key(|given| given.cleaned.matches('/').count());
    Ok(all)
}

/// Adds a bind of ours, unless something stands there already.
fn add(
    all: &mut Vec<Supplied>,
    destination: &str,
    source: &Path,
    readonly: bool,
    mapping: Option<UserMapping>,
) -> Result<()> {
    let cleaned = clean(destination);
    if all.iter().any(|given| given.cleaned == cleaned) {
        return Ok(());
    }
    let options = if readonly {
        "rbind,rprivate,ro"
    } else {
        "rbind,rprivate,rw"
    };
    let mut entry = mount(destination, "bind", &source.to_string_lossy(), options);
    if let Some(mapping) = mapping {
        entry
            .set_uid_mappings(Some(mapping.uids()?))
            .set_gid_mappings(Some(mapping.gids()?));
    }
    all.push(Supplied { cleaned, entry });
    Ok(())
}

/// The entry of a mount that the container asks for.
fn asked(resolved: &ResolvedMount, input: &ContainerInput<'_>) -> Result<OciMount> {
    let asked = &resolved.asked;
    let rro_works = input.options.runtime_has_rro && input.host.has_recursive_read_only();
    check(asked, rro_works)?;
    let is_image = asked.image.is_some();
    let source = resolved.source.to_string_lossy();
    let propagation = if is_image {
        "rprivate"
    } else {
        propagation(asked, resolved.propagation)?
    };
    let access = match (asked.readonly, asked.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let mut options = vec![
        "rbind".to_owned(),
        propagation.to_owned(),
        access.to_owned(),
    ];
    options.extend(asked.options.iter().cloned());
    let mut entry = mount(&asked.container_path, "bind", &source, "");
    entry.set_options(Some(options));
    if !is_image && !asked.uid_mappings.is_empty() {
        entry
            .set_uid_mappings(Some(to_oci(&asked.uid_mappings)?))
            .set_gid_mappings(Some(to_oci(&asked.gid_mappings)?));
    }
    Ok(entry)
}

/// Judges a mount by its own words, before anything is looked up or made for it.
///
/// # Errors
/// `InvalidArgument`; `FailedPrecondition` with a text that begins `RROUnsupported` where this handler cannot make
/// mounts recursively read-only.
pub fn check_mount(
    asked: &Mount,
    options: &SpecOptions,
    host: &crate::model::HostFacts,
) -> Result<()> {
    check(
        asked,
        options.runtime_has_rro && host.has_recursive_read_only(),
    )
}

fn check(asked: &Mount, rro_works: bool) -> Result<()> {
    let at = &asked.container_path;
    check_path("mount", at)?;
    if asked.image.is_some() {
        if !asked.host_path.is_empty() {
            return Err(Error::invalid(format!(
                "image mount at {at}: it takes no host path"
            )));
        }
        if !asked.readonly {
            return Err(Error::invalid(format!(
                "image mount at {at}: it must be read-only"
            )));
        }
    } else {
        check_path("host path of a mount", &asked.host_path)?;
    }
    if asked.recursive_read_only {
        if !asked.readonly {
            return Err(Error::invalid(format!(
                "mount at {at}: recursive read-only needs read-only"
            )));
        }
        if asked.propagation != Propagation::Private {
            return Err(Error::invalid(format!(
                "mount at {at}: recursive read-only needs private propagation"
            )));
        }
        if !rro_works {
            return Err(Error::precondition(format!(
                "RROUnsupported: mount at {at}: recursive read-only needs Linux 5.12 and an OCI runtime that knows the \
                 mount option rro"
            )));
        }
    }
    if asked.uid_mappings.is_empty() != asked.gid_mappings.is_empty() {
        return Err(Error::invalid(format!(
            "mount at {at}: uid and gid mappings go together"
        )));
    }
    match asked
        .options
        .iter()
        .find(|option| !EXTRA_OPTIONS.contains(&option.as_str()))
    {
        Some(option) => Err(Error::invalid(format!(
            "mount at {at}: option {option:?} is not one of noexec, nodev, nosuid"
        ))),
        None => Ok(()),
    }
}

fn check_path(what: &str, path: &str) -> Result<()> {
    if path.starts_with('/') && path.len() <= MAX_PATH_BYTES && !has_control(path) {
        return Ok(());
    }
    let shown: String = path.chars().take(256).collect();
    Err(Error::invalid(format!(
        "{what} {shown:?}: want an absolute path of at most {MAX_PATH_BYTES} bytes, without control characters"
    )))
}

fn propagation(asked: &Mount, source: SourcePropagation) -> Result<&'static str> {
    let (option, suffices) = match asked.propagation {
        Propagation::Private => return Ok("rprivate"),
        Propagation::HostToContainer => ("rslave", source != SourcePropagation::Private),
        Propagation::Bidirectional => ("rshared", source == SourcePropagation::Shared),
    };
    if suffices {
        return Ok(option);
    }
    Err(Error::precondition(format!(
        "mount of {:?}: the mount point that holds it is {}; make it so with `mount --make-rshared`",
        asked.host_path,
        if option == "rslave" {
            "neither shared nor slave"
        } else {
            "not shared"
        },
    )))
}

fn rootfs_propagation(mounts: &[ResolvedMount]) -> Option<&'static str> {
    let wants = |kind| {
        mounts
            .iter()
            .any(|mount| mount.asked.image.is_none() && mount.asked.propagation == kind)
    };
    if wants(Propagation::Bidirectional) {
        Some("rshared")
    } else if wants(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

/// The cgroup mount. Without a cgroup namespace it is the host's superblock, whose options it must repeat or it would
/// take them away from the node.
fn cgroup(is_writable: bool, superblock_options: &[String]) -> OciMount {
    let access = if is_writable { "rw" } else { "ro" };
    let mut options = format!("nosuid,noexec,nodev,relatime,{access}");
    for option in ["nsdelegate", "memory_recursiveprot"] {
        if superblock_options.iter().any(|given| given == option) {
            options.push(',');
            options.push_str(option);
        }
    }
    mount("/sys/fs/cgroup", "cgroup", "cgroup", &options)
}

fn make_writable(entries: &mut [OciMount], kind: &str) {
    for entry in entries
        .iter_mut()
        .filter(|entry| entry.typ().as_deref() == Some(kind))
    {
        for option in entry.options_mut().iter_mut().flatten() {
            if option == "ro" {
                *option = "rw".into();
            }
        }
    }
}

fn bind_host_sys(entries: &mut Vec<OciMount>) {
    entries.retain(|entry| entry.destination() != Path::new("/sys"));
    entries.push(mount("/sys", "bind", "/sys", HOST_SYS));
}
