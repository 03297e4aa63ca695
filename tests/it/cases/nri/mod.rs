//! NRI plugins: what they hear of pods and containers, and what they change.

mod changes;
mod lives;

use std::time::{Duration, Instant};

use podwright::nri::messages::api;
use podwright::wire::cri;
use tonic::Code;

use crate::case::{Case, Outcome};
use crate::ensure;
use crate::node::{Node, patient};
use crate::plugin::{Answer, Heard, Plugin, refuses, waits};
use crate::pods::{fails, pod, shell, sleeper};

/// Each case on the machine's own containerd, and again on the newest.
macro_rules! on_both {
    ($($name:literal => |$node:ident| $body:expr,)*) => {
        &[
            $(Case::new(concat!("nri.", $name), |$node| Box::pin($body)),)*
            $(Case::new(concat!("nri.newest_", $name), |$node| Box::pin($body)).newest(),)*
            Case::new("nri.adjustments_work_with_crun", |node| {
                Box::pin(changes::adjustments(node, "crun"))
            })
            .needs(&["crun"]),
        ]
    };
}

pub(super) const CASES: &[Case] = on_both! {
    "events_come_in_order_and_say_of_whom" => |node| events(node),
    "adjustments_are_seen_inside" => |node| changes::adjustments(node, ""),
    "other_containers_change_and_go" => |node| changes::others(node),
    "who_hangs_is_dropped_and_the_pod_starts" => |node| hangs(node),
    "a_refusal_leaves_nothing_and_a_retry_works" => |node| refusals(node),
    "nothing_is_visible_while_a_plugin_thinks" => |node| invisible(node),
    "who_comes_late_is_told_of_all_and_so_after_a_restart" => |node| lives::late(node),
    "plugins_of_the_node_are_started_and_ended" => |node| lives::launched(node),
};

fn allow() -> Vec<(&'static str, Answer)> {
    Vec::new()
}

/// The calls that are events, without those after the fact.
fn main_events(plugin: &Plugin) -> Vec<String> {
    let mut events = plugin.events();
    events.retain(|event| !event.starts_with("Validate"));
    events
}

async fn events(node: &Node) -> Outcome {
    let plugin = Plugin::join("10", "watch", allow()).await?;
    let mut config = pod(node, "p");
    config
        .labels
        .insert(String::from("app"), String::from("web"));
    let pod_id = node.run_pod(&config).await?;
    let id = node.run(&pod_id, &config, &sleeper("c")).await?;
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut runtime = node.cri.runtime.clone();
    runtime.update_container_resources(request).await?;
    node.stop(&id, 10).await?;
    node.stop(&id, 10).await?;
    node.remove(&id).await?;
    let short = node.run(&pod_id, &config, &shell("d", "exit 3")).await?;
    node.until_exited(&short).await?;
    let ended = |heard: &[Heard]| {
        heard
            .iter()
            .filter(|one| one.method == "StopContainer")
            .count()
            == 2
    };
    plugin.until(ended).await?;
    node.stop_pod(&pod_id).await?;
    node.stop_pod(&pod_id).await?;
    node.remove_pod(&pod_id).await?;

    let wanted = [
        "RunPodSandbox",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "UpdateContainer",
        "PostUpdateContainer",
        "StopContainer",
        "RemoveContainer",
        "CreateContainer",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "StopContainer",
        "StopPodSandbox",
        "RemoveContainer",
        "RemovePodSandbox",
    ];
    let heard = main_events(&plugin);
    ensure(heard == wanted, || format!("{heard:?}"))?;
    for heard in plugin.heard() {
        if matches!(&*heard.method, "Configure" | "Synchronize") {
            continue;
        }
        judge(&heard, &pod_id)?;
    }
    plugin.leave();
    Ok(())
}

/// Whether an event says of whom it is, and in which state that is.
fn judge(heard: &Heard, pod_id: &str) -> Outcome {
    let pod = &heard.pod;
    let who = (&*pod.id, &*pod.name, &*pod.namespace, &*pod.uid);
    ensure(who == (pod_id, "p", "it", "uid-of-p"), || {
        format!("{who:?}")
    })?;
    ensure(
        pod.labels.get("app").is_some_and(|app| app == "web"),
        || format!("{:?}", pod.labels),
    )?;
    let linux = pod.linux.clone().unwrap_or_default();
    if heard.method == "RunPodSandbox" {
        ensure(
            pod.pid > 0 && pod.ips.len() == 1 && !linux.namespaces.is_empty(),
            || format!("{pod:?}"),
        )?;
    }
    let Some(container) = &heard.container else {
        return ensure(heard.method.ends_with("PodSandbox"), || {
            format!("{heard:?}")
        });
    };
    ensure(
        matches!(&*container.name, "c" | "d")
            && container.id.len() == 64
            && container.pod_sandbox_id == pod_id
            && container.args.first().is_some_and(|arg| arg == "/bin/sh"),
        || format!("{container:?}"),
    )?;
    let image = container.image.clone().unwrap_or_default();
    ensure(
        !image.name.is_empty() && image.config_digest.starts_with("sha256:"),
        || format!("{image:?}"),
    )?;
    use api::ContainerState as State;
    let state = match &*heard.method {
        "CreateContainer" | "ValidateContainerAdjustment" => State::ContainerUnknown,
        "PostCreateContainer" | "StartContainer" => State::ContainerCreated,
        "PostStartContainer" | "UpdateContainer" | "PostUpdateContainer" => State::ContainerRunning,
        _ => State::ContainerStopped,
    };
    ensure(container.state() == state, || {
        format!("{}: {:?}", heard.method, container.state())
    })?;
    let has_pid = matches!(&*heard.method, "StartContainer" | "PostStartContainer");
    ensure(!has_pid || container.pid > 0, || format!("{container:?}"))?;
    if heard.method == "StopContainer" && container.name == "d" {
        ensure(
            container.exit_code == 3 && container.finished_at > 0,
            || format!("{container:?}"),
        )?;
    }
    Ok(())
}

async fn hangs(node: &Node) -> Outcome {
    let long = Duration::from_secs(60);
    let plugin = Plugin::join("10", "slow", vec![("RunPodSandbox", waits(long))]).await?;
    let other = Plugin::join("20", "good", allow()).await?;
    let config = pod(node, "p");
    let began = Instant::now();

    let pod_id = node.run_pod(&config).await?;

    let took = began.elapsed();
    ensure(
        took >= Duration::from_secs(2) && took < patient(Duration::from_secs(10)),
        || format!("the pod took {took:?}"),
    )?;
    ensure(plugin.is_dropped().await, || "it is still there".to_owned())?;
    node.run(&pod_id, &config, &sleeper("c")).await?;
    ensure(
        other.events().contains(&"PostStartContainer".to_owned()),
        || format!("{:?}", other.events()),
    )?;
    ensure(node.podwright.log().contains("10-slow"), || {
        "nothing was said of it".to_owned()
    })?;
    other.leave();
    Ok(())
}

async fn refusals(node: &Node) -> Outcome {
    let config = pod(node, "p");
    let plugin = Plugin::join(
        "10",
        "no",
        vec![("RunPodSandbox", refuses("no pods today"))],
    )
    .await?;
    let refused = node.run_pod(&config).await;
    let said = fails("a refused pod", refused, Code::FailedPrecondition)?;
    ensure(
        said.contains("10-no") && said.contains("no pods today"),
        || said.clone(),
    )?;
    ensure(
        node.pods(cri::PodSandboxFilter::default())
            .await?
            .is_empty(),
        || "the refused pod is listed".to_owned(),
    )?;
    let heard = main_events(&plugin);
    ensure(
        heard == ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"],
        || format!("{heard:?}"),
    )?;
    plugin.leave();

    let plugin = Plugin::join(
        "10",
        "no",
        vec![("CreateContainer", refuses("no containers"))],
    )
    .await?;
    let pod_id = node.run_pod(&config).await?;
    let refused = node.create(&pod_id, &config, &sleeper("c")).await;
    fails("a refused container", refused, Code::FailedPrecondition)?;
    ensure(
        node.containers(cri::ContainerFilter::default())
            .await?
            .is_empty(),
        || "the refused container is listed".to_owned(),
    )?;
    let heard = main_events(&plugin);
    ensure(
        heard
            == [
                "RunPodSandbox",
                "CreateContainer",
                "StopContainer",
                "RemoveContainer",
            ],
        || format!("{heard:?}"),
    )?;
    plugin.leave();

    let plugin = Plugin::join("10", "no", vec![("StartContainer", refuses("not started"))]).await?;
    let id = node.create(&pod_id, &config, &sleeper("c")).await?;
    fails(
        "a refused start",
        node.start(&id).await,
        Code::FailedPrecondition,
    )?;
    let status = node.status(&id).await?;
    ensure(
        status.state() == cri::ContainerState::ContainerExited && status.reason == "StartError",
        || format!("{status:?}"),
    )?;
    plugin.leave();
    let mut again = sleeper("c");
    again.metadata.get_or_insert_default().attempt = 1;
    node.run(&pod_id, &config, &again).await.map(drop)?;
    Ok(())
}

async fn invisible(node: &Node) -> Outcome {
    let pause = Duration::from_millis(1_500);
    let plugin = Plugin::join(
        "10",
        "thinks",
        vec![
            ("RunPodSandbox", waits(pause)),
            ("CreateContainer", waits(pause)),
        ],
    )
    .await?;
    let config = pod(node, "p");
    let hidden = async {
        plugin
            .until(|heard| heard.iter().any(|one| one.method == "RunPodSandbox"))
            .await?;
        let listed = node.pods(cri::PodSandboxFilter::default()).await?;
        let id = plugin
            .heard()
            .last()
            .map(|one| one.pod.id.clone())
            .unwrap_or_default();
        let made = node.create(&id, &config, &sleeper("early")).await;
        ensure(listed.is_empty() && made.is_err(), || {
            format!("{listed:?} {made:?}")
        })
    };
    let (ran, hidden) = tokio::join!(node.run_pod(&config), hidden);
    hidden?;
    let pod_id = ran?;
    let wanted = sleeper("c");
    let hidden = async {
        plugin
            .until(|heard| heard.iter().any(|one| one.method == "CreateContainer"))
            .await?;
        let listed = node.containers(cri::ContainerFilter::default()).await?;
        ensure(listed.is_empty(), || format!("{listed:?}"))
    };
    let (made, hidden) = tokio::join!(node.create(&pod_id, &config, &wanted), hidden);
    hidden?;
    made?;
    plugin.leave();
    Ok(())
}
