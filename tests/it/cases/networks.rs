//! CNI: host ports, the host's network, and plugins that fail, babble or hang.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use podwright::wire::cri;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, layout, patient};
use crate::pods::{namespaces, pod, shell, sleeper};

pub(super) const CASES: &[Case] = &[
    Case::new("network.a_host_port_leads_into_the_pod", |node| {
        Box::pin(host_port(node))
    }),
    Case::new("network.the_hosts_network_has_no_pod_ip", |node| {
        Box::pin(host_network(node))
    }),
    Case::new("network.a_failing_plugin_leaves_nothing", |node| {
        let add = r#"echo '{"code": 7, "msg": "no more addresses"}'; exit 1"#;
        Box::pin(broken(node, add, "no more addresses"))
    }),
    Case::new("network.a_babbling_plugin_leaves_nothing", |node| {
        Box::pin(broken(node, "echo this is not JSON", ""))
    }),
    Case::new(
        "network.a_plugin_without_an_address_leaves_nothing",
        |node| Box::pin(broken(node, r#"echo '{"cniVersion": "0.4.0"}'"#, "")),
    ),
    Case::new("network.a_del_that_fails_once_is_made_up_for", |node| {
        Box::pin(del_fails_once(node))
    }),
    Case::new("network.a_babbling_del_counts_as_done", |node| {
        Box::pin(babbling_del(node))
    }),
    Case::new("network.a_hanging_del_holds_up_no_other_pod", |node| {
        Box::pin(hanging_del(node))
    }),
    Case::new("network.a_hanging_add_holds_up_no_other_pod", |node| {
        Box::pin(hanging(node))
    }),
];

const WEB: &str = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";

async fn host_port(node: &Node) -> Outcome {
    let mut config = pod(node, "web");
    config.port_mappings.push(cri::PortMapping {
        protocol: cri::Protocol::Tcp.into(),
        container_port: 80,
        host_port: 8888,
        host_ip: String::new(),
    });
    let id = node.run_pod(&config).await?;
    let ip = node.pod_ip(&id).await?;
    node.run(&id, &config, &shell("web", WEB)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;

    for address in [format!("{ip}:80"), String::from("127.0.0.1:8888")] {
        let text = http_get(&address)
            .await
            .map_err(|e| format!("{address}: {e}"))?;
        ensure(text.ends_with("hello\n"), || {
            format!("{address} says {text}")
        })?;
    }
    node.stop_pod(&id).await?;
    let after = http_get("127.0.0.1:8888").await;
    ensure(after.is_err(), || {
        String::from("the host port still answers after the stop")
    })
}

async fn http_get(address: &str) -> Outcome<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    Ok(tokio::time::timeout(Duration::from_secs(5), exchange).await??)
}

async fn host_network(node: &Node) -> Outcome {
    let mut config = pod(node, "hosted");
    namespaces(&mut config).network = cri::NamespaceMode::Node.into();
    let id = node.run_pod(&config).await?;
    let mut container = sleeper("c");
    crate::pods::security(&mut container)
        .namespace_options
        .get_or_insert_default()
        .network = cri::NamespaceMode::Node.into();
    let container = node.run(&id, &config, &container).await?;

    let status = node.pod_status(&id).await?;
    let inside = node.ask(&container, "readlink /proc/self/ns/net").await?;

    let outside = fs::read_link("/proc/self/ns/net")?.display().to_string();
    ensure(inside == outside, || format!("{inside} is not {outside}"))?;
    ensure(
        status.network.as_ref().is_none_or(|n| n.ip.is_empty()),
        || format!("{status:?}"),
    )?;
    let mode = status
        .linux
        .and_then(|l| l.namespaces)
        .and_then(|n| n.options)
        .map(|o| o.network());
    ensure(mode == Some(cri::NamespaceMode::Node), || {
        format!("mode {mode:?}")
    })
}

/// Does what the bridge plugin does: the trap's configuration is the bridge's but for its type.
pub(super) const REAL: &str =
    "for dir in /opt/cni/bin /usr/lib/cni; do [ -x $dir/bridge ] && exec $dir/bridge; done";

/// Puts a plugin in the bridge's place whose ADD and DEL are these lines of shell.
pub(super) async fn intercept(node: &Node, add: &str, del: &str) -> Outcome {
    fs::create_dir_all(layout::TRAPS)?;
    let script = format!("#!/bin/sh\ncase $CNI_COMMAND in\nADD) {add} ;;\nDEL) {del} ;;\nesac\n");
    let path = format!("{}/trap", layout::TRAPS);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let network = layout::bridge_network().replace(r#""type": "bridge""#, r#""type": "trap""#);
    layout::replace_network(&network)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.until_ready().await
}

async fn broken(node: &Node, add: &str, message: &str) -> Outcome {
    intercept(node, add, "exit 0").await?;

    let result = node.run_pod(&pod(node, "unlucky")).await;

    let status = result.err().ok_or("the pod came up without a network")?;
    ensure(status.message().contains(message), || {
        format!("{message:?} is not in: {status}")
    })?;
    let listed = node.pods(cri::PodSandboxFilter::default()).await?;
    ensure(listed.is_empty(), || format!("listed: {listed:?}"))?;
    restore(node).await?;
    let id = node.run_pod(&pod(node, "unlucky")).await?;
    Ok(node.remove_pod(&id).await?)
}

async fn restore(node: &Node) -> Outcome {
    layout::replace_network(layout::bridge_network())?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.until_ready().await
}

async fn del_fails_once(node: &Node) -> Outcome {
    let del = format!("[ -e /run/failed ] || {{ : > /run/failed; exit 1; }}; {REAL}");
    intercept(node, REAL, &del).await?;
    let id = node.run_pod(&pod(node, "sticky")).await?;

    let first = node.stop_pod(&id).await;
    node.stop_pod(&id).await?;
    node.remove_pod(&id).await?;

    ensure(first.is_err(), || {
        String::from("the first stop claimed success while the address was still taken")
    })
}

async fn hanging(node: &Node) -> Outcome {
    let add = format!("case $CNI_ARGS in *stuck*) sleep 8; exit 1 ;; *) {REAL} ;; esac");
    intercept(node, &add, REAL).await?;
    let config = pod(node, "stuck");
    let stuck = tokio::time::timeout(Duration::from_millis(500), node.run_pod(&config)).await;
    ensure(stuck.is_err(), || format!("{stuck:?}"))?;

    let began = Instant::now();
    let quick = node.run_pod(&pod(node, "quick")).await?;
    let took = began.elapsed();
    let listed = node.pods(cri::PodSandboxFilter::default()).await?;

    ensure(took < patient(Duration::from_secs(3)), || {
        format!("it took {took:?}")
    })?;
    ensure(listed.len() == 1, || format!("listed: {listed:?}"))?;
    node.remove_pod(&quick).await?;
    let joined = node.run_pod(&config).await;
    ensure(joined.is_err(), || {
        String::from("the pod whose plugin fails came up")
    })
}

/// What a DEL prints means nothing: its exit code does.
async fn babbling_del(node: &Node) -> Outcome {
    intercept(node, REAL, &format!("echo this is not JSON; {REAL}")).await?;
    let id = node.run_pod(&pod(node, "chatty")).await?;

    node.stop_pod(&id).await?;

    ensure(node.addresses().is_empty(), || {
        format!("{:?}", node.addresses())
    })
}

async fn hanging_del(node: &Node) -> Outcome {
    let del = format!("case $CNI_ARGS in *stuck*) sleep 6 ;; esac; {REAL}");
    intercept(node, REAL, &del).await?;
    let stuck = node.run_pod(&pod(node, "stuck")).await?;
    let gone = tokio::time::timeout(Duration::from_millis(500), node.stop_pod(&stuck)).await;
    ensure(gone.is_err(), || format!("{gone:?}"))?;

    let began = Instant::now();
    let quick = node.run_pod(&pod(node, "quick")).await?;
    node.remove_pod(&quick).await?;
    let took = began.elapsed();
    let status = node.pod_status(&stuck).await?;

    ensure(took < patient(Duration::from_secs(4)), || {
        format!("it took {took:?}")
    })?;
    ensure(
        status.state() == cri::PodSandboxState::SandboxNotready,
        || format!("{status:?}"),
    )?;
    // The same stop, asked for again, ends with the first one.
    node.stop_pod(&stuck).await?;
    ensure(node.addresses().is_empty(), || {
        format!("{:?}", node.addresses())
    })
}
