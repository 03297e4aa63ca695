//! The whole way with Debian's plugins, in namespaces of the test's own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::mount::MsFlags;
use serde_json::json;

use super::super::testing::{live, pod};
use super::*;
use crate::model::pod::{PortMapping, PortProtocol};
use crate::sys::mounts;

const BIN_DIR: &str = "/usr/lib/cni";
const LIMIT: Duration = Duration::from_secs(10);

fn missing() -> Option<String> {
    let plugins = ["bridge", "host-local", "loopback", "portmap"];
    let mut missing = plugins
        .iter()
        .filter(|name| !Path::new(BIN_DIR).join(name).exists());
    missing.next().map(|name| format!("{BIN_DIR}/{name}"))
}

fn settings(root: &Path) -> NetworkSettings {
    NetworkSettings {
        conf_dir: root.join("net.d"),
        bin_dirs: vec![BIN_DIR.into()],
        cache_dir: root.join("cache"),
        netns_dir: root.join("netns"),
        ..NetworkSettings::default()
    }
}

fn configure(root: &Path) {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": "pwtest0", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": root.join("ipam"),
                    "ranges": [[{"subnet": "10.201.7.0/24"}], [{"subnet": "fd00:201:7::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    std::fs::create_dir(root.join("net.d")).unwrap();
    std::fs::write(root.join("net.d/10-pods.conflist"), list.to_string()).unwrap();
}

/// Addresses that the address plugin has given out and not got back.
fn held(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("ipam/pods"))
        .into_iter()
        .flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.starts_with("10.") || name.starts_with("fd00"))
        .collect()
}

fn rules() -> String {
    let output = std::process::Command::new("iptables-save")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A server in the pod that answers one connection.
fn serve_once(netns: &Path, address: SocketAddr) -> std::thread::JoinHandle<()> {
    let listener =
        crate::sys::netns::enter_blocking(netns, || Ok(TcpListener::bind(address).unwrap()))
            .unwrap();
    std::thread::spawn(move || {
        let (mut peer, _from) = listener.accept().unwrap();
        peer.write_all(b"hello").unwrap();
    })
}

fn greeting_from(address: SocketAddr) -> String {
    let mut peer = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    let mut text = String::new();
    peer.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_pod_gets_addresses_and_a_host_port_and_gives_all_back_after_a_reboot() {
    if let Some(missing) = missing() {
        eprintln!("SKIPPED: {missing} is not installed");
        return;
    }
    crate::sys::netns::isolated(|| {
        mounts::tmpfs_blocking(Path::new("/run"), MsFlags::empty(), "size=8m").unwrap();
        let root = tempfile::tempdir().unwrap();
        configure(root.path());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(attach_and_detach(root.path()));
    });
}

async fn attach_and_detach(root: &Path) {
    let settings = settings(root);
    let netns = netns::fresh_path(&settings.netns_dir).unwrap();
    netns::create_blocking(&netns).unwrap();
    let cni = Cni::new(settings.clone().shared(), live());
    cni.refresh().await;
    assert_eq!(cni.status(), NetworkStatus::ready());
    let mut pod = pod();
    pod.port_mappings.push(PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 80,
        host_port: Some(18_080),
        host_ip: String::new(),
    });
    let request = AttachRequest {
        sandbox: &"cd".repeat(32).parse().unwrap(),
        netns: &netns,
        pod: &pod,
    };
    let intent = cni.plan(&request).unwrap();

    let attachment = cni.add(&intent).await.unwrap();

    assert!(attachment.primary_ip.is_ipv4());
    assert_eq!(attachment.additional_ips.len(), 1);
    let eth0 = &attachment.interfaces["eth0"];
    assert_eq!(eth0.sandbox, netns.to_str().unwrap());
    assert!(!eth0.mac.is_empty());
    assert_eq!(held(root).len(), 2);
    let pod_port = SocketAddr::new(attachment.primary_ip, 80);
    let server = serve_once(&netns, pod_port);
    assert_eq!(greeting_from(pod_port), "hello");
    server.join().unwrap();
    assert!(rules().contains("18080"), "{}", rules());

    // The reboot: namespaces and configuration are gone, the files of the pin and of the addresses are not.
    mounts::unmount_blocking(&netns).unwrap();
    std::fs::remove_dir_all(root.join("net.d")).unwrap();
    drop(cni);
    let cni = Cni::new(settings.shared(), live());
    cni.del(&intent, None).await.unwrap();
    cni.del(&intent, Some(&attachment)).await.unwrap();

    assert_eq!(held(root), Vec::<String>::new());
    assert!(!rules().contains("18080"), "{}", rules());
    netns::remove_blocking(&netns).unwrap();
    assert_eq!(std::fs::read_dir(root.join("netns")).unwrap().count(), 0);
    assert_eq!(
        std::fs::read_dir(root.join("cache/results"))
            .unwrap()
            .count(),
        0
    );
}
