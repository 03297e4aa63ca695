//! Seccomp filters: the built-in profile, and which one a process gets (contract: pods 3.7, seccomp default; traps 32,
//! 59, 60).

use oci_spec::runtime::{
    Arch as OciArch, Capabilities, LinuxSeccomp, LinuxSeccompAction as Action,
    LinuxSeccompArgBuilder, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use crate::model::host_facts::{Arch, KernelVersion};
use crate::model::security::SeccompProfile;
use crate::model::{Classify, Error, HostFacts, Kind, Result};

use super::capabilities::CapabilitySet;
use super::seccomp_file;
use super::seccomp_table as table;

const ENOSYS: u32 = 38;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// The filter that `asked` names. `bounding` is the final bounding set: the built-in profile follows it. `text` is the
/// profile file of a `Localhost` profile.
///
/// # Errors
/// `FailedPrecondition` where a filter is asked of a kernel without seccomp; `InvalidArgument` on a bad profile.
pub(super) fn of(
    asked: Option<&SeccompProfile>,
    text: Option<&str>,
    bounding: Option<&Capabilities>,
    host: &HostFacts,
) -> Result<Option<LinuxSeccomp>> {
    let profile = match asked {
        None | Some(SeccompProfile::Unconfined) => return Ok(None),
        Some(profile) => profile,
    };
    if !host.has_seccomp {
        return Err(Error::precondition(
            "seccomp: this kernel cannot filter system calls; ask for an unconfined process",
        ));
    }
    match profile {
        SeccompProfile::Localhost(path) => {
            let text = text.ok_or_else(|| {
                Error::internal(format!("seccomp profile {path}: its text was not read"))
            })?;
            seccomp_file::parse(path, text).map(Some)
        }
        SeccompProfile::RuntimeDefault | SeccompProfile::Unconfined => {
            let bounding = bounding.map_or_else(CapabilitySet::none, CapabilitySet::from_oci);
            built_in(bounding, host.kernel, host.arch).map(Some)
        }
    }
}

/// The built-in profile: everything is refused with EPERM that no rule allows.
fn built_in(bounding: CapabilitySet, kernel: KernelVersion, arch: Arch) -> Result<LinuxSeccomp> {
    let mut rules = vec![allow(table::ALWAYS)];
    // AF_ALG and AF_VSOCK fall between these three. One test a rule: two tests of one argument would mean either.
    rules.push(allow_if("socket", AF_ALG, None, Operator::ScmpCmpLt)?);
    rules.push(allow_if("socket", AF_ALG + 1, None, Operator::ScmpCmpEq)?);
    rules.push(allow_if("socket", AF_VSOCK, None, Operator::ScmpCmpGt)?);
    for value in table::PERSONALITIES {
        rules.push(allow_if("personality", value, None, Operator::ScmpCmpEq)?);
    }
    if kernel >= KernelVersion::new(4, 8) {
        rules.push(allow(table::SINCE_4_8));
    }
    match arch {
        Arch::Amd64 => rules.push(allow(table::AMD64)),
        Arch::Arm64 => rules.push(allow(table::ARM64)),
        Arch::Other => {}
    }
    let by_name = |name| table::BY_CAPABILITY.iter().find(|(of, _)| *of == name);
    for (_, names) in bounding.names().filter_map(by_name) {
        rules.push(allow(names));
    }
    if !bounding.contains("SYS_ADMIN") {
        let op = Operator::ScmpCmpMaskedEq;
        rules.push(allow_if("clone", CLONE_NAMESPACES, Some(0), op)?);
        // C libraries fall back to clone only on ENOSYS; clone3 hides its flags from a filter.
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec!["clone3".into()])
            .set_action(Action::ScmpActErrno)
            .set_errno_ret(Some(ENOSYS));
        rules.push(rule);
    }
    let mut filter = LinuxSeccomp::default();
    filter
        .set_default_action(Action::ScmpActErrno)
        .set_architectures(architectures(arch))
        .set_syscalls(Some(rules));
    Ok(filter)
}

fn architectures(arch: Arch) -> Option<Vec<OciArch>> {
    match arch {
        Arch::Amd64 => Some(vec![
            OciArch::ScmpArchX86_64,
            OciArch::ScmpArchX86,
            OciArch::ScmpArchX32,
        ]),
        Arch::Arm64 => Some(vec![OciArch::ScmpArchArm, OciArch::ScmpArchAarch64]),
        Arch::Other => None,
    }
}

fn allow(names: &str) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.split_whitespace().map(String::from).collect())
        .set_action(Action::ScmpActAllow);
    rule
}

/// Allows a call where one argument passes one test. `mask_result` is what a masked comparison wants.
fn allow_if(
    name: &str,
    value: u64,
    mask_result: Option<u64>,
    operator: Operator,
) -> Result<LinuxSyscall> {
    let mut test = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value)
        .op(operator);
    if let Some(wanted) = mask_result {
        test = test.value_two(wanted);
    }
    let test = test
        .build()
        .classify(Kind::Internal, || format!("seccomp rule of {name}"))?;
    let mut rule = allow(name);
    rule.set_args(Some(vec![test]));
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use super::super::{capabilities, testing};
    use super::*;

    fn allowed(filter: &LinuxSeccomp) -> Vec<String> {
        let rules = filter.syscalls().as_ref().unwrap().iter();
        rules
            .filter(|rule| rule.args().is_none() && rule.action() == Action::ScmpActAllow)
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    fn built(names: &[&str]) -> LinuxSeccomp {
        let set = testing::capability_set(names);
        built_in(set, KernelVersion::new(6, 1), Arch::Amd64).unwrap()
    }

    #[test]
    fn the_table_has_the_contracts_size_and_leaves_out_what_it_must() {
        let names: Vec<&str> = table::ALWAYS.split_whitespace().collect();

        assert_eq!(names.len(), 363);
        let every = allowed(
            &built_in(capabilities::DEFAULT, KernelVersion::new(6, 1), Arch::Amd64).unwrap(),
        );
        for absent in [
            "io_uring_setup",
            "keyctl",
            "add_key",
            "request_key",
            "kexec_load",
            "userfaultfd",
            "pivot_root",
            "socket",
            "personality",
            "clone",
            "clone3",
            "unshare",
            "mount",
            "bpf",
            "setns",
            "sethostname",
        ] {
            assert!(!every.iter().any(|name| name == absent), "{absent}");
        }
        assert!(every.iter().any(|name| name == "chroot"));
    }

    #[test]
    fn groups_follow_the_bounding_set() {
        let has = |filter: &LinuxSeccomp, name: &str| allowed(filter).iter().any(|n| n == name);

        let admin = built(&["SYS_ADMIN"]);
        assert!(has(&admin, "clone3") && has(&admin, "mount") && has(&admin, "sethostname"));
        assert!(!has(&admin, "chroot"));
        assert!(has(&built(&["SYS_TIME"]), "clock_settime"));
        assert!(has(&built(&["BPF"]), "bpf"));
        assert!(!has(&built(&[]), "reboot"));
    }

    #[test]
    fn clone3_without_admin_says_enosys() {
        let filter = built(&[]);
        let rules = filter.syscalls().as_ref().unwrap();
        let clone3 = rules
            .iter()
            .find(|rule| rule.names().iter().any(|name| name == "clone3"))
            .unwrap();

        assert_eq!(
            (clone3.action(), clone3.errno_ret()),
            (Action::ScmpActErrno, Some(38))
        );
    }

    #[test]
    fn old_kernels_and_other_machines_get_their_own_rules() {
        let old = built_in(capabilities::DEFAULT, KernelVersion::new(4, 7), Arch::Arm64).unwrap();
        let names = allowed(&old);

        assert!(!names.iter().any(|name| name == "ptrace"));
        assert!(names.iter().any(|name| name == "cacheflush"));
        assert!(!names.iter().any(|name| name == "arch_prctl"));
        assert_eq!(
            old.architectures().as_deref(),
            Some(&[OciArch::ScmpArchArm, OciArch::ScmpArchAarch64][..])
        );
        let other = built_in(capabilities::DEFAULT, KernelVersion::new(6, 1), Arch::Other).unwrap();
        assert_eq!(other.architectures(), &None);
    }

    #[test]
    fn a_kernel_without_seccomp_takes_only_unconfined_processes() {
        let mut host = testing::host();
        host.has_seccomp = false;

        let default = of(Some(&SeccompProfile::RuntimeDefault), None, None, &host);
        assert_eq!(default.unwrap_err().kind(), Kind::FailedPrecondition);
        assert_eq!(of(None, None, None, &host).unwrap(), None);
        assert_eq!(
            of(Some(&SeccompProfile::Unconfined), None, None, &host).unwrap(),
            None
        );
    }
}
