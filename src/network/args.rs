//! What a pod tells plugins about itself: CNI_ARGS and the capability arguments.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::bandwidth;
use super::conflist::PluginConfig;
use crate::model::pod::{PodConfig, PodIdentity, PortProtocol};
use crate::model::{Error, Result, SandboxId};

/// Capability arguments by capability.
pub(super) type Capabilities = BTreeMap<String, Value>;

/// The pairs of CNI_ARGS.
///
/// # Errors
/// `InvalidArgument` where a value holds what separates pairs, or a control character: plugins could not tell the value
/// from further pairs.
pub(super) fn pairs(sandbox: &SandboxId, pod: &PodIdentity) -> Result<Vec<(String, String)>> {
    let pairs = [
        ("K8S_POD_NAMESPACE", pod.k8s_namespace.as_str()),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", sandbox.as_str()),
        ("K8S_POD_UID", &pod.uid),
        ("IgnoreUnknown", "1"),
    ];
    if let Some((key, _)) = pairs.iter().find(|(_, value)| !is_plain(value)) {
        return Err(Error::invalid(format!(
            "CNI argument {key}: holds `;`, `=`, `,` or a control character"
        )));
    }
    Ok(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec())
}

fn is_plain(value: &str) -> bool {
    !value
        .chars()
        .any(|c| c.is_control() || matches!(c, ';' | '=' | ','))
}

/// The value of the variable CNI_ARGS.
pub(super) fn joined(pairs: &[(String, String)]) -> String {
    let joined: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    joined.join(";")
}

/// What the pod offers to plugins that have the capability.
///
/// # Errors
/// `InvalidArgument` for a bandwidth annotation that cannot be meant.
pub(super) fn capabilities(pod: &PodConfig) -> Result<Capabilities> {
    let mut offered = Capabilities::new();
    let mut offer = |name: &str, value: Value| offered.insert(name.to_owned(), value);
    let ports = published(pod);
    if !ports.is_empty() {
        offer("portMappings", Value::Array(ports));
    }
    if let Some(limits) = bandwidth::limits(&pod.annotations)? {
        offer("bandwidth", limits);
    }
    if let Some(dns) = &pod.dns {
        offer(
            "dns",
            json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options}),
        );
    }
    if !pod.cgroup_parent.is_empty() {
        offer("cgroupPath", pod.cgroup_parent.as_str().into());
    }
    offer("io.kubernetes.cri.pod-annotations", json!(pod.annotations));
    Ok(offered)
}

fn published(pod: &PodConfig) -> Vec<Value> {
    let published = pod.port_mappings.iter().filter_map(|mapping| {
        let host_port = mapping.host_port.filter(|port| *port > 0)?;
        Some(json!({
            "hostPort": host_port,
            "containerPort": mapping.container_port,
            "protocol": match mapping.protocol {
                PortProtocol::Tcp => "tcp",
                PortProtocol::Udp => "udp",
                PortProtocol::Sctp => "sctp",
            },
            "hostIP": mapping.host_ip,
        }))
    });
    published.collect()
}

/// The `runtimeConfig` of one plugin: the part of the offer that its configuration asks for.
pub(super) fn runtime_config(plugin: &PluginConfig, offered: &Capabilities) -> Map<String, Value> {
    offered
        .iter()
        .filter(|(name, _)| plugin.has_capability(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::testing::pod;
    use super::*;
    use crate::model::Kind;
    use crate::model::pod::{DnsConfig, PortMapping};

    #[rstest]
    #[case::semicolon("x;K8S_POD_NAMESPACE=kube-system")]
    #[case::equals("x=y")]
    #[case::comma("x,y")]
    #[case::newline("x\ny")]
    #[case::nul("x\0y")]
    #[case::delete("x\u{7f}")]
    #[case::next_line("x\u{85}y")]
    fn separators_are_refused_wherever_they_stand(#[case] bad: &str) {
        let sandbox = SandboxId::generate().unwrap();
        let refused = |edit: fn(&mut PodIdentity, String)| {
            let mut identity = pod().identity;
            edit(&mut identity, bad.to_owned());
            pairs(&sandbox, &identity).unwrap_err().kind()
        };

        for kind in [
            refused(|pod, bad| pod.name = bad),
            refused(|pod, bad| pod.k8s_namespace = bad),
            refused(|pod, bad| pod.uid = bad),
        ] {
            assert_eq!(kind, Kind::InvalidArgument);
        }
    }

    #[test]
    fn the_five_arguments_are_always_there() {
        let sandbox = SandboxId::generate().unwrap();
        let text = joined(&pairs(&sandbox, &pod().identity).unwrap());
        let want = format!(
            "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={sandbox};\
             K8S_POD_UID=uid-1;IgnoreUnknown=1"
        );
        assert_eq!(text, want);
    }

    #[test]
    fn a_pod_offers_what_it_has_and_a_plugin_gets_what_it_asks_for() {
        let mut pod = pod();
        pod.cgroup_parent = "/kubepods/pod1".into();
        pod.dns = Some(DnsConfig {
            servers: vec!["10.0.0.1".into()],
            ..DnsConfig::default()
        });
        for host_port in [Some(8080), Some(0), None] {
            pod.port_mappings.push(PortMapping {
                protocol: PortProtocol::Sctp,
                container_port: 80,
                host_port,
                host_ip: "127.0.0.1".into(),
            });
        }
        let offered = capabilities(&pod).unwrap();

        let port = json!({"hostPort": 8080, "containerPort": 80, "protocol": "sctp", "hostIP": "127.0.0.1"});
        assert_eq!(offered["portMappings"], json!([port]));
        assert_eq!(offered["cgroupPath"], "/kubepods/pod1");
        assert_eq!(offered["io.kubernetes.cri.pod-annotations"], json!({}));
        let plugin = PluginConfig {
            plugin_type: "t".into(),
            object: serde_json::from_value(json!({"capabilities": {"dns": true, "ips": true}}))
                .unwrap(),
        };
        let config = runtime_config(&plugin, &offered);
        let dns = json!({"servers": ["10.0.0.1"], "searches": [], "options": []});
        assert_eq!(Value::Object(config), json!({"dns": dns}));
    }
}
