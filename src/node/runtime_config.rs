//! What kubelet asks before it makes a cgroup, and what it tells once it knows the pods' addresses.

use std::net::IpAddr;

use crate::config::CgroupDriver as Setting;
use crate::model::host_facts::CgroupDriver;
use crate::model::{Error, Result};

/// Who makes the pods' cgroups, by the setting and the host; constant for the life of a node.
pub const fn cgroup_driver(setting: Setting, is_systemd_booted: bool) -> CgroupDriver {
    if setting.is_systemd(is_systemd_booted) {
        CgroupDriver::Systemd
    } else {
        CgroupDriver::Cgroupfs
    }
}

/// The parts of a pod CIDR as UpdateRuntimeConfig brings it: one, two for dual stack, or none.
///
/// # Errors
/// `InvalidArgument` for a part that is no CIDR.
pub fn pod_cidrs(text: &str) -> Result<Vec<String>> {
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(|part| {
            is_cidr(part)
                .then(|| part.to_owned())
                .ok_or_else(|| Error::invalid(format!("pod_cidr: {part:?} is no CIDR")))
        })
        .collect()
}

fn is_cidr(part: &str) -> bool {
    let Some((address, length)) = part.split_once('/') else {
        return false;
    };
    let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    match (address.parse::<IpAddr>(), length.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(length)) => digits && length <= 32,
        (Ok(IpAddr::V6(_)), Ok(length)) => digits && length <= 128,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_follows_the_setting_and_auto_follows_the_host() {
        assert_eq!(cgroup_driver(Setting::Auto, true), CgroupDriver::Systemd);
        assert_eq!(cgroup_driver(Setting::Auto, false), CgroupDriver::Cgroupfs);
        assert_eq!(
            cgroup_driver(Setting::Cgroupfs, true),
            CgroupDriver::Cgroupfs
        );
    }

    #[test]
    fn a_pod_cidr_has_no_one_or_two_parts_and_each_is_a_cidr() {
        assert_eq!(pod_cidrs("").unwrap(), Vec::<String>::new());
        assert_eq!(
            pod_cidrs("10.1.0.0/24, fd00::/64").unwrap(),
            ["10.1.0.0/24", "fd00::/64"]
        );
        for bad in [
            "10.1.0.0",
            "10.1.0.0/33",
            "x/8",
            "10.1.0.0/+8",
            "fd00::/129",
        ] {
            assert!(pod_cidrs(bad).is_err(), "{bad}");
        }
    }
}
