//! Versions of the CDI specification, and which of them a file needs.

use super::edits::ContainerEdits;
use crate::model::{Error, Result};

/// Every version there is, oldest first.
const KNOWN: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];
/// The oldest that can be read.
const OLDEST: &str = "0.3.0";

/// What a file uses that not every version has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Need {
    pub(super) mount_type: bool,
    pub(super) host_path: bool,
    /// A device's name that does not begin with a letter.
    pub(super) free_names: bool,
    /// Annotations, or a dot in the class.
    pub(super) annotations: bool,
    pub(super) rdt_or_groups: bool,
    pub(super) net_devices_or_schemata: bool,
}

impl Need {
    pub(super) fn of_edits(edits: &ContainerEdits) -> Self {
        let rdt = edits.intel_rdt.as_ref();
        Self {
            mount_type: edits.mounts.iter().any(|mount| !mount.kind.is_empty()),
            host_path: edits
                .device_nodes
                .iter()
                .any(|node| !node.host_path.is_empty()),
            rdt_or_groups: rdt.is_some() || !edits.additional_gids.is_empty(),
            net_devices_or_schemata: !edits.net_devices.is_empty()
                || rdt.is_some_and(|rdt| !rdt.schemata.is_empty() || rdt.enable_monitoring),
            ..Self::default()
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.mount_type |= other.mount_type;
        self.host_path |= other.host_path;
        self.free_names |= other.free_names;
        self.annotations |= other.annotations;
        self.rdt_or_groups |= other.rdt_or_groups;
        self.net_devices_or_schemata |= other.net_devices_or_schemata;
    }

    /// The oldest version that has it all, and the newest thing that asks for it.
    fn version(&self) -> (&'static str, &'static str) {
        match () {
            () if self.net_devices_or_schemata => {
                ("1.1.0", "netDevices, schemata or enableMonitoring")
            }
            () if self.rdt_or_groups => ("0.7.0", "intelRdt or additionalGids"),
            () if self.annotations => ("0.6.0", "annotations, or a dot in the class"),
            () if self.free_names || self.host_path => (
                "0.5.0",
                "hostPath, or a device name that begins with a digit",
            ),
            () if self.mount_type => ("0.4.0", "the type of a mount"),
            () => (OLDEST, "a specification"),
        }
    }
}

/// Whether a file of `version` may hold what `need` says.
///
/// # Errors
/// `InvalidArgument` where the version is unknown or too old.
pub(super) fn check(version: &str, need: &Need) -> Result<()> {
    let number = version.strip_prefix('v').unwrap_or(version);
    let place = |wanted: &str| KNOWN.iter().position(|known| *known == wanted);
    let given = place(number).ok_or_else(|| {
        Error::invalid(format!(
            "cdiVersion {version:?}: unknown; this server knows {}",
            KNOWN.join(", ")
        ))
    })?;
    let (least, why) = need.version();
    if Some(given) < place(least) {
        return Err(Error::invalid(format!(
            "cdiVersion {version:?}: {why} needs {least} or later"
        )));
    }
    Ok(())
}
