//! What a containerd says of itself, and the link to one that hangs or is replaced.

use std::time::Duration;

use futures::StreamExt as _;

use super::Node;
use crate::containerd::LinkState;
use crate::model::Kind;

#[tokio::test]
async fn it_says_its_version_plugins_and_process() {
    let Some(node) = Node::start() else { return };
    let containerd = node.client().await.containerd;

    let version = containerd.introspection.version().await.unwrap();
    let plugins = containerd.introspection.plugins().await.unwrap();
    let features = containerd
        .introspection
        .runtime_features("io.containerd.runc.v2", None)
        .await;

    assert!(version.major >= 1, "{version:?}");
    let overlay = plugins
        .iter()
        .find(|plugin| plugin.id == "overlayfs")
        .unwrap();
    assert_eq!(overlay.kind, "io.containerd.snapshotter.v1");
    assert!(
        plugins
            .iter()
            .all(|plugin| plugin.id != "cri" || plugin.error.is_some())
    );
    let pid = containerd.introspection.server_pid().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name.trim(), "containerd");
    if version.major == 1 {
        assert_eq!(features.unwrap_err().kind(), Kind::Unimplemented);
    }
}

fn signal(node: &Node, signal: &str, pid: u32) {
    let _keeps_it_alive = node;
    let done = std::process::Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    assert!(done.unwrap().success());
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the prober needs a task, and no supervisor is near"
)]
async fn the_link_tells_a_hung_and_a_replaced_containerd() {
    let Some(node) = Node::start() else { return };
    let client = node.quick_client();
    let before = client.containerd.containers.list(None).await.unwrap_err();
    assert_eq!(before.kind(), Kind::Unavailable);
    let prober = tokio::spawn(client.prober.run());
    let (containerd, link) = (client.containerd, client.link);
    let limit = Duration::from_secs(20);
    let first = tokio::time::timeout(limit, link.until_up())
        .await
        .unwrap()
        .unwrap();
    let pid = containerd.introspection.server_pid().unwrap().0;

    signal(&node, "-STOP", pid);
    let mut state = link.subscribe();
    let down = state.wait_for(|state| matches!(state, LinkState::Down { .. }));
    tokio::time::timeout(limit, down).await.unwrap().unwrap();
    let began = std::time::Instant::now();
    let refused = containerd.containers.list(None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(1));

    signal(&node, "-CONT", pid);
    let resumed = tokio::time::timeout(limit, link.until_up())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(resumed, first);
    containerd.containers.list(None).await.unwrap();

    let mut events = containerd.events.subscribe().await.unwrap();
    signal(&node, "-KILL", pid);
    let end = events.next().await.unwrap().unwrap_err();
    assert_eq!(end.kind(), Kind::Unavailable);
    assert!(events.next().await.is_none());
    let replaced = state
        .wait_for(|state| matches!(state, LinkState::Up { generation, .. } if *generation > first));
    tokio::time::timeout(limit, replaced)
        .await
        .unwrap()
        .unwrap();
    assert_ne!(containerd.introspection.server_pid().unwrap().0, pid);
    containerd.containers.list(None).await.unwrap();
    prober.abort();
}
