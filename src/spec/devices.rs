//! Device nodes and the device cgroup's rules (contract: pods 3.7; traps 62).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::model::host_facts::{DeviceKind, DeviceNode};
use crate::model::{Error, Result};

use super::base::all_devices;
use super::input::{ContainerInput, ResolvedDevice};
use super::lexical::has_control;

const MAX_DEVICES: usize = 1024;

/// `linux.devices` and `linux.resources.devices`.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    /// Evaluated in order, the last match wins: the denial of everything comes first.
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

/// The devices of a container on top of its base's.
pub(super) fn container(
    input: &ContainerInput<'_>,
    base_nodes: Vec<LinuxDevice>,
    base_rules: Vec<LinuxDeviceCgroup>,
) -> Result<Devices> {
    if input.devices.len() > MAX_DEVICES {
        return Err(Error::invalid(format!(
            "{} devices: at most {MAX_DEVICES} are accepted",
            input.devices.len()
        )));
    }
    let owner = Owner::of(input);
    let mut devices = Devices {
        nodes: base_nodes,
        rules: base_rules,
    };
    for device in input.devices {
        add(&mut devices, device, &owner)?;
    }
    if input.config.security.privileged {
        let options = input.options;
        if !options.privileged_without_host_devices {
            let taken: BTreeSet<PathBuf> = devices
                .nodes
                .iter()
                .map(|node| node.path().clone())
                .collect();
            let free = input
                .host_devices
                .iter()
                .filter(|node| !taken.contains(&node.path));
            devices
                .nodes
                .extend(free.map(|node| to_oci(node, &node.path, &Owner::default())));
        }
        if !options.privileged_without_host_devices
            || options.privileged_without_host_devices_all_allowed
        {
            devices.rules = vec![all_devices(true)];
        }
    }
    Ok(devices)
}

/// Who nodes belong to instead of their owner on the host, where the operator wants that.
#[derive(Default)]
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Owner {
    fn of(input: &ContainerInput<'_>) -> Self {
        if !input.options.device_ownership_from_security_context {
            return Self::default();
        }
        let security = &input.config.security;
        Self {
            uid: security.run_as_user.filter(|uid| *uid != 0),
            gid: security.run_as_group.filter(|gid| *gid != 0),
        }
    }
}

fn add(devices: &mut Devices, device: &ResolvedDevice, owner: &Owner) -> Result<()> {
    let asked = &device.asked;
    let place = if asked.container_path.is_empty() {
        &asked.host_path
    } else {
        &asked.container_path
    };
    if !place.starts_with('/') || has_control(place) {
        return Err(Error::invalid(format!(
            "device {place:?}: want an absolute path without control characters"
        )));
    }
    if asked.permissions.is_empty()
        || !asked
            .permissions
            .chars()
            .all(|c| matches!(c, 'r' | 'w' | 'm'))
    {
        return Err(Error::invalid(format!(
            "device {place}: permissions {:?}, want letters out of r, w and m",
            asked.permissions
        )));
    }
    for (below, node) in &device.nodes {
        let path = if below.as_os_str().is_empty() {
            PathBuf::from(place)
        } else {
            Path::new(place).join(below)
        };
        devices.nodes.push(to_oci(node, &path, owner));
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true)
            .set_typ(Some(kind(node.kind)))
            .set_major(Some(i64::from(node.major)))
            .set_minor(Some(i64::from(node.minor)))
            .set_access(Some(asked.permissions.clone()));
        devices.rules.push(rule);
    }
    Ok(())
}

fn to_oci(node: &DeviceNode, path: &Path, owner: &Owner) -> LinuxDevice {
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind(node.kind))
        .set_major(i64::from(node.major))
        .set_minor(i64::from(node.minor))
        .set_file_mode(Some(node.mode))
        .set_uid(Some(owner.uid.unwrap_or(node.uid)))
        .set_gid(Some(owner.gid.unwrap_or(node.gid)));
    device
}

pub(super) fn kind(kind: DeviceKind) -> LinuxDeviceType {
    match kind {
        DeviceKind::Block => LinuxDeviceType::B,
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Unbuffered => LinuxDeviceType::U,
        DeviceKind::Fifo => LinuxDeviceType::P,
    }
}
