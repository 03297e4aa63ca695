//! The configuration of a pod sandbox.

use std::net::IpAddr;

use crate::model::pod::{DnsConfig, PodSecurity, PortMapping, PortProtocol};
use crate::model::security::{NamespaceMode, Namespaces, SelinuxOptions};
use crate::model::{Context, Error, PodConfig, PodIdentity, Resources, Result};
use crate::wire::cri;

use super::check::{
    MAX_LIST, MAX_NAME, MAX_PATH, MAX_UID, absolute_or_empty, annotations, count, known, labels,
    name, no_parent, plain, refuse, shown, size,
};
use super::security::{groups, groups_policy, optional_id, seccomp};
use super::sysctls::sysctls;

const MAX_HOSTNAME: usize = 64;
const MAX_DNS_LABEL: usize = 63;
const MAX_DNS_TOKEN: usize = 254;
const MAX_DNS_ENTRIES: usize = 32;
const MAX_SEARCHES: usize = 2048;

impl TryFrom<cri::PodSandboxConfig> for PodConfig {
    type Error = Error;

    fn try_from(message: cri::PodSandboxConfig) -> Result<Self> {
        let Some(metadata) = message.metadata else {
            return refuse("metadata", "the pod's name, namespace and uid");
        };
        let linux = message.linux.unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let security =
            PodSecurity::try_from(security).context(|| "linux.security_context".to_owned())?;
        let sums = |field: &'static str, message: Option<cri::LinuxContainerResources>| {
            message
                .map(Resources::try_from)
                .transpose()
                .context(|| format!("linux.{field}"))
        };
        absolute_or_empty("log_directory", &message.log_directory)?;
        plain("log_directory", &message.log_directory)?;
        no_parent("log_directory", &message.log_directory)?;
        size("linux.cgroup_parent", linux.cgroup_parent.len(), MAX_PATH)?;
        plain("linux.cgroup_parent", &linux.cgroup_parent)?;
        no_parent("linux.cgroup_parent", &linux.cgroup_parent)?;
        hostname(&message.hostname)?;
        labels(&message.labels)?;
        annotations(&message.annotations)?;
        count("port_mappings", message.port_mappings.len(), MAX_LIST)?;
        Ok(Self {
            identity: PodIdentity::try_from(metadata).context(|| "metadata".to_owned())?,
            hostname: message.hostname,
            log_directory: message.log_directory,
            dns: message
                .dns_config
                .map(DnsConfig::try_from)
                .transpose()
                .context(|| "dns_config".to_owned())?,
            port_mappings: message
                .port_mappings
                .into_iter()
                .map(PortMapping::try_from)
                .collect::<Result<_>>()
                .context(|| "port_mappings".to_owned())?,
            labels: message.labels,
            annotations: message.annotations,
            cgroup_parent: linux.cgroup_parent,
            sysctls: sysctls(linux.sysctls, &security.namespaces).context(|| "linux".to_owned())?,
            security,
            resources: sums("resources", linux.resources)?,
            overhead: sums("overhead", linux.overhead)?,
        })
    }
}

impl TryFrom<cri::PodSandboxMetadata> for PodIdentity {
    type Error = Error;

    fn try_from(message: cri::PodSandboxMetadata) -> Result<Self> {
        name("name", &message.name, MAX_NAME)?;
        name("namespace", &message.namespace, MAX_NAME)?;
        name("uid", &message.uid, MAX_UID)?;
        Ok(Self {
            name: message.name,
            k8s_namespace: message.namespace,
            uid: message.uid,
            attempt: message.attempt,
        })
    }
}

impl From<&PodIdentity> for cri::PodSandboxMetadata {
    fn from(identity: &PodIdentity) -> Self {
        Self {
            name: identity.name.clone(),
            uid: identity.uid.clone(),
            namespace: identity.k8s_namespace.clone(),
            attempt: identity.attempt,
        }
    }
}

impl TryFrom<cri::LinuxSandboxSecurityContext> for PodSecurity {
    type Error = Error;

    fn try_from(message: cri::LinuxSandboxSecurityContext) -> Result<Self> {
        #[expect(deprecated, reason = "older kubelets send the profile as a string")]
        let older_seccomp = message.seccomp_profile_path;
        let namespaces = message.namespace_options.unwrap_or_default();
        let namespaces =
            Namespaces::try_from(namespaces).context(|| "namespace_options".to_owned())?;
        if namespaces.pid == NamespaceMode::Target {
            return refuse(
                "namespace_options: pid",
                "POD, CONTAINER or NODE for a sandbox, got TARGET",
            );
        }
        let run_as_user = optional_id("run_as_user", message.run_as_user)?;
        let run_as_group = optional_id("run_as_group", message.run_as_group)?;
        if run_as_group.is_some() && run_as_user.is_none() {
            return refuse("run_as_group", "run_as_user beside it");
        }
        Ok(Self {
            namespaces,
            selinux: message
                .selinux_options
                .map(SelinuxOptions::try_from)
                .transpose()
                .context(|| "selinux_options".to_owned())?,
            run_as_user,
            run_as_group,
            supplemental_groups: groups(&message.supplemental_groups)?,
            supplemental_groups_policy: groups_policy(message.supplemental_groups_policy)?,
            readonly_rootfs: message.readonly_rootfs,
            privileged: message.privileged,
            seccomp: seccomp(message.seccomp, &older_seccomp)?,
        })
    }
}

/// A host name as RFC 1123 has it, or nothing.
fn hostname(text: &str) -> Result<()> {
    size("hostname", text.len(), MAX_HOSTNAME)?;
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.len() <= MAX_DNS_LABEL
            && alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    if text.is_empty() || text.split('.').all(label) {
        return Ok(());
    }
    refuse(
        "hostname",
        format_args!("an RFC 1123 host name, got {}", shown(text)),
    )
}

impl TryFrom<cri::DnsConfig> for DnsConfig {
    type Error = Error;

    fn try_from(message: cri::DnsConfig) -> Result<Self> {
        for (field, list) in [
            ("servers", &message.servers),
            ("searches", &message.searches),
            ("options", &message.options),
        ] {
            count(field, list.len(), MAX_DNS_ENTRIES)?;
            list.iter().try_for_each(|token| dns_token(field, token))?;
        }
        let searches = message.searches.iter().map(String::len).sum();
        size("searches", searches, MAX_SEARCHES)?;
        Ok(Self {
            servers: message.servers,
            searches: message.searches,
            options: message.options,
        })
    }
}

/// One word of resolv.conf: no blanks, which separate words there, and no more than a domain name holds.
fn dns_token(field: &str, token: &str) -> Result<()> {
    size(field, token.len(), MAX_DNS_TOKEN)?;
    plain(field, token)?;
    if token.is_empty() || token.contains(char::is_whitespace) {
        return refuse(
            field,
            format_args!("one word an entry, got {}", shown(token)),
        );
    }
    if token.split('.').any(|label| label.len() > MAX_DNS_LABEL) {
        return refuse(
            field,
            format_args!(
                "labels of at most {MAX_DNS_LABEL} bytes, got {}",
                shown(token)
            ),
        );
    }
    Ok(())
}

impl TryFrom<cri::PortMapping> for PortMapping {
    type Error = Error;

    fn try_from(message: cri::PortMapping) -> Result<Self> {
        let port = |field: &str, number: i32| {
            u16::try_from(number)
                .or_else(|_outside| refuse(field, format_args!("0 to 65535, got {number}")))
        };
        if !message.host_ip.is_empty() && message.host_ip.parse::<IpAddr>().is_err() {
            return refuse(
                "host_ip",
                format_args!("an IP address, got {}", shown(&message.host_ip)),
            );
        }
        let host_port = port("host_port", message.host_port)?;
        Ok(Self {
            protocol: match known("protocol", message.protocol)? {
                cri::Protocol::Tcp => PortProtocol::Tcp,
                cri::Protocol::Udp => PortProtocol::Udp,
                cri::Protocol::Sctp => PortProtocol::Sctp,
            },
            container_port: port("container_port", message.container_port)?,
            host_port: (host_port != 0).then_some(host_port),
            host_ip: message.host_ip,
        })
    }
}
