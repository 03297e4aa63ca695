//! Capability sets: defaults, what a container adds and drops, and what privilege means (contract: pods 3.6).

use std::collections::HashSet;

use oci_spec::runtime::{Capabilities as OciSet, Capability, LinuxCapabilities};

use crate::model::container::{Capabilities as Changes, ContainerSecurity};
use crate::model::host_facts::CapabilityMask;
use crate::model::{Error, HostFacts, Result};

use Capability as C;

/// Every capability by its kernel number.
const BY_NUMBER: [(&str, Capability); 41] = [
    ("CHOWN", C::Chown),
    ("DAC_OVERRIDE", C::DacOverride),
    ("DAC_READ_SEARCH", C::DacReadSearch),
    ("FOWNER", C::Fowner),
    ("FSETID", C::Fsetid),
    ("KILL", C::Kill),
    ("SETGID", C::Setgid),
    ("SETUID", C::Setuid),
    ("SETPCAP", C::Setpcap),
    ("LINUX_IMMUTABLE", C::LinuxImmutable),
    ("NET_BIND_SERVICE", C::NetBindService),
    ("NET_BROADCAST", C::NetBroadcast),
    ("NET_ADMIN", C::NetAdmin),
    ("NET_RAW", C::NetRaw),
    ("IPC_LOCK", C::IpcLock),
    ("IPC_OWNER", C::IpcOwner),
    ("SYS_MODULE", C::SysModule),
    ("SYS_RAWIO", C::SysRawio),
    ("SYS_CHROOT", C::SysChroot),
    ("SYS_PTRACE", C::SysPtrace),
    ("SYS_PACCT", C::SysPacct),
    ("SYS_ADMIN", C::SysAdmin),
    ("SYS_BOOT", C::SysBoot),
    ("SYS_NICE", C::SysNice),
    ("SYS_RESOURCE", C::SysResource),
    ("SYS_TIME", C::SysTime),
    ("SYS_TTY_CONFIG", C::SysTtyConfig),
    ("MKNOD", C::Mknod),
    ("LEASE", C::Lease),
    ("AUDIT_WRITE", C::AuditWrite),
    ("AUDIT_CONTROL", C::AuditControl),
    ("SETFCAP", C::Setfcap),
    ("MAC_OVERRIDE", C::MacOverride),
    ("MAC_ADMIN", C::MacAdmin),
    ("SYSLOG", C::Syslog),
    ("WAKE_ALARM", C::WakeAlarm),
    ("BLOCK_SUSPEND", C::BlockSuspend),
    ("AUDIT_READ", C::AuditRead),
    ("PERFMON", C::Perfmon),
    ("BPF", C::Bpf),
    ("CHECKPOINT_RESTORE", C::CheckpointRestore),
];

/// A set of capabilities, bit by kernel number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CapabilitySet(u64);

/// The fourteen that containers have when nobody says otherwise: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
pub(super) const DEFAULT: CapabilitySet = CapabilitySet(
    1 << 0
        | 1 << 1
        | 1 << 3
        | 1 << 4
        | 1 << 5
        | 1 << 6
        | 1 << 7
        | 1 << 8
        | 1 << 10
        | 1 << 13
        | 1 << 18
        | 1 << 27
        | 1 << 29
        | 1 << 31,
);

impl CapabilitySet {
    /// All that containerd can hand out, of those that exist.
    fn available(mask: CapabilityMask) -> Self {
        Self(mask.0 & ((1 << BY_NUMBER.len()) - 1))
    }

    pub(super) fn none() -> Self {
        Self(0)
    }

    /// What an OCI set holds.
    pub(super) fn from_oci(set: &OciSet) -> Self {
        let known = BY_NUMBER.iter().enumerate();
        Self(
            known
                .filter(|(_, (_, capability))| set.contains(capability))
                .fold(0, |bits, (number, _)| bits | 1 << number),
        )
    }

    /// The members' names without `CAP_`, by kernel number.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let members = BY_NUMBER
            .iter()
            .enumerate()
            .filter(move |(number, _)| self.0 & (1 << number) != 0);
        members.map(|(_, (name, _))| *name)
    }

    pub(super) fn contains(self, name: &str) -> bool {
        self.names().any(|member| member == name)
    }

    /// Bounding, permitted and effective hold the set; inheritable and ambient stay empty whatever is asked, or a
    /// process without file capabilities would carry privilege over an exec.
    pub(super) fn to_oci(self) -> LinuxCapabilities {
        let members: OciSet = BY_NUMBER
            .iter()
            .enumerate()
            .filter(|(number, _)| self.0 & (1 << number) != 0)
            .map(|(_, (_, capability))| *capability)
            .collect::<HashSet<_>>();
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(members.clone()))
            .set_effective(Some(members.clone()))
            .set_permitted(Some(members))
            .set_inheritable(None)
            .set_ambient(None);
        sets
    }
}

/// The set of a container that starts from `current`.
pub(super) fn of_container(
    security: &ContainerSecurity,
    current: CapabilitySet,
    host: &HostFacts,
) -> Result<CapabilitySet> {
    let available = CapabilitySet::available(host.capabilities);
    match &security.capabilities {
        _ if security.privileged => Ok(available),
        Some(changes) => changed(changes, current, available),
        None => Ok(current),
    }
}

fn changed(
    changes: &Changes,
    current: CapabilitySet,
    available: CapabilitySet,
) -> Result<CapabilitySet> {
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set = current.0;
    if changes.add.iter().any(is_all) {
        set = available.0;
    }
    if changes.drop.iter().any(is_all) {
        set = 0;
    }
    for name in changes.add.iter().filter(|name| !is_all(name)) {
        let bit = bit(name)?;
        if available.0 & bit == 0 {
            return Err(Error::precondition(format!(
                "add capability {name:?}: containerd itself does not have it; start containerd with it, or do not ask"
            )));
        }
        set |= bit;
    }
    for name in changes.drop.iter().filter(|name| !is_all(name)) {
        set &= !bit(name)?;
    }
    Ok(CapabilitySet(set))
}

fn bit(name: &str) -> Result<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    match BY_NUMBER.iter().position(|(known, _)| *known == bare) {
        Some(number) => Ok(1 << number),
        None => Err(Error::invalid(format!(
            "capability {name:?}: Linux has none of that name"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::model::Kind;

    fn set(add: &[&str], drop: &[&str]) -> Result<CapabilitySet> {
        let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let changes = Changes {
            add: strings(add),
            drop: strings(drop),
            add_ambient: vec!["SYS_ADMIN".into()],
        };
        let security = ContainerSecurity {
            capabilities: Some(changes),
            ..ContainerSecurity::default()
        };
        of_container(&security, DEFAULT, &testing::host())
    }

    #[test]
    fn the_default_set_is_the_contracts_fourteen() {
        let names: Vec<&str> = DEFAULT.names().collect();

        let mut want = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FSETID",
            "FOWNER",
            "MKNOD",
            "NET_RAW",
            "SETGID",
            "SETUID",
            "SETFCAP",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
            "KILL",
            "AUDIT_WRITE",
        ];
        want.sort_unstable();
        let mut got = names.clone();
        got.sort_unstable();
        assert_eq!(got, want);
    }

    #[test]
    fn all_goes_first_and_names_after_it() {
        let all = CapabilitySet::available(testing::host().capabilities);
        let without = |set: CapabilitySet, name: &str| CapabilitySet(set.0 & !bit(name).unwrap());

        assert_eq!(set(&["all"], &[]).unwrap(), all);
        assert_eq!(set(&[], &["ALL"]).unwrap(), CapabilitySet(0));
        assert_eq!(
            set(&["ALL"], &["net_raw"]).unwrap(),
            without(all, "NET_RAW")
        );
        assert_eq!(
            set(&["NET_ADMIN"], &["all"]).unwrap(),
            CapabilitySet(bit("NET_ADMIN").unwrap())
        );
        assert_eq!(
            set(&["All", "KILL"], &["All"]).unwrap(),
            CapabilitySet(bit("KILL").unwrap())
        );
        assert_eq!(set(&["KILL"], &["KILL"]).unwrap(), without(DEFAULT, "KILL"));
        assert_eq!(
            set(&["CAP_SYS_TIME"], &[]).unwrap(),
            CapabilitySet(DEFAULT.0 | bit("SYS_TIME").unwrap())
        );
    }

    #[test]
    fn names_that_linux_does_not_know_are_refused() {
        for (add, drop) in [
            (vec!["NOPE"], vec![]),
            (vec![], vec!["NOPE"]),
            (vec![""], vec![]),
            (vec!["CAP_ALL"], vec![]),
        ] {
            assert_eq!(set(&add, &drop).unwrap_err().kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn what_containerd_lacks_cannot_be_added_nor_comes_with_all_or_privilege() {
        let mut host = testing::host();
        host.capabilities.0 &= !(1 << CapabilityMask::SYS_RESOURCE);
        let ask = |name: &str| ContainerSecurity {
            capabilities: Some(Changes {
                add: vec![name.into()],
                ..Changes::default()
            }),
            ..ContainerSecurity::default()
        };

        let named = of_container(&ask("SYS_RESOURCE"), DEFAULT, &host).unwrap_err();
        let all = of_container(&ask("ALL"), DEFAULT, &host).unwrap();
        let privileged = ContainerSecurity {
            privileged: true,
            ..ask("ALL")
        };

        assert_eq!(named.kind(), Kind::FailedPrecondition);
        assert!(!all.contains("SYS_RESOURCE"));
        assert_eq!(of_container(&privileged, DEFAULT, &host).unwrap(), all);
    }

    #[test]
    fn inheritable_and_ambient_stay_empty() {
        let sets = set(&["ALL"], &[]).unwrap().to_oci();

        assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
        assert_eq!(
            CapabilitySet::from_oci(sets.bounding().as_ref().unwrap()),
            set(&["ALL"], &[]).unwrap()
        );
    }
}
