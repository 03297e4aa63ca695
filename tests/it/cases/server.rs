//! The server as a program: its socket, its end, its private containerd, and the verbs that look at it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use podwright::wire::cri;

use super::networks::{self, REAL};
use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Daemon, Node, binary, layout};
use crate::pods::pod;

pub(super) const CASES: &[Case] = &[
    Case::new("server.a_live_socket_is_not_taken_over", |node| {
        Box::pin(second_server(node))
    }),
    Case::new("server.a_stop_waits_for_what_runs", |node| {
        Box::pin(drain(node))
    }),
    Case::new("server.ops_tells_what_runs_and_where_it_is", |node| {
        Box::pin(operations(node))
    }),
    Case::new("server.doctor_finds_a_healthy_node_healthy", |node| {
        Box::pin(doctor(node))
    }),
    Case::new("server.the_log_tells_what_each_request_was_about", |node| {
        Box::pin(spans(node))
    }),
    Case::new("server.config_check_names_key_and_line", |node| {
        Box::pin(config_check(node))
    }),
    Case::new(
        "server.a_managed_containerd_is_adopted_after_a_kill",
        |node| Box::pin(managed(node)),
    ),
];

async fn second_server(node: &Node) -> Outcome {
    let config = layout::podwright_config(&node.home);

    let second = node
        .cli(&["serve", "--config", &config.to_string_lossy()])
        .await;

    let complaint = second.err().ok_or("a second server came up")?.to_string();
    ensure(complaint.contains(layout::PODWRIGHT_SOCKET), || complaint)?;
    node.until_ready().await
}

async fn drain(node: &Node) -> Outcome {
    networks::intercept(node, &format!("sleep 2; {REAL}"), REAL).await?;
    let config = pod(node, "slow");
    let (id, stopped) = tokio::join!(node.run_pod(&config), async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        node.podwright.stop().await
    });
    stopped?;
    let id = id?;

    node.podwright.start().await?;
    node.until_ready().await?;

    let status = node.pod_status(&id).await?;
    ensure(status.state() == cri::PodSandboxState::SandboxReady, || {
        format!("{status:?}")
    })
}

async fn operations(node: &Node) -> Outcome {
    networks::intercept(node, &format!("sleep 2; {REAL}"), REAL).await?;
    let config = pod(node, "slow");
    let (id, text) = tokio::join!(node.run_pod(&config), async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        node.cli(&["ops"]).await
    });
    let (id, text) = (id?, text?);

    for wanted in ["RunPodSandbox", "slow"] {
        ensure(text.contains(wanted), || {
            format!("{wanted} is not in:\n{text}")
        })?;
    }
    let quiet = node.cli(&["ops"]).await?;
    ensure(!quiet.contains("RunPodSandbox"), || quiet.clone())?;
    Ok(node.remove_pod(&id).await?)
}

async fn doctor(node: &Node) -> Outcome {
    let config = layout::podwright_config(&node.home);

    let text = node
        .cli(&["doctor", "--config", &config.to_string_lossy()])
        .await?;

    // Debian mends its runc without a new version number, so the doctor cannot know; and its CRIU need not fit this kernel.
    let is_fine = |line: &str| {
        line.starts_with("OK")
            || line.starts_with("      ")
            || line.starts_with("WARN") && (line.contains("/runc ") || line.contains("criu "))
    };
    let wrong: Vec<&str> = text.lines().filter(|line| !is_fine(line)).collect();
    ensure(wrong.is_empty() && text.contains("OK"), || text.clone())
}

/// Whoever reads the log finds every request again, and what it was about.
async fn spans(node: &Node) -> Outcome {
    let config = pod(node, "spanned");
    let pod = node.run_pod(&config).await?;
    let id = node.run(&pod, &config, &crate::pods::sleeper("c")).await?;

    let log = node.podwright.log();
    let line = log
        .lines()
        .find(|line| line.contains("StartContainer") && line.contains("done"))
        .ok_or("the start is not in the log")?;
    for wanted in [
        &id,
        &pod,
        "request.id=",
        "k8s.pod=\"spanned\"",
        "k8s.namespace=\"it\"",
    ] {
        ensure(line.contains(wanted), || format!("no {wanted} in {line}"))?;
    }
    Ok(())
}

async fn config_check(node: &Node) -> Outcome {
    let file = node.home.join("wrong.toml");
    fs::write(
        &file,
        "[server]\nsocket = \"/run/x.sock\"\nsokcet = \"/run/y.sock\"\n",
    )?;

    let checked = node
        .cli(&["config", "check", "--config", &file.to_string_lossy()])
        .await;

    let complaint = checked.err().ok_or("the wrong file passed")?.to_string();
    ensure(
        complaint.contains("sokcet") && complaint.contains('3'),
        || complaint,
    )?;
    let defaults = node.cli(&["config", "default"]).await?;
    fs::write(&file, defaults)?;
    node.cli(&["config", "check", "--config", &file.to_string_lossy()])
        .await
        .map(drop)
}

async fn managed(node: &Node) -> Outcome {
    let socket = "/run/second/podwright.sock";
    let config = node.home.join("second.toml");
    fs::write(
        &config,
        format!(
            "[server]\nsocket = \"{socket}\"\nroot_dir = \"{home}/second\"\nstate_dir = \"/run/second\"\n\
             [managed_containerd]\nroot = \"{home}/second-containerd\"\nstate = \"/run/second-containerd\"\n",
            home = node.home.display()
        ),
    )?;
    let second = Daemon::new(&binary(), &node.home)
        .args([
            PathBuf::from("serve"),
            PathBuf::from("--config"),
            config,
            PathBuf::from("--managed-containerd"),
        ])
        .ready_when_answering(socket);
    let outer = node.processes("containerd")?;
    let import = || async {
        let archive = crate::images::archive("busybox");
        node.cli(&[
            "image",
            "import",
            "--socket",
            socket,
            &archive.to_string_lossy(),
        ])
        .await
    };

    second.start().await?;
    import().await?;
    let first = node.processes("containerd")?;
    second.kill().await?;
    second.start().await?;
    import().await?;
    let adopted = node.processes("containerd")?;
    second.stop().await?;
    for pid in adopted.iter().filter(|pid| !outer.contains(pid)) {
        nix::sys::signal::kill(*pid, Signal::SIGTERM)?;
    }

    ensure(first.len() == outer.len() + 1 && first == adopted, || {
        format!("{outer:?}, then {first:?}, then {adopted:?}")
    })
}
