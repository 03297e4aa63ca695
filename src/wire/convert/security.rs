//! What pods and containers have in common: namespaces, ids, profiles, labels.

use cri::security_profile::ProfileType;

use crate::model::security::{
    ApparmorProfile, IdMapping, NamespaceMode, Namespaces, SeccompProfile, SelinuxOptions,
    SupplementalGroupsPolicy, UserNamespace,
};
use crate::model::{Context, Error, Result};
use crate::wire::cri;

use super::check::{
    MAX_GROUPS, MAX_ID, MAX_PATH, absolute, count, known, plain, refuse, shown, size,
};

/// Mappings that the kernel takes for one namespace.
const MAX_MAPPINGS: usize = 340;
const LOCALHOST: &str = "localhost/";

impl From<cri::NamespaceMode> for NamespaceMode {
    fn from(mode: cri::NamespaceMode) -> Self {
        match mode {
            cri::NamespaceMode::Pod => Self::Pod,
            cri::NamespaceMode::Container => Self::Container,
            cri::NamespaceMode::Node => Self::Node,
            cri::NamespaceMode::Target => Self::Target,
        }
    }
}

impl From<NamespaceMode> for cri::NamespaceMode {
    fn from(mode: NamespaceMode) -> Self {
        match mode {
            NamespaceMode::Pod => Self::Pod,
            NamespaceMode::Container => Self::Container,
            NamespaceMode::Node => Self::Node,
            NamespaceMode::Target => Self::Target,
        }
    }
}

fn mode(field: &str, number: i32) -> Result<NamespaceMode> {
    known::<cri::NamespaceMode>(field, number).map(Into::into)
}

/// Network and IPC namespaces are the pod's or the node's, never a container's.
fn pod_or_node(field: &str, number: i32) -> Result<NamespaceMode> {
    match mode(field, number)? {
        found @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(found),
        other => refuse(field, format_args!("POD or NODE, got {other:?}")),
    }
}

impl TryFrom<cri::NamespaceOption> for Namespaces {
    type Error = Error;

    fn try_from(message: cri::NamespaceOption) -> Result<Self> {
        let pid = mode("pid", message.pid)?;
        size("target_id", message.target_id.len(), 64)?;
        if pid == NamespaceMode::Target && message.target_id.is_empty() {
            return refuse("target_id", "a container's id, since pid is TARGET");
        }
        Ok(Self {
            network: pod_or_node("network", message.network)?,
            pid,
            ipc: pod_or_node("ipc", message.ipc)?,
            target_id: message.target_id,
            user: message
                .userns_options
                .map(UserNamespace::try_from)
                .transpose()
                .context(|| "userns_options".to_owned())?,
        })
    }
}

impl From<&Namespaces> for cri::NamespaceOption {
    fn from(namespaces: &Namespaces) -> Self {
        let number = |mode: NamespaceMode| cri::NamespaceMode::from(mode).into();
        Self {
            network: number(namespaces.network),
            pid: number(namespaces.pid),
            ipc: number(namespaces.ipc),
            target_id: namespaces.target_id.clone(),
            userns_options: namespaces.user.as_ref().map(|user| cri::UserNamespace {
                mode: number(user.mode),
                uids: user.uids.iter().copied().map(Into::into).collect(),
                gids: user.gids.iter().copied().map(Into::into).collect(),
            }),
        }
    }
}

impl TryFrom<cri::UserNamespace> for UserNamespace {
    type Error = Error;

    fn try_from(message: cri::UserNamespace) -> Result<Self> {
        let mode = pod_or_node("mode", message.mode)?;
        let wanted = usize::from(mode == NamespaceMode::Pod);
        for (field, mappings) in [("uids", &message.uids), ("gids", &message.gids)] {
            if mappings.len() != wanted {
                let got = mappings.len();
                return refuse(
                    field,
                    format_args!("{wanted} mappings with mode {mode:?}, got {got}"),
                );
            }
        }
        Ok(Self {
            mode,
            uids: mappings("uids", message.uids)?,
            gids: mappings("gids", message.gids)?,
        })
    }
}

/// Ranges of ids, each of at least one and none past the last id there is.
pub(super) fn mappings(field: &str, messages: Vec<cri::IdMapping>) -> Result<Vec<IdMapping>> {
    count(field, messages.len(), MAX_MAPPINGS)?;
    let fits = |first: u32, length: u32| length > 0 && first.checked_add(length).is_some();
    for mapping in &messages {
        if !fits(mapping.host_id, mapping.length) || !fits(mapping.container_id, mapping.length) {
            return refuse(
                field,
                format_args!("a range of 32-bit ids, got {mapping:?}"),
            );
        }
    }
    let typed = |mapping: cri::IdMapping| IdMapping {
        host_id: mapping.host_id,
        container_id: mapping.container_id,
        length: mapping.length,
    };
    Ok(messages.into_iter().map(typed).collect())
}

impl From<IdMapping> for cri::IdMapping {
    fn from(mapping: IdMapping) -> Self {
        Self {
            host_id: mapping.host_id,
            container_id: mapping.container_id,
            length: mapping.length,
        }
    }
}

/// A user or group id. Larger ones would wrap to others in parts of the stack.
fn id(field: &str, number: i64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if number <= MAX_ID => Ok(id),
        _ => refuse(field, format_args!("0 to {MAX_ID}, got {number}")),
    }
}

/// The same, where it may be absent.
pub(super) fn optional_id(field: &str, message: Option<cri::Int64Value>) -> Result<Option<u32>> {
    message.map(|message| id(field, message.value)).transpose()
}

pub(super) fn groups(numbers: &[i64]) -> Result<Vec<u32>> {
    count("supplemental_groups", numbers.len(), MAX_GROUPS)?;
    numbers
        .iter()
        .map(|number| id("supplemental_groups", *number))
        .collect()
}

pub(super) fn groups_policy(number: i32) -> Result<SupplementalGroupsPolicy> {
    Ok(match known("supplemental_groups_policy", number)? {
        cri::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
    })
}

/// A profile in either of its spellings, before it is known what it is for.
enum Profile {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

fn from_message(message: cri::SecurityProfile) -> Result<Profile> {
    let kind: ProfileType = known("profile_type", message.profile_type)?;
    match (kind, message.localhost_ref.as_str()) {
        (ProfileType::RuntimeDefault, "") => Ok(Profile::RuntimeDefault),
        (ProfileType::Unconfined, "") => Ok(Profile::Unconfined),
        (ProfileType::Localhost, "") => {
            refuse("localhost_ref", "a profile, since the type is Localhost")
        }
        (ProfileType::Localhost, profile) => Ok(localhost(profile)),
        (_, profile) => refuse(
            "localhost_ref",
            format_args!(
                "nothing, since the type is not Localhost, got {}",
                shown(profile)
            ),
        ),
    }
}

/// The older spelling, one string for all.
fn from_text(text: &str) -> Result<Option<Profile>> {
    Ok(Some(match text {
        "" => return Ok(None),
        "runtime/default" | "docker/default" => Profile::RuntimeDefault,
        "unconfined" => Profile::Unconfined,
        other if other.len() > LOCALHOST.len() && other.starts_with(LOCALHOST) => localhost(other),
        other => {
            let want = "runtime/default, docker/default, unconfined or localhost/ and a profile";
            return Err(Error::invalid(format!("want {want}, got {}", shown(other))));
        }
    }))
}

fn localhost(text: &str) -> Profile {
    Profile::Localhost(text.strip_prefix(LOCALHOST).unwrap_or(text).to_owned())
}

fn profile(
    field: &str,
    message: Option<cri::SecurityProfile>,
    older_field: &str,
    older: &str,
) -> Result<Option<Profile>> {
    match message {
        Some(message) => from_message(message).map(Some).context(|| field.to_owned()),
        None => from_text(older).context(|| older_field.to_owned()),
    }
}

/// Absent in both spellings is unconfined.
pub(super) fn seccomp(
    message: Option<cri::SecurityProfile>,
    older: &str,
) -> Result<Option<SeccompProfile>> {
    Ok(
        match profile("seccomp", message, "seccomp_profile_path", older)? {
            None => None,
            Some(Profile::RuntimeDefault) => Some(SeccompProfile::RuntimeDefault),
            Some(Profile::Unconfined) => Some(SeccompProfile::Unconfined),
            Some(Profile::Localhost(path)) => {
                absolute("seccomp: localhost_ref", &path)?;
                Some(SeccompProfile::Localhost(path))
            }
        },
    )
}

/// Absent in both spellings is the runtime's default.
pub(super) fn apparmor(
    message: Option<cri::SecurityProfile>,
    older: &str,
) -> Result<Option<ApparmorProfile>> {
    Ok(
        match profile("apparmor", message, "apparmor_profile", older)? {
            None => None,
            Some(Profile::RuntimeDefault) => Some(ApparmorProfile::RuntimeDefault),
            Some(Profile::Unconfined) => Some(ApparmorProfile::Unconfined),
            Some(Profile::Localhost(name)) => {
                size("apparmor: localhost_ref", name.len(), MAX_PATH)?;
                plain("apparmor: localhost_ref", &name)?;
                Some(ApparmorProfile::Localhost(name))
            }
        },
    )
}

impl TryFrom<cri::SeLinuxOption> for SelinuxOptions {
    type Error = Error;

    fn try_from(message: cri::SeLinuxOption) -> Result<Self> {
        for (field, part) in [
            ("user", &message.user),
            ("role", &message.role),
            ("type", &message.r#type),
        ] {
            size(field, part.len(), 255)?;
            let safe =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            if !part.bytes().all(safe) {
                return refuse(
                    field,
                    format_args!("a part of an SELinux label, got {}", shown(part)),
                );
            }
        }
        size("level", message.level.len(), 4096)?;
        if !message.level.is_empty() && !is_level(&message.level) {
            return refuse(
                "level",
                format_args!("a level such as s0:c1,c2, got {}", shown(&message.level)),
            );
        }
        Ok(Self {
            user: message.user,
            role: message.role,
            selinux_type: message.r#type,
            level: message.level,
        })
    }
}

/// A sensitivity or a range of two, then optionally categories: single ones and ranges.
fn is_level(level: &str) -> bool {
    let (sensitivity, categories) = match level.split_once(':') {
        Some((sensitivity, categories)) => (sensitivity, Some(categories)),
        None => (level, None),
    };
    let number = |text: &str, letter: char, digits: usize| {
        text.strip_prefix(letter).is_some_and(|rest| {
            (1..=digits).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let range = |text: &str, mark: char, letter: char, digits: usize| match text.split_once(mark) {
        Some((first, last)) => number(first, letter, digits) && number(last, letter, digits),
        None => number(text, letter, digits),
    };
    range(sensitivity, '-', 's', 1)
        && categories.is_none_or(|list| list.split(',').all(|part| range(part, '.', 'c', 4)))
}
