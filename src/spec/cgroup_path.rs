//! Where a container's cgroup goes, in the spelling that the OCI runtime's driver reads (contract: pods 3.9).

use crate::model::host_facts::CgroupDriver;
use crate::model::{Error, Result};

use super::lexical::has_control;

/// Prefix of systemd scope units, `cri-containerd-<id>.scope`: node monitors look for it.
const SCOPE_PREFIX: &str = "cri-containerd";
/// Slice of pods that name no parent.
const DEFAULT_SLICE: &str = "system.slice";
/// cgroup of pods that name no parent.
const DEFAULT_PARENT: &str = "/k8s.io";

/// `linux.cgroupsPath` of container `id` below `parent`, which may be empty.
///
/// # Errors
/// `InvalidArgument` where the parent is in the other driver's form: the OCI runtime would either refuse it with a
/// puzzling text or put the container outside its pod's limits.
pub(super) fn of(parent: &str, id: &str, driver: CgroupDriver) -> Result<String> {
    if has_control(parent) || parent.contains(':') || parent.split('/').any(|part| part == "..") {
        return Err(Error::invalid(format!(
            "cgroup parent {parent:?}: `..`, `:` and control characters are not allowed"
        )));
    }
    let base = parent.trim_end_matches('/');
    let last = base.rsplit('/').next().unwrap_or(base);
    let is_slice = last.ends_with(".slice");
    match driver {
        CgroupDriver::Systemd if parent.is_empty() => {
            Ok(format!("{DEFAULT_SLICE}:{SCOPE_PREFIX}:{id}"))
        }
        CgroupDriver::Systemd if is_slice => Ok(format!("{last}:{SCOPE_PREFIX}:{id}")),
        CgroupDriver::Cgroupfs if parent.is_empty() => Ok(format!("{DEFAULT_PARENT}/{id}")),
        CgroupDriver::Cgroupfs if !is_slice => Ok(format!("{base}/{id}")),
        CgroupDriver::Systemd => Err(Error::invalid(format!(
            "cgroup parent {parent:?} is not a slice, but the cgroup driver is systemd: give the caller (kubelet \
             cgroupDriver) and the runtime handler the same driver"
        ))),
        CgroupDriver::Cgroupfs => Err(Error::invalid(format!(
            "cgroup parent {parent:?} is a systemd slice, but the cgroup driver is cgroupfs: give the caller (kubelet \
             cgroupDriver) and the runtime handler the same driver"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn each_driver_gets_its_own_spelling() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (parent, driver, want) in [
            (
                "/kubepods/burstable/podx",
                Cgroupfs,
                "/kubepods/burstable/podx/ID",
            ),
            ("/", Cgroupfs, "/ID"),
            ("", Cgroupfs, "/k8s.io/ID"),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx_y.slice",
                Systemd,
                "kubepods-burstable-podx_y.slice:cri-containerd:ID",
            ),
            ("/test.slice", Systemd, "test.slice:cri-containerd:ID"),
            ("/test.slice/", Systemd, "test.slice:cri-containerd:ID"),
            ("", Systemd, "system.slice:cri-containerd:ID"),
        ] {
            assert_eq!(of(parent, "ID", driver).unwrap(), want, "{parent}");
        }
    }

    #[test]
    fn parents_of_the_other_driver_and_hostile_ones_are_refused() {
        use CgroupDriver::{Cgroupfs, Systemd};
        for (parent, driver) in [
            ("/test.slice", Cgroupfs),
            ("/kubepods", Systemd),
            ("/", Systemd),
            ("/a/../../b", Cgroupfs),
            ("/../x.slice", Systemd),
            ("/a:b", Cgroupfs),
            ("/a\nb", Cgroupfs),
        ] {
            let error = of(parent, "ID", driver).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{parent}");
        }
    }
}
