//! The container edits of a CDI specification: as they are written, what they must obey, and what they become once the
//! host has been asked about device nodes.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::model::edits::{self, EditedDevice, EditedMount, Edits, NetDevice, Rdt, Stage};
use crate::model::host_facts::DeviceKind;
use crate::model::{Context, Error, Result};
use crate::sys;

/// A value that may also be written as `null`.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `containerEdits`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    #[serde(deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) device_nodes: Vec<DeviceNode>,
    #[serde(deserialize_with = "nullable")]
    pub(super) net_devices: Vec<NetDeviceEntry>,
    #[serde(deserialize_with = "nullable")]
    pub(super) mounts: Vec<MountEntry>,
    #[serde(deserialize_with = "nullable")]
    pub(super) hooks: Vec<HookEntry>,
    pub(super) intel_rdt: Option<IntelRdt>,
    #[serde(deserialize_with = "nullable")]
    pub(super) additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeviceNode {
    path: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_path: String,
    #[serde(deserialize_with = "nullable", rename = "type")]
    kind: String,
    #[serde(deserialize_with = "nullable")]
    major: i64,
    #[serde(deserialize_with = "nullable")]
    minor: i64,
    file_mode: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct NetDeviceEntry {
    host_interface_name: String,
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct MountEntry {
    host_path: String,
    container_path: String,
    #[serde(deserialize_with = "nullable")]
    options: Vec<String>,
    #[serde(deserialize_with = "nullable", rename = "type")]
    pub(super) kind: String,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HookEntry {
    hook_name: Stage,
    path: String,
    #[serde(default, deserialize_with = "nullable")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(default)]
    timeout: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID", deserialize_with = "nullable")]
    class: String,
    #[serde(deserialize_with = "nullable")]
    l3_cache_schema: String,
    #[serde(deserialize_with = "nullable")]
    mem_bw_schema: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) schemata: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) enable_monitoring: bool,
}

impl ContainerEdits {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// `InvalidArgument` naming what breaks which rule.
    pub(super) fn check(&self) -> Result<()> {
        self.env.iter().try_for_each(|entry| check_env(entry))?;
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        let (mut on_host, mut inside) = (BTreeSet::new(), BTreeSet::new());
        for device in &self.net_devices {
            let (host, name) = (&device.host_interface_name, &device.name);
            if host.is_empty() || name.is_empty() {
                return Err(Error::invalid("network device: without both of its names"));
            }
            if !on_host.insert(host) || !inside.insert(name) {
                return Err(Error::invalid(format!(
                    "network device {host:?} as {name:?}: one of the names is given twice"
                )));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || mount.container_path.is_empty() {
                return Err(Error::invalid("mount: without both of its paths"));
            }
            check_text("mount", &[&mount.host_path, &mount.container_path])?;
        }
        self.hooks.iter().try_for_each(HookEntry::check)?;
        self.intel_rdt.iter().try_for_each(IntelRdt::check)
    }

    /// What the edits come to on this host.
    ///
    /// # Errors
    /// `FailedPrecondition` where a device node is not fully described and the host has none like it.
    pub(super) fn resolve_blocking(&self) -> Result<Edits> {
        let devices: Result<Vec<EditedDevice>> = self
            .device_nodes
            .iter()
            .map(DeviceNode::resolve_blocking)
            .collect();
        let net_device = |device: &NetDeviceEntry| NetDevice {
            host_name: device.host_interface_name.clone(),
            name: device.name.clone(),
        };
        let mount = |mount: &MountEntry| EditedMount {
            destination: mount.container_path.clone(),
            source: mount.host_path.clone(),
            kind: mount.kind.clone(),
            options: mount.options.clone(),
        };
        let hook = |hook: &HookEntry| edits::Hook {
            stage: hook.hook_name,
            path: hook.path.clone(),
            args: hook.args.clone(),
            env: hook.env.clone(),
            timeout: hook.timeout,
        };
        let rdt = |rdt: &IntelRdt| Rdt {
            class: rdt.class.clone(),
            l3_cache: rdt.l3_cache_schema.clone(),
            memory_bandwidth: rdt.mem_bw_schema.clone(),
            schemata: rdt.schemata.clone(),
            is_monitored: rdt.enable_monitoring,
        };
        Ok(Edits {
            env: self.env.clone(),
            devices: devices?,
            net_devices: self.net_devices.iter().map(net_device).collect(),
            mounts: self.mounts.iter().map(mount).collect(),
            hooks: self.hooks.iter().map(hook).collect(),
            rdt: self.intel_rdt.as_ref().map(rdt),
            groups: self.additional_gids.clone(),
        })
    }
}

impl DeviceNode {
    fn check(&self) -> Result<()> {
        let path = &self.path;
        if path.is_empty() {
            return Err(Error::invalid("device node: without a path"));
        }
        check_text("device node", &[path, &self.host_path])?;
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(Error::invalid(format!(
                "device node {path:?}: type {:?}, want b, c, u or p",
                self.kind
            )));
        }
        let is_access = |access: &str| access.chars().all(|c| matches!(c, 'r' | 'w' | 'm'));
        if self.permissions != "none" && !is_access(&self.permissions) {
            return Err(Error::invalid(format!(
                "device node {path:?}: permissions {:?}, want letters out of r, w and m, or none",
                self.permissions
            )));
        }
        Ok(())
    }

    fn kind(&self) -> Option<DeviceKind> {
        match self.kind.as_str() {
            "b" => Some(DeviceKind::Block),
            "c" => Some(DeviceKind::Char),
            "u" => Some(DeviceKind::Unbuffered),
            "p" => Some(DeviceKind::Fifo),
            _ => None,
        }
    }

    /// Asks the host for what the specification leaves out.
    fn resolve_blocking(&self) -> Result<EditedDevice> {
        let host_path = match self.host_path.as_str() {
            "" => &self.path,
            given => given,
        };
        let told = self
            .kind()
            .filter(|kind| self.major != 0 || *kind == DeviceKind::Fifo);
        let found = sys::devices::node_at_blocking(Path::new(host_path))
            .context(|| format!("CDI device node {:?}", self.path));
        let mut device = EditedDevice {
            path: self.path.clone(),
            kind: told.unwrap_or(DeviceKind::Char),
            major: self.major,
            minor: self.minor,
            mode: self.file_mode,
            uid: self.uid,
            gid: self.gid,
            access: match self.permissions.as_str() {
                "" => "rwm".to_owned(),
                "none" => String::new(),
                given => given.to_owned(),
            },
        };
        let node = match (found, told) {
            (Ok(node), None) => node,
            (Ok(node), Some(_)) => {
                device.mode = device.mode.or(Some(node.mode));
                return Ok(device);
            }
            (Err(_told_in_full), Some(_)) => return Ok(device),
            (Err(error), None) => return Err(error),
        };
        if self.kind().is_some_and(|kind| kind != node.kind) {
            return Err(Error::precondition(format!(
                "CDI device node {:?}: the specification says type {}, and {host_path:?} on the host is another",
                self.path, self.kind
            )));
        }
        device.kind = node.kind;
        device.mode = device.mode.or(Some(node.mode));
        if self.major == 0 && node.kind != DeviceKind::Fifo {
            (device.major, device.minor) = (node.major.into(), node.minor.into());
        }
        Ok(device)
    }
}

impl HookEntry {
    fn check(&self) -> Result<()> {
        if self.path.is_empty() {
            return Err(Error::invalid("hook: without a path"));
        }
        check_text("hook", &[&self.path])?;
        self.env.iter().try_for_each(|entry| check_env(entry))
    }
}

impl IntelRdt {
    fn check(&self) -> Result<()> {
        let class = self.class.as_str();
        // A directory of resctrl; "/" is its root.
        let is_name = !matches!(class, "." | "..") && !class.contains(['/', '\n']);
        if class != "/" && (!is_name || class.len() >= 4096) {
            return Err(Error::invalid(format!(
                "intelRdt: closID {class:?} is no name of a directory"
            )));
        }
        Ok(())
    }
}

fn check_env(entry: &str) -> Result<()> {
    match entry.split_once('=') {
        Some((name, _value)) if !name.is_empty() && !entry.contains('\0') => Ok(()),
        _ => Err(Error::invalid(format!(
            "environment variable {entry:?}: want NAME=value"
        ))),
    }
}

/// No path holds a NUL; to the OCI runtime it would end there.
fn check_text(what: &str, texts: &[&str]) -> Result<()> {
    match texts.iter().find(|text| text.contains('\0')) {
        None => Ok(()),
        Some(text) => Err(Error::invalid(format!("{what} {text:?}: holds a NUL"))),
    }
}
