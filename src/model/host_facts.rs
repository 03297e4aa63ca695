//! What the spec must know about the node: gathered once by `sys`, read by pure code.

use std::path::PathBuf;

/// Properties of this node and of the containerd process that its containers descend from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Host name of the node.
    pub hostname: String,
    /// Which cgroup hierarchy holds the controllers.
    pub cgroup: CgroupVersion,
    /// Options of the superblock at `/sys/fs/cgroup`, where that is cgroup2; else empty.
    pub cgroup_superblock_options: Vec<String>,
    /// Running kernel.
    pub kernel: KernelVersion,
    /// Machine architecture.
    pub arch: Arch,
    /// The kernel can filter system calls.
    pub has_seccomp: bool,
    /// AppArmor is enabled and its parser installed.
    pub has_apparmor: bool,
    /// What SELinux' policy calls containers; `None` where SELinux is off, switched off for containers, or its policy
    /// knows none.
    pub selinux: Option<SelinuxContexts>,
    /// The memory controller can limit swap.
    pub has_swap_limit: bool,
    /// The huge page controller exists.
    pub has_hugetlb: bool,
    /// containerd itself runs in a user namespace.
    pub in_user_namespace: bool,
    /// Capabilities that containers can be given: the bounding set of the containerd process.
    pub capabilities: CapabilityMask,
    /// OOM score adjustment of the containerd process.
    pub oom_score_adj: i32,
}

impl HostFacts {
    /// Whether the kernel can make a mount read-only with everything below it (`mount_setattr`, Linux 5.12).
    pub fn has_recursive_read_only(&self) -> bool {
        self.kernel >= KernelVersion::new(5, 12)
    }

    /// The lowest OOM score adjustment that containers may be given: none where containerd may lower scores, else its own.
    pub fn lowest_oom_score_adj(&self) -> i32 {
        if self.capabilities.contains(CapabilityMask::SYS_RESOURCE) {
            -1000
        } else {
            self.oom_score_adj
        }
    }
}

/// The labels that SELinux' policy has for containers, as `lxc_contexts` writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelinuxContexts {
    /// Of processes.
    pub process: String,
    /// Of files.
    pub file: String,
    /// Of files that containers only read.
    pub read_only_file: String,
    /// Of the processes of virtual machines, where the policy has one of their own.
    pub vm_process: Option<String>,
}

impl SelinuxContexts {
    /// Reads lines of `key = "label"`; `None` where processes or files have none.
    pub fn parse(text: &str) -> Option<Self> {
        let of = |wanted: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once('=')?;
                let label = value.trim().trim_matches('"');
                let is_label = label.split(':').count() >= 4
                    && !label.contains(|c: char| c.is_control() || c == '"');
                (key.trim() == wanted && is_label).then(|| label.to_owned())
            })
        };
        let file = of("file")?;
        Some(Self {
            process: of("process")?,
            read_only_file: of("ro_file").unwrap_or_else(|| file.clone()),
            vm_process: of("kvm_process").or_else(|| of("sandbox_kvm_process")),
            file,
        })
    }
}

/// Which cgroup interface the controllers are on. A hybrid node counts as `V1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy a controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Who makes cgroups for the OCI runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime itself, in the file system.
    Cgroupfs,
    /// systemd, as scope units.
    Systemd,
}

/// `major.minor` of a Linux release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl KernelVersion {
    /// Names a version.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Reads the start of a release string such as `6.1.0-18-amd64`; `None` where it is no such string.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self::new(
            numbers.next()?.parse().ok()?,
            numbers.next()?.parse().ok()?,
        ))
    }
}

/// Architectures with a seccomp table of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
    /// Anything else: filtered for the native ABI only.
    Other,
}

impl Arch {
    /// The architecture that this program was built for.
    pub const fn native() -> Self {
        if cfg!(target_arch = "x86_64") {
            Self::Amd64
        } else if cfg!(target_arch = "aarch64") {
            Self::Arm64
        } else {
            Self::Other
        }
    }
}

/// A set of capabilities as the kernel prints it in `/proc/<pid>/status`: bit n is capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilityMask(pub u64);

impl CapabilityMask {
    /// Number of `CAP_SYS_RESOURCE`.
    pub const SYS_RESOURCE: u8 = 24;

    /// Whether capability number `bit` is in the set.
    pub fn contains(self, bit: u8) -> bool {
        1_u64
            .checked_shl(u32::from(bit))
            .is_some_and(|flag| self.0 & flag != 0)
    }
}

/// One device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Its path on the host, links resolved.
    pub path: PathBuf,
    /// What it is.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Types of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block device.
    Block,
    /// Character device.
    Char,
    /// Character device, as some device specifications call one without a buffer; never found on a host.
    Unbuffered,
    /// Named pipe; only where one was asked for by its path.
    Fifo,
}

/// Which peers the mount point that holds a path propagates with (`shared:`, `master:` in mountinfo).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePropagation {
    /// None.
    Private,
    /// Receives mounts only.
    Slave,
    /// Sends and receives; a slave that is shared as well counts as this.
    Shared,
}

/// What the text of the built-in AppArmor profile depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApparmorFacts {
    /// `/etc/apparmor.d/abi/3.0` exists.
    pub has_abi_3: bool,
    /// `/etc/apparmor.d/tunables/global` exists.
    pub has_tunables: bool,
    /// `/etc/apparmor.d/abstractions/base` exists.
    pub has_base: bool,
    /// The profile that containerd runs under: first word of its `/proc/<pid>/attr/current`; empty for none.
    pub containerd_profile: String,
    /// Path of `rootlesskit`, where it is on the search path.
    pub rootlesskit: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_parse_and_compare_by_number() {
        assert_eq!(
            KernelVersion::parse("6.1.0-18-amd64"),
            Some(KernelVersion::new(6, 1))
        );
        assert_eq!(
            KernelVersion::parse("5.12-rc1"),
            Some(KernelVersion::new(5, 12))
        );
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion::new(5, 4) < KernelVersion::new(5, 12));
    }

    #[test]
    fn a_bit_beyond_the_mask_is_not_in_it() {
        assert!(CapabilityMask(1 << 24).contains(CapabilityMask::SYS_RESOURCE));
        assert!(!CapabilityMask(u64::MAX).contains(64));
    }
}
