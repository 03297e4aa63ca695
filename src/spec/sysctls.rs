//! Kernel parameters of a pod: only those that its own namespaces contain (contract: pods 3.2; CVE-2022-0811).

use std::collections::{BTreeMap, HashMap};

use crate::model::security::{NamespaceMode as Mode, Namespaces};
use crate::model::{Error, Result};

use super::input::SpecOptions;
use super::lexical::has_control;

const MAX_SYSCTLS: usize = 256;
const MAX_VALUE_LEN: usize = 4096;
const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";
const PING_RANGE: &str = "net.ipv4.ping_group_range";

/// `linux.sysctl` of a pause container: what the pod asks, and our two defaults where it has its own network.
///
/// # Errors
/// `InvalidArgument` for a parameter of the node, or of a namespace that the pod shares with the node.
pub(super) fn of_pod(
    asked: &BTreeMap<String, String>,
    namespaces: &Namespaces,
    in_user_namespace: bool,
    options: &SpecOptions,
) -> Result<HashMap<String, String>> {
    if asked.len() > MAX_SYSCTLS {
        return Err(Error::invalid(format!(
            "{} sysctls: at most {MAX_SYSCTLS} are accepted",
            asked.len()
        )));
    }
    let mut all = HashMap::with_capacity(asked.len() + 2);
    for (key, value) in asked {
        check(key, value, namespaces)?;
        all.insert(key.clone(), value.clone());
    }
    if namespaces.network != Mode::Node {
        let mut default = |key: &str, value: &str| {
            let given = asked.keys().any(|given| dotted(given) == key);
            if !given {
                all.insert(key.to_owned(), value.to_owned());
            }
        };
        if options.unprivileged_ports {
            default(PORT_START, "0");
        }
        if options.unprivileged_icmp && !in_user_namespace {
            default(PING_RANGE, "0 2147483647");
        }
    }
    Ok(all)
}

/// Whether a pod asks for parameters of its network namespace, which the OCI runtime writes when it makes the pause
/// container: the interfaces must be there by then.
pub fn concern_network(asked: &BTreeMap<String, String>) -> bool {
    asked.keys().any(|key| dotted(key).starts_with("net."))
}

fn check(key: &str, value: &str, namespaces: &Namespaces) -> Result<()> {
    let well_formed = key
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'/' | b'-'))
        && !key.split(['.', '/']).any(str::is_empty);
    if !well_formed {
        return Err(Error::invalid(format!(
            "sysctl {key:?}: a name is words of a-z, 0-9, _ and -, joined by dots or slashes"
        )));
    }
    if has_control(value) || value.contains('=') || value.len() > MAX_VALUE_LEN {
        return Err(Error::invalid(format!(
            "sysctl {key}: its value holds a control character or `=`, or is longer than {MAX_VALUE_LEN} bytes"
        )));
    }
    let name = dotted(key);
    let own_ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|prefix| name.starts_with(prefix));
    let (namespace, mode) = if own_ipc {
        ("IPC", namespaces.ipc)
    } else if name.starts_with("net.") {
        ("network", namespaces.network)
    } else if name == "kernel.domainname" {
        ("UTS (the network's)", namespaces.network)
    } else {
        return Err(Error::invalid(format!(
            "sysctl {key}: it belongs to the whole node; a pod can set kernel.shm*, kernel.msg*, kernel.sem, \
             kernel.domainname, fs.mqueue.* and net.*"
        )));
    };
    if mode == Mode::Node {
        return Err(Error::invalid(format!(
            "sysctl {key}: the pod shares its {namespace} namespace with the node, so this would change the node"
        )));
    }
    Ok(())
}

/// The dotted spelling. sysctl(8) reads a name as slash-separated where a slash comes before any dot; dots and slashes
/// then swap their parts.
fn dotted(key: &str) -> String {
    match key.find(['.', '/']).and_then(|at| key.get(at..at + 1)) {
        Some("/") => key
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    fn run(pairs: &[(&str, &str)], namespaces: &Namespaces) -> Result<HashMap<String, String>> {
        let asked = pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        of_pod(&asked, namespaces, false, &SpecOptions::default())
    }

    #[test]
    fn parameters_of_the_pods_own_namespaces_pass() {
        let all = run(
            &[
                ("kernel.shm_rmid_forced", "1"),
                ("kernel.sem", "250 32000 32 128"),
                ("kernel.domainname", "x"),
                ("fs.mqueue.msg_max", "100"),
                ("net/ipv4/conf/eth0.100/rp_filter", "1"),
                ("net.ipv4.ping_group_range", "0 1"),
            ],
            &Namespaces::default(),
        )
        .unwrap();

        assert_eq!(all.len(), 7);
        assert_eq!(
            all.get(PING_RANGE).map(String::as_str),
            Some("0 1"),
            "what is asked beats our default"
        );
        assert_eq!(all.get(PORT_START).map(String::as_str), Some("0"));
    }

    #[test]
    fn parameters_of_the_node_and_hostile_ones_are_refused() {
        for (key, value) in [
            ("kernel.core_pattern", "x"),
            ("vm.swappiness", "1"),
            ("net.ipv4.conf.../../kernel.core_pattern", "x"),
            ("net/../kernel/core_pattern", "x"),
            ("net..x", "1"),
            (".net.x", "1"),
            ("net.ipv4.x ", "1"),
            ("net.ipv4.x\n", "1"),
            ("net.ipv4.x\0", "1"),
            ("NET.ipv4.x", "1"),
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=x"),
            ("kernel.shm_rmid_forced", "1\nkernel.core_pattern"),
            ("kernel/core_pattern", "x"),
            ("", "x"),
            ("net", "x"),
        ] {
            let error = run(&[(key, value)], &Namespaces::default()).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{key:?} {value:?}");
        }
    }

    #[test]
    fn a_namespace_shared_with_the_node_takes_no_parameters() {
        let host_ipc = Namespaces {
            ipc: Mode::Node,
            ..Namespaces::default()
        };
        let host_network = Namespaces {
            network: Mode::Node,
            ..Namespaces::default()
        };

        assert!(run(&[("fs.mqueue.msg_max", "1")], &host_ipc).is_err());
        assert!(run(&[("kernel.shmmax", "1")], &host_ipc).is_err());
        assert!(run(&[("net.core.somaxconn", "1")], &host_network).is_err());
        assert!(run(&[("kernel.domainname", "x")], &host_network).is_err());
        assert!(run(&[], &host_network).unwrap().is_empty());
        assert!(run(&[("kernel.shmmax", "1")], &host_network).is_ok());
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let many = |count: usize| -> BTreeMap<String, String> {
            (0..count)
                .map(|n| (format!("net.x{n}"), String::from("1")))
                .collect()
        };
        let run = |asked| {
            of_pod(
                &asked,
                &Namespaces::default(),
                false,
                &SpecOptions::default(),
            )
        };

        assert!(run(many(MAX_SYSCTLS)).is_ok());
        assert!(run(many(MAX_SYSCTLS + 1)).is_err());
    }

    #[test]
    fn only_network_parameters_need_the_network_first() {
        let keys = |key: &str| BTreeMap::from([(key.to_owned(), String::new())]);

        assert!(concern_network(&keys("net/core/somaxconn")));
        assert!(concern_network(&keys("net.core.somaxconn")));
        assert!(!concern_network(&keys("kernel.shmmax")));
    }
}
