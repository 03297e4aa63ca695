//! The pod's part of a manifest to the CRI's sandbox configuration: a pure function.

use std::collections::BTreeMap;

use super::defaults::Plan;
use super::dirs::{Dirs, text};
use super::security;
use crate::model::{Error, Result};
use crate::wire::cri;

/// Labels by which kubelet, and every tool after it, finds a pod's objects.
pub(super) const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub(super) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid.
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";

/// The longest name a host may have.
const HOSTNAME_MAX: usize = 63;

/// The labels that all of the pod's objects carry.
pub(super) fn identity(plan: &Plan) -> BTreeMap<String, String> {
    BTreeMap::from([
        (POD_NAME.into(), plan.name.clone()),
        (POD_NAMESPACE.into(), plan.k8s_namespace.clone()),
        (POD_UID.into(), plan.uid.clone()),
    ])
}

/// The sandbox configuration of `plan`. `host_dns` is the node's resolv.conf.
///
/// # Errors
/// `InvalidArgument` for words and ports that are none.
pub(super) fn sandbox_config(
    plan: &Plan,
    attempt: u32,
    dirs: &Dirs,
    cgroup_parent: &str,
    host_dns: &str,
) -> Result<cri::PodSandboxConfig> {
    let mut labels = plan.labels.clone();
    labels.extend(identity(plan));
    let pod = plan.spec.security_context.as_ref();
    let sysctls = pod.and_then(|pod| pod.sysctls.as_ref());
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: plan.name.clone(),
            uid: plan.uid.clone(),
            namespace: plan.k8s_namespace.clone(),
            attempt,
        }),
        hostname: if plan.spec.host_network == Some(true) {
            String::new()
        } else {
            hostname(plan)
        },
        log_directory: text(&dirs.log_directory(plan)),
        dns_config: Some(dns(plan, host_dns)?),
        port_mappings: ports(plan)?,
        labels,
        annotations: plan.annotations.clone(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent.to_owned(),
            security_context: Some(security::of_sandbox(plan)?),
            sysctls: sysctls
                .into_iter()
                .flatten()
                .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
                .collect(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// The pod's own host name.
pub(super) fn hostname(plan: &Plan) -> String {
    let asked = plan.spec.hostname.as_deref().unwrap_or_default();
    let name = if asked.is_empty() { &plan.name } else { asked };
    let short: String = name.chars().take(HOSTNAME_MAX).collect();
    short.trim_end_matches(['-', '.']).to_owned()
}

fn ports(plan: &Plan) -> Result<Vec<cri::PortMapping>> {
    let mut mappings = Vec::new();
    let declared = plan
        .containers
        .iter()
        .flat_map(|container| container.spec.ports.iter().flatten());
    for port in declared {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => cri::Protocol::Tcp,
            Some("UDP") => cri::Protocol::Udp,
            Some("SCTP") => cri::Protocol::Sctp,
            Some(other) => {
                return Err(Error::invalid(format!(
                    "ports: the protocol {other:?} is none of TCP, UDP and SCTP"
                )));
            }
        };
        let host_port = port.host_port.unwrap_or(0);
        if !(1..=65_535).contains(&port.container_port) || !(0..=65_535).contains(&host_port) {
            return Err(Error::invalid(format!(
                "ports: {} and {host_port} are to lie between 1 and 65535",
                port.container_port
            )));
        }
        mappings.push(cri::PortMapping {
            protocol: protocol.into(),
            container_port: port.container_port,
            host_port,
            host_ip: port.host_ip.clone().unwrap_or_default(),
        });
    }
    Ok(mappings)
}

/// Name servers: the node's unless the policy is `None`, with what the pod adds. Without a cluster, `ClusterFirst`
/// means the node's, as it does to a kubelet that knows no cluster DNS.
fn dns(plan: &Plan, host_dns: &str) -> Result<cri::DnsConfig> {
    let mut found = match plan.spec.dns_policy.as_deref() {
        None | Some("ClusterFirst" | "ClusterFirstWithHostNet" | "Default") => {
            resolv_conf(host_dns)
        }
        Some("None") => cri::DnsConfig::default(),
        Some(other) => {
            return Err(Error::invalid(format!(
                "dnsPolicy: {other:?} is none of Kubernetes' values"
            )));
        }
    };
    let Some(own) = &plan.spec.dns_config else {
        return Ok(found);
    };
    let add = |list: &mut Vec<String>, more: &Option<Vec<String>>| {
        for item in more.iter().flatten() {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    };
    add(&mut found.servers, &own.nameservers);
    add(&mut found.searches, &own.searches);
    for option in own.options.iter().flatten() {
        let name = option.name.as_deref().unwrap_or_default();
        let prefix = format!("{name}:");
        found
            .options
            .retain(|old| old != name && !old.starts_with(&prefix));
        found.options.push(match &option.value {
            Some(value) => format!("{prefix}{value}"),
            None => name.to_owned(),
        });
    }
    Ok(found)
}

fn resolv_conf(text: &str) -> cri::DnsConfig {
    let mut found = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next();
        let values = words.map(str::to_owned);
        match keyword {
            Some("nameserver") => found.servers.extend(values.take(1)),
            Some("search" | "domain") => found.searches = values.collect(),
            Some("options") => found.options = values.collect(),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::testing::plan;

    #[test]
    fn a_pod_becomes_a_sandbox_configuration() {
        let mut plan = plan(
            "hostPID: true
hostname: front
securityContext: {runAsUser: 7, fsGroup: 9, sysctls: [{name: net/ipv4/ip_forward, value: '1'}]}
dnsConfig: {nameservers: [1.1.1.1], options: [{name: ndots, value: '5'}]}
containers: [{name: a, image: i, ports: [{containerPort: 80, hostPort: 8888}, {containerPort: 53, protocol: UDP}]}]",
        );
        plan.uid = "u-1".into();
        let host = "nameserver 9.9.9.9\nsearch lan\noptions ndots:1 edns0\n";

        let config = sandbox_config(&plan, 2, &Dirs::default(), "/parent", host).unwrap();

        insta::assert_json_snapshot!(config);
    }

    #[test]
    fn a_pod_on_the_nodes_network_has_no_host_name_of_its_own() {
        let plan = plan("hostNetwork: true\ncontainers: [{name: a, image: i}]");

        let config = sandbox_config(&plan, 0, &Dirs::default(), "", "").unwrap();

        assert_eq!(config.hostname, "");
        assert_eq!(
            namespaces_of(&config).network,
            i32::from(cri::NamespaceMode::Node)
        );
    }

    fn namespaces_of(config: &cri::PodSandboxConfig) -> cri::NamespaceOption {
        let linux = config.linux.clone().unwrap();
        linux.security_context.unwrap().namespace_options.unwrap()
    }
}
