//! The files of a sandbox: hosts, hostname and resolv.conf that its containers mount, and the pod's `/dev/shm`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::mount::MsFlags;

use crate::model::security::{NamespaceMode, SeccompProfile};
use crate::model::{Classify, Kind, PodConfig, Result, SandboxId};
use crate::spec::{self, SandboxFiles, UserMapping};
use crate::sys;

use super::deps::Deps;

/// Node files are read up to this size.
const NODE_FILE_BYTES: u64 = 1 << 20;
/// Profiles are read up to this size.
const PROFILE_BYTES: u64 = 4 << 20;
/// How long a profile file may take to be read.
const PROFILE_LIMIT: Duration = Duration::from_secs(10);
/// Of directories: `<root>/sandboxes/<id>`.
pub(super) const KIND: &str = "sandboxes";
/// containerd's and CRI-O's size of a pod's `/dev/shm`.
const SHM_DATA: &str = "mode=1777,size=67108864";

/// Where the files of sandbox `id` lie, whether they are there yet or not.
pub fn sandbox_files(deps: &Deps, id: &SandboxId, config: &PodConfig) -> SandboxFiles {
    let root = deps.root_dir(KIND, id.as_str());
    let shm = match config.security.namespaces.ipc {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        _ => shm_dir(deps, id),
    };
    SandboxFiles {
        hostname: Some(root.join("hostname")),
        hosts: Some(root.join("hosts")),
        resolv_conf: Some(root.join("resolv.conf")),
        shm,
    }
}

fn shm_dir(deps: &Deps, id: &SandboxId) -> PathBuf {
    deps.state_dir(KIND, id.as_str()).join("shm")
}

/// Makes the directories and writes the files.
pub(super) async fn make(
    deps: Arc<Deps>,
    id: SandboxId,
    config: Arc<PodConfig>,
    label: Option<String>,
) -> Result<SandboxFiles> {
    sys::off_thread("write the sandbox's files", move || {
        let root = deps.root_dir(KIND, id.as_str());
        sys::files::make_dir_blocking(&root, 0o711)?;
        let hostname = spec::host_files::hostname(&config.hostname, &deps.node_name)?;
        let node_resolv = match config.dns {
            Some(_) => None,
            None => node_file(Path::new("/etc/resolv.conf"))?,
        };
        let resolv = spec::host_files::resolv_conf(
            config.dns.as_ref(),
            node_resolv.as_deref().unwrap_or_default(),
        )?;
        let hosts = spec::host_files::hosts(node_file(Path::new("/etc/hosts"))?.as_deref());
        for (name, text) in [
            ("hostname", hostname),
            ("hosts", hosts),
            ("resolv.conf", resolv),
        ] {
            let path = root.join(name);
            sys::files::write_atomic_blocking(&path, text.as_bytes(), 0o644)?;
            if let Some(label) = &label {
                sys::selinux::label_blocking(&path, label)?;
            }
        }
        Ok(sandbox_files(&deps, &id, &config))
    })
    .await
}

/// A file of the node, followed through links as the node's own programs would; `None` where it is missing.
fn node_file(path: &Path) -> Result<Option<String>> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).classify(Kind::Internal, || format!("read {}", path.display()));
        }
    };
    let bytes = sys::files::read_capped_blocking(&real, NODE_FILE_BYTES)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Removes both directories of the sandbox, unmounting whatever is still below them.
pub(super) async fn remove(deps: Arc<Deps>, id: SandboxId) -> Result<()> {
    sys::off_thread("remove the sandbox's files", move || {
        for dir in [
            deps.state_dir(KIND, id.as_str()),
            deps.root_dir(KIND, id.as_str()),
        ] {
            sys::remove_tree_blocking(&dir)?;
        }
        Ok(())
    })
    .await
}

/// Mounts the pod's `/dev/shm`, which belongs to the pod's root.
pub(super) async fn mount_shm(
    deps: Arc<Deps>,
    id: SandboxId,
    mapping: Option<UserMapping>,
    label: Option<String>,
) -> Result<()> {
    let owner = mapping.map(|mapping| {
        let (uid, gid) = (mapping.uid.host_id, mapping.gid.host_id);
        format!(",uid={uid},gid={gid}")
    });
    let context = label.map(|label| format!(",{}", sys::selinux::context_option(&label)));
    let data = [
        SHM_DATA,
        &owner.unwrap_or_default(),
        &context.unwrap_or_default(),
    ]
    .concat();
    sys::off_thread("mount the pod's /dev/shm", move || {
        sys::files::make_dir_blocking(&deps.state_dir(KIND, id.as_str()), 0o711)?;
        let dir = shm_dir(&deps, &id);
        sys::files::make_dir_blocking(&dir, 0o700)?;
        sys::mounts::tmpfs_blocking(
            &dir,
            MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            &data,
        )
    })
    .await
}

/// Unmounts the pod's `/dev/shm`; nothing where it is not mounted.
pub(super) async fn unmount_shm(deps: Arc<Deps>, id: SandboxId) -> Result<()> {
    sys::off_thread("unmount the pod's /dev/shm", move || {
        sys::mounts::unmount_all_below_blocking(&shm_dir(&deps, &id))
    })
    .await
}

/// The text of a `Localhost` seccomp profile; `None` for every other kind.
///
/// # Errors
/// `InvalidArgument` or `NotFound` where the file cannot be read: a profile that was asked for is never left out.
pub async fn seccomp_text(deps: &Deps, profile: &Option<SeccompProfile>) -> Result<Option<String>> {
    let Some(SeccompProfile::Localhost(path)) = profile else {
        return Ok(None);
    };
    let file = PathBuf::from(path.strip_prefix("localhost/").unwrap_or(path));
    let limit = PROFILE_LIMIT;
    let what = format!("read the seccomp profile {}", file.display());
    let read = move || {
        let bytes = sys::files::read_capped_blocking(&file, PROFILE_BYTES)?;
        String::from_utf8(bytes).classify(Kind::InvalidArgument, || {
            format!("seccomp profile {}: not UTF-8", file.display())
        })
    };
    deps.paths.run("node", what, limit, read).await.map(Some)
}
