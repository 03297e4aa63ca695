//! The configuration of a container.

use crate::model::container::{Capabilities, ContainerSecurity};
use crate::model::security::{Namespaces, SelinuxOptions};
use crate::model::{ContainerConfig, ContainerIdentity, Context, Error, Resources, Result};
use crate::wire::cri;

use super::check::{
    MAX_ARG, MAX_ARGS, MAX_ENV_ENTRIES, MAX_LIST, MAX_NAME, MAX_REFERENCE, absolute,
    absolute_or_empty, annotations, count, labels, name, no_nul, plain, refuse, relative_or_empty,
    shown, size,
};
use super::mounts::{cdi_devices, devices, mounts};
use super::security::{apparmor, groups, groups_policy, optional_id, seccomp};
use super::signal::stop_signal;

impl TryFrom<cri::ContainerConfig> for ContainerConfig {
    type Error = Error;

    fn try_from(message: cri::ContainerConfig) -> Result<Self> {
        let Some(metadata) = message.metadata else {
            return refuse("metadata", "the container's name");
        };
        let image = message.image.unwrap_or_default();
        image_name("image: image", &image.image)?;
        if image.image.is_empty() {
            return refuse("image: image", "the image to run");
        }
        image_name("image: user_specified_image", &image.user_specified_image)?;
        arguments(&message.command, &message.args)?;
        absolute_or_empty("working_dir", &message.working_dir)?;
        labels(&message.labels)?;
        annotations(&message.annotations)?;
        relative_or_empty("log_path", &message.log_path)?;
        let linux = message.linux.unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        Ok(Self {
            identity: ContainerIdentity::try_from(metadata).context(|| "metadata".to_owned())?,
            image: image.image,
            user_specified_image: image.user_specified_image,
            command: message.command,
            args: message.args,
            working_dir: message.working_dir,
            envs: environment(message.envs)?,
            mounts: mounts(message.mounts)?,
            devices: devices(message.devices)?,
            cdi_devices: cdi_devices(message.cdi_devices)?,
            labels: message.labels,
            annotations: message.annotations,
            log_path: message.log_path,
            stdin: message.stdin,
            stdin_once: message.stdin_once,
            tty: message.tty,
            resources: linux
                .resources
                .map(Resources::try_from)
                .transpose()
                .context(|| "linux.resources".to_owned())?,
            security: ContainerSecurity::try_from(security)
                .context(|| "linux.security_context".to_owned())?,
            stop_signal: stop_signal(message.stop_signal)?,
        })
    }
}

impl TryFrom<cri::ContainerMetadata> for ContainerIdentity {
    type Error = Error;

    fn try_from(message: cri::ContainerMetadata) -> Result<Self> {
        name("name", &message.name, MAX_NAME)?;
        Ok(Self {
            name: message.name,
            attempt: message.attempt,
        })
    }
}

impl From<&ContainerIdentity> for cri::ContainerMetadata {
    fn from(identity: &ContainerIdentity) -> Self {
        Self {
            name: identity.name.clone(),
            attempt: identity.attempt,
        }
    }
}

fn image_name(field: &str, text: &str) -> Result<()> {
    size(field, text.len(), MAX_REFERENCE)?;
    plain(field, text)
}

/// Command and arguments as the kernel will count them, each with its NUL.
fn arguments(command: &[String], args: &[String]) -> Result<()> {
    let mut total = 0_usize;
    for (field, list) in [("command", command), ("args", args)] {
        for (at, text) in list.iter().enumerate() {
            let bytes = text.len().saturating_add(1);
            if bytes > MAX_ARG {
                return size(&format!("{field}[{at}]"), bytes, MAX_ARG);
            }
            no_nul(field, text)?;
            total = total.saturating_add(bytes);
        }
    }
    size("command and args together", total, MAX_ARGS)
}

/// The environment, in order. What is not UTF-8 becomes U+FFFD, as it must in the OCI spec, which is JSON.
fn environment(messages: Vec<cri::KeyValue>) -> Result<Vec<(String, String)>> {
    count("envs", messages.len(), MAX_ENV_ENTRIES)?;
    let mut envs = Vec::with_capacity(messages.len());
    let mut total = 0_usize;
    for cri::KeyValue { key, value } in messages {
        // `key=value` and its NUL.
        let bytes = key.len().saturating_add(value.len()).saturating_add(2);
        total = total.saturating_add(bytes);
        if bytes > MAX_ARG {
            size(&format!("envs[{}]", shown(&key)), bytes, MAX_ARG)?;
        }
        if key.is_empty() || key.contains(['=', '\0']) {
            return refuse(
                "envs: key",
                format_args!("a name without '=' and NUL, got {}", shown(&key)),
            );
        }
        let value = String::from_utf8(value)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        if value.contains('\0') {
            return refuse(
                &format!("envs[{}]", shown(&key)),
                "no NUL byte in the value",
            );
        }
        envs.push((key, value));
    }
    size("envs", total, MAX_ARGS)?;
    Ok(envs)
}

impl TryFrom<cri::LinuxContainerSecurityContext> for ContainerSecurity {
    type Error = Error;

    fn try_from(message: cri::LinuxContainerSecurityContext) -> Result<Self> {
        #[expect(deprecated, reason = "older kubelets send the profiles as strings")]
        let (older_seccomp, older_apparmor) =
            (message.seccomp_profile_path, message.apparmor_profile);
        let run_as_user = optional_id("run_as_user", message.run_as_user)?;
        let run_as_group = optional_id("run_as_group", message.run_as_group)?;
        size("run_as_username", message.run_as_username.len(), MAX_NAME)?;
        plain("run_as_username", &message.run_as_username)?;
        if message.run_as_username.contains(':') {
            return refuse("run_as_username", "a name without ':'");
        }
        if run_as_group.is_some() && run_as_user.is_none() && message.run_as_username.is_empty() {
            return refuse("run_as_group", "run_as_user or run_as_username beside it");
        }
        Ok(Self {
            capabilities: message
                .capabilities
                .map(Capabilities::try_from)
                .transpose()
                .context(|| "capabilities".to_owned())?,
            privileged: message.privileged,
            namespaces: Namespaces::try_from(message.namespace_options.unwrap_or_default())
                .context(|| "namespace_options".to_owned())?,
            selinux: message
                .selinux_options
                .map(SelinuxOptions::try_from)
                .transpose()
                .context(|| "selinux_options".to_owned())?,
            run_as_user,
            run_as_group,
            run_as_username: message.run_as_username,
            readonly_rootfs: message.readonly_rootfs,
            supplemental_groups: groups(&message.supplemental_groups)?,
            supplemental_groups_policy: groups_policy(message.supplemental_groups_policy)?,
            no_new_privs: message.no_new_privs,
            masked_paths: paths("masked_paths", message.masked_paths)?,
            readonly_paths: paths("readonly_paths", message.readonly_paths)?,
            seccomp: seccomp(message.seccomp, &older_seccomp)?,
            apparmor: apparmor(message.apparmor, &older_apparmor)?,
        })
    }
}

fn paths(field: &str, list: Vec<String>) -> Result<Vec<String>> {
    count(field, list.len(), MAX_LIST)?;
    list.iter().try_for_each(|path| absolute(field, path))?;
    Ok(list)
}

/// Every capability of Linux up to 6.12, without its prefix.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

impl TryFrom<cri::Capability> for Capabilities {
    type Error = Error;

    fn try_from(message: cri::Capability) -> Result<Self> {
        Ok(Self {
            add: capabilities("add_capabilities", message.add_capabilities)?,
            drop: capabilities("drop_capabilities", message.drop_capabilities)?,
            add_ambient: capabilities(
                "add_ambient_capabilities",
                message.add_ambient_capabilities,
            )?,
        })
    }
}

/// Names in any case, with or without `CAP_`, as upper case without it.
fn capabilities(field: &str, names: Vec<String>) -> Result<Vec<String>> {
    count(field, names.len(), MAX_LIST)?;
    let one = |name: String| {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if plain == "ALL" || CAPABILITIES.contains(&plain) {
            return Ok(plain.to_owned());
        }
        refuse(
            field,
            format_args!(
                "capabilities such as NET_ADMIN, or ALL, got {}",
                shown(&name)
            ),
        )
    };
    names.into_iter().map(one).collect()
}
