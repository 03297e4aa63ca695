//! What a runtime that was killed half-way leaves of a container: its control group, and perhaps processes in it, of
//! which containerd knows no task.

use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::Spec;

use crate::model::{Classify as _, Context as _, Error, Kind, Result};
use crate::sys;
use crate::sys::cgroup::{Cgroups, path_of};

use super::Deps;

/// How long killed processes may take to be gone.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// Ends and removes what is left in the group that `id`'s record names. To be called only where containerd has no task
/// of that name, and while it still has the record.
///
/// # Errors
/// `DeadlineExceeded` where a process in it would not die.
pub(crate) async fn remove_left(deps: &Deps, id: &str) -> Result<()> {
    let record = match deps.containerd.containers.get(id).await {
        Ok(record) => record,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(spec) = record.spec else {
        return Ok(());
    };
    let id = id.to_owned();
    let work = move || {
        let what = || "read the spec of a record".to_owned();
        let text = String::from_utf8(spec.value).classify(Kind::Internal, what)?;
        let spec = crate::spec::decode_spec(&text).context(what)?;
        match group_of(&spec) {
            Some(path) if is_of(&path, &id) => remove_blocking(&path),
            _ => Ok(()),
        }
    };
    sys::off_thread("remove what is left of a control group", work).await
}

/// The path of the control group that the OCI runtime makes for `spec`.
pub(crate) fn group_of(spec: &Spec) -> Option<String> {
    let form = spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()?;
    Some(path_of(form))
}

/// A group that does not bear the container's name is somebody else's.
fn is_of(path: &str, id: &str) -> bool {
    let name = Path::new(path).file_name();
    name.is_some_and(|name| name.to_string_lossy().contains(id))
}

fn remove_blocking(path: &str) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);
    let group = Cgroups::discover_blocking()?.at(path);
    let mut left = EMPTY_WITHIN;
    while !group.remove_blocking()? {
        let live = group.kill_all_blocking()?;
        if left.is_zero() {
            return Err(Error::deadline(format!(
                "control group {path}: processes {live:?} are still there after SIGKILL"
            )));
        }
        std::thread::park_timeout(PAUSE);
        left = left.saturating_sub(PAUSE);
    }
    Ok(())
}
