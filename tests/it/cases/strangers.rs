//! What is not ours stays as it is.

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::Node;
use crate::pods::pod;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "strangers.ten_containers_of_another_client_survive",
        |node| Box::pin(survive(node)),
    ),
    Case::new("strangers.an_active_cri_plugin_is_refused", |node| {
        Box::pin(cri_plugin(node))
    }),
    Case::new(
        "strangers.a_cri_plugin_that_comes_with_a_restart_makes_the_node_unready",
        |node| Box::pin(cri_plugin_later(node)),
    ),
];

async fn survive(node: &Node) -> Outcome {
    for number in 0..10 {
        let name = format!("stranger-{number}");
        node.ctr(&[
            "containers",
            "create",
            "--label",
            "io.cri-containerd.kind=container",
            crate::images::BUSYBOX,
            &name,
        ])?;
    }
    let before = node.ctr(&["containers", "ls", "-q"])?;

    node.podwright.kill().await?;
    node.podwright.start().await?;
    node.until_ready().await?;
    let id = node.run_pod(&pod(node, "ours")).await?;
    node.remove_pod(&id).await?;
    // The janitor looks every 30 s.
    tokio::time::sleep(std::time::Duration::from_secs(33)).await;

    let after = node.ctr(&["containers", "ls", "-q"])?;
    ensure(before == after, || format!("{before:?} became {after:?}"))?;
    for number in 0..10 {
        let name = format!("stranger-{number}");
        node.ctr(&["containers", "rm", &name])?;
    }
    Ok(())
}

async fn cri_plugin_later(node: &Node) -> Outcome {
    let calm = node.containerd_config()?;
    node.containerd.stop().await?;
    node.set_containerd_config(
        &calm.replace("io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.none"),
    )?;
    node.containerd.start().await?;

    let mut last = String::new();
    for _ in 0..100 {
        last = node.runtime_condition().await?;
        if last.contains("ContainerdUnusable") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    ensure(last.contains("ContainerdUnusable"), || last)?;

    node.containerd.stop().await?;
    node.set_containerd_config(&calm)?;
    node.containerd.start().await?;
    node.until_ready().await
}

async fn cri_plugin(node: &Node) -> Outcome {
    node.podwright.stop().await?;
    node.containerd.stop().await?;
    let calm = node.containerd_config()?;
    node.set_containerd_config(
        &calm.replace("io.containerd.grpc.v1.cri", "io.containerd.grpc.v1.none"),
    )?;
    node.containerd.start().await?;

    node.podwright.refuses().await?;

    ensure(node.podwright.log().contains("disabled_plugins"), || {
        String::from("the log does not say how to disable the plugin")
    })?;
    node.containerd.stop().await?;
    node.set_containerd_config(&calm)?;
    node.containerd.start().await?;
    node.podwright.start().await?;
    node.until_ready().await
}
