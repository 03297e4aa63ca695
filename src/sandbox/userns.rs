//! The user namespace of a pod: pinned before anything is made that it shall own, so that root of the pod rules the pod's
//! network and nothing else.
//!
//! A pod on the node's network has none of these: nothing of it is made before the pause process, whose OCI runtime makes
//! the user namespace then.

use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Result, SandboxId};
use crate::spec::UserMapping;
use crate::sys;

use super::deps::Deps;
use super::files::KIND;

/// Below the sandbox's directory as containerd's own plugin has it.
const PINS: &str = "pinned-namespaces";

fn path(deps: &Deps, id: &SandboxId) -> PathBuf {
    deps.state_dir(KIND, id.as_str()).join(PINS).join("user")
}

/// Makes the namespace and pins it; answers where.
pub(super) async fn make(deps: Arc<Deps>, id: SandboxId, mapping: UserMapping) -> Result<PathBuf> {
    sys::off_thread("make a user namespace", move || {
        let dir = deps.state_dir(KIND, id.as_str());
        sys::files::make_dir_blocking(&dir, 0o711)?;
        sys::files::make_dir_blocking(&dir.join(PINS), 0o711)?;
        let path = path(&deps, &id);
        sys::userns::create_blocking(&path, mapping.uid, mapping.gid)?;
        Ok(path)
    })
    .await
}

/// Takes the pin away; nothing where there is none.
pub(super) async fn unpin(deps: Arc<Deps>, id: SandboxId) -> Result<()> {
    sys::off_thread("remove a user namespace", move || {
        sys::userns::remove_blocking(&path(&deps, &id))
    })
    .await
}
