//! Kernel parameters: only those that belong to a namespace of the pod's own, so that no pod changes the node.

use std::collections::BTreeMap;

use crate::model::Result;
use crate::model::security::{NamespaceMode, Namespaces};

use super::check::{count, refuse, shown, size};

const MAX_SYSCTLS: usize = 256;
const MAX_TEXT: usize = 4096;

/// The namespace that a parameter belongs to.
#[derive(Clone, Copy)]
enum Owner {
    Ipc,
    /// The UTS namespace goes with the network's: a pod on the node's network has the node's host name.
    Uts,
    Network,
}

/// Checks the parameters and spells their keys with dots, the one form that every OCI runtime knows.
pub(super) fn sysctls(
    asked: BTreeMap<String, String>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<String, String>> {
    count("sysctls", asked.len(), MAX_SYSCTLS)?;
    let mut checked = BTreeMap::new();
    for (asked_key, value) in asked {
        let field = format!("sysctls[{}]", shown(&asked_key));
        let key = dotted(&field, &asked_key)?;
        check_owner(&field, &key, namespaces)?;
        size(&field, value.len(), MAX_TEXT)?;
        if value
            .bytes()
            .any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
        {
            return refuse(
                &field,
                format_args!("a value of one line, got {}", shown(&value)),
            );
        }
        if checked.insert(key, value).is_some() {
            return refuse(&field, "each parameter once");
        }
    }
    Ok(checked)
}

/// As sysctl(8) reads it: the first separator decides, and the other one is then part of a name.
fn dotted(field: &str, key: &str) -> Result<String> {
    size(field, key.len(), MAX_TEXT)?;
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || matches!(byte, b'.' | b'_' | b'/' | b'-')
    };
    if !key.bytes().all(allowed) {
        return refuse(field, "lower-case letters, digits, '.', '_', '/' and '-'");
    }
    let slashed = key.find(['.', '/']).and_then(|at| key.as_bytes().get(at)) == Some(&b'/');
    let swap = |c: char| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    let dotted: String = if slashed {
        key.chars().map(swap).collect()
    } else {
        key.to_owned()
    };
    // An empty part would be a step up, or nowhere, in the path below /proc/sys.
    if dotted.split(['.', '/']).any(str::is_empty) {
        return refuse(field, "a parameter's name such as net.core.somaxconn");
    }
    Ok(dotted)
}

fn check_owner(field: &str, key: &str, namespaces: &Namespaces) -> Result<()> {
    let owner = match key {
        "kernel.sem" => Owner::Ipc,
        "kernel.domainname" => Owner::Uts,
        _ if ["kernel.shm", "kernel.msg", "fs.mqueue."]
            .iter()
            .any(|own| key.starts_with(own)) =>
        {
            Owner::Ipc
        }
        _ if key.starts_with("net.") => Owner::Network,
        _ => {
            return refuse(
                field,
                "a parameter of a namespace; this one belongs to the whole node",
            );
        }
    };
    let (mode, what) = match owner {
        Owner::Ipc => (namespaces.ipc, "IPC"),
        Owner::Uts => (namespaces.network, "UTS"),
        Owner::Network => (namespaces.network, "network"),
    };
    if mode == NamespaceMode::Node {
        return refuse(
            field,
            format_args!("a pod with its own {what} namespace; this one uses the node's"),
        );
    }
    Ok(())
}
