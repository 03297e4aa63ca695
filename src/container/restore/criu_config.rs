//! What CRIU is told beside what the OCI runtime tells it: a file that an annotation of the spec names, which runc and crun
//! hand on (`org.criu.config`, criu(8) "CONFIGURATION FILES").

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::model::{ContainerId, Result};
use crate::sandbox::Deps;
use crate::sys::files::write_atomic_blocking;

/// The annotation.
const KEY: &str = "org.criu.config";

/// For the restore. The cgroup is the new container's, in which the OCI runtime starts CRIU: left to itself CRIU puts the
/// processes into the one that they were written down in. Connections are closed, since the pod has another address.
pub(super) const RESTORE: &str = "manage-cgroups=ignore\ntcp-close\nfile-locks\next-unix-sk\n";
/// From then on, for the next checkpoint.
pub(super) const RESTORED: &str = "manage-cgroups=ignore\n";

/// Where the file is: it stays as long as the container.
pub(super) fn path(deps: &Deps, id: &ContainerId) -> PathBuf {
    deps.root_dir("containers", id.as_str()).join("criu.conf")
}

pub(super) fn write_blocking(path: &Path, text: &str) -> Result<()> {
    write_atomic_blocking(path, text.as_bytes(), 0o600)
}

/// Names the file in the spec of a container that goes on from a checkpoint, whatever else names one there.
pub(in super::super) fn name_in(spec: &mut Spec, deps: &Deps, id: &ContainerId) {
    let mut all: HashMap<String, String> = spec.annotations().clone().unwrap_or_default();
    all.insert(KEY.to_owned(), path(deps, id).display().to_string());
    spec.set_annotations(Some(all));
}
