//! Security contexts: the pod's and the container's manifest fields to the CRI's, as kubelet sends them.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::defaults::{ContainerPlan, Plan};
use super::users;
use crate::model::{Error, Result};
use crate::wire::cri;
use crate::wire::cri::security_profile::ProfileType;

/// Hidden from containers unless `procMount: Unmasked` asks for them.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Readable only, likewise.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The user that an image names.
#[derive(Clone, Debug, Default)]
pub(super) struct ImageUser {
    pub(super) uid: Option<i64>,
    pub(super) name: String,
}

/// The namespaces that the pod's containers share with each other or with the node.
///
/// # Errors
/// `InvalidArgument` for namespaces that do not go together.
pub(super) fn namespaces(plan: &Plan) -> Result<cri::NamespaceOption> {
    let node = |host: Option<bool>, other: cri::NamespaceMode| {
        let mode = if host == Some(true) {
            cri::NamespaceMode::Node
        } else {
            other
        };
        i32::from(mode)
    };
    let pid = if plan.spec.share_process_namespace == Some(true) {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    Ok(cri::NamespaceOption {
        network: node(plan.spec.host_network, cri::NamespaceMode::Pod),
        ipc: node(plan.spec.host_ipc, cri::NamespaceMode::Pod),
        pid: node(plan.spec.host_pid, pid),
        userns_options: users::namespace(plan)?,
        ..Default::default()
    })
}

/// The sandbox's own context.
///
/// # Errors
/// `InvalidArgument` for words that are none of Kubernetes'.
pub(super) fn of_sandbox(plan: &Plan) -> Result<cri::LinuxSandboxSecurityContext> {
    let pod = plan.spec.security_context.clone().unwrap_or_default();
    let privileged = plan.containers.iter().any(|container| {
        let context = container.spec.security_context.as_ref();
        context.and_then(|context| context.privileged) == Some(true)
    });
    Ok(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(plan)?),
        selinux_options: pod.se_linux_options.as_ref().map(selinux),
        run_as_user: pod.run_as_user.map(value),
        run_as_group: pod.run_as_group.map(value),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod)?,
        privileged,
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        ..Default::default()
    })
}

/// A container's context. `seccomp_root` is where `Localhost` profiles lie.
///
/// # Errors
/// `InvalidArgument` for words that are none of Kubernetes', `FailedPrecondition` where `runAsNonRoot` forbids the
/// user.
pub(super) fn of_container(
    plan: &Plan,
    container: &ContainerPlan,
    image: &ImageUser,
    seccomp_root: &Path,
) -> Result<cri::LinuxContainerSecurityContext> {
    let pod = plan.spec.security_context.clone().unwrap_or_default();
    let own = container.spec.security_context.clone().unwrap_or_default();
    let asked = own.run_as_user.or(pod.run_as_user);
    check_non_root(&own, &pod, asked, image)?;
    let user = asked.or(image.uid);
    let masked = own.proc_mount.as_deref() != Some("Unmasked");
    let paths = |list: &[&str]| {
        let kept = if masked { list } else { &[] };
        kept.iter().map(|path| (*path).to_owned()).collect()
    };
    let seccomp = own.seccomp_profile.or(pod.seccomp_profile.clone());
    let apparmor = own.app_armor_profile.or(pod.app_armor_profile.clone());
    let selinux_options = own.se_linux_options.or(pod.se_linux_options.clone());
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(|asked| cri::Capability {
            add_capabilities: asked.add.unwrap_or_default(),
            drop_capabilities: asked.drop.unwrap_or_default(),
            ..Default::default()
        }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces(plan)?),
        selinux_options: selinux_options.as_ref().map(selinux),
        run_as_user: user.map(value),
        run_as_username: if user.is_none() {
            image.name.clone()
        } else {
            String::new()
        },
        run_as_group: own.run_as_group.or(pod.run_as_group).map(value),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(&pod),
        supplemental_groups_policy: groups_policy(&pod)?,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(match seccomp {
            Some(asked) => of_seccomp(&asked, seccomp_root)?,
            None => profile(ProfileType::Unconfined),
        }),
        apparmor: apparmor.as_ref().map(of_apparmor).transpose()?,
        ..Default::default()
    })
}

fn check_non_root(
    own: &SecurityContext,
    pod: &PodSecurityContext,
    asked: Option<i64>,
    image: &ImageUser,
) -> Result<()> {
    if own.run_as_non_root.or(pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let refused = match (asked, image.uid) {
        (Some(0), _) => "runAsNonRoot is set, but runAsUser is 0",
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => "runAsNonRoot is set, but the image runs as root; set runAsUser",
        (None, Some(_)) => return Ok(()),
        (None, None) if image.name.is_empty() => {
            "runAsNonRoot is set, but the image names no user and so runs as root; set runAsUser"
        }
        (None, None) => {
            "runAsNonRoot is set, but the image names its user by word, not number; set runAsUser"
        }
    };
    Err(Error::precondition(refused))
}

/// The groups of every process; `fsGroup`, which owns the volumes, is one of them.
fn groups(pod: &PodSecurityContext) -> Vec<i64> {
    let mut groups = pod.supplemental_groups.clone().unwrap_or_default();
    groups.extend(pod.fs_group);
    groups
}

fn groups_policy(pod: &PodSecurityContext) -> Result<i32> {
    Ok(match pod.supplemental_groups_policy.as_deref() {
        None | Some("Merge") => cri::SupplementalGroupsPolicy::Merge.into(),
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict.into(),
        Some(other) => return Err(unknown("supplementalGroupsPolicy", other)),
    })
}

fn of_seccomp(asked: &SeccompProfile, root: &Path) -> Result<cri::SecurityProfile> {
    Ok(match asked.type_.as_str() {
        "RuntimeDefault" => profile(ProfileType::RuntimeDefault),
        "Unconfined" => profile(ProfileType::Unconfined),
        "Localhost" => {
            let name = asked.localhost_profile.clone().unwrap_or_default();
            if name.is_empty() || name.starts_with('/') || name.split('/').any(|part| part == "..")
            {
                return Err(Error::invalid(format!(
                    "seccompProfile: localhostProfile {name:?} is no path below {}",
                    root.display()
                )));
            }
            cri::SecurityProfile {
                profile_type: ProfileType::Localhost.into(),
                localhost_ref: super::dirs::text(&root.join(name)),
            }
        }
        other => return Err(unknown("seccompProfile.type", other)),
    })
}

fn of_apparmor(asked: &AppArmorProfile) -> Result<cri::SecurityProfile> {
    Ok(match asked.type_.as_str() {
        "RuntimeDefault" => profile(ProfileType::RuntimeDefault),
        "Unconfined" => profile(ProfileType::Unconfined),
        "Localhost" => cri::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: asked.localhost_profile.clone().unwrap_or_default(),
        },
        other => return Err(unknown("appArmorProfile.type", other)),
    })
}

fn profile(kind: ProfileType) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: String::new(),
    }
}

fn selinux(options: &SELinuxOptions) -> cri::SeLinuxOption {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    cri::SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn value(value: i64) -> cri::Int64Value {
    cri::Int64Value { value }
}

fn unknown(field: &str, word: &str) -> Error {
    Error::invalid(format!("{field}: {word:?} is none of Kubernetes' values"))
}
